"""Training: pieces for a loop that a script writes out. They see `loss(model, batch, key) -> (scalar, metrics)` only.

This room imports no physics, and needs the `train` extra.
"""

try:
    import optax as _optax  # noqa: F401
    import orbax.checkpoint as _orbax  # noqa: F401
    import rich as _rich  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"hamflow.training needs {error.name}: pip install 'hamflow[train]'.", name=error.name
    ) from None

from hamflow.training.bundle import read_bundle as read_bundle, replay as replay, save_bundle as save_bundle
from hamflow.training.checkpoint import Checkpoints as Checkpoints, CorruptCheckpoint as CorruptCheckpoint
from hamflow.training.command_line import in_flags as in_flags
from hamflow.training.data_position import DataPosition as DataPosition
from hamflow.training.ema import ExponentialMovingAverage as ExponentialMovingAverage
from hamflow.training.interrupt import (
    StopOnSignal as StopOnSignal,
    exit_on_interrupt as exit_on_interrupt,
    resume_command as resume_command,
)
from hamflow.training.lock import RunInUse as RunInUse, lock_run as lock_run
from hamflow.training.optimizers import muon as muon
from hamflow.training.origin import NonFiniteOrigin as NonFiniteOrigin, find_origin as find_origin
from hamflow.training.progress import Progress as Progress
from hamflow.training.recorder import NonFiniteLoss as NonFiniteLoss, Record as Record, Recorder as Recorder
from hamflow.training.run_folder import (
    FREE_FIELDS as FREE_FIELDS,
    check_outdir as check_outdir,
    check_ranges as check_ranges,
    check_same_config as check_same_config,
    make_run_folder as make_run_folder,
    read_config as read_config,
    update_config as update_config,
)
from hamflow.training.schedule import learning_rate_schedule as learning_rate_schedule
from hamflow.training.sharding import (
    check_batch_size as check_batch_size,
    data_mesh as data_mesh,
    replicate as replicate,
    replicated as replicated,
    shard_batch as shard_batch,
)
from hamflow.training.state import TrainState as TrainState, init_state as init_state
from hamflow.training.stats import StatsLog as StatsLog, read_stats as read_stats
from hamflow.training.step import Loss as Loss, Step as Step, make_step as make_step
from hamflow.training.trainable import only as only, split as split
