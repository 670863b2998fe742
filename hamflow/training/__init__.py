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
from hamflow.training.compilation_cache import use_compilation_cache as use_compilation_cache
from hamflow.training.cost import (
    StepCost as StepCost,
    measure_cost as measure_cost,
    model_flop_utilisation as model_flop_utilisation,
)
from hamflow.training.data_position import DataPosition as DataPosition
from hamflow.training.ema import (
    AbstractAverage as AbstractAverage,
    ExponentialMovingAverage as ExponentialMovingAverage,
    PowerFunctionAverage as PowerFunctionAverage,
)
from hamflow.training.feed import (
    ReadingFailed as ReadingFailed,
    feed as feed,
    stack as stack,
    stack_sizes as stack_sizes,
)
from hamflow.training.flops import count_flops as count_flops
from hamflow.training.gradient import Loss as Loss
from hamflow.training.interrupt import (
    StopOnSignal as StopOnSignal,
    exit_on_interrupt as exit_on_interrupt,
    resume_command as resume_command,
)
from hamflow.training.lock import RunInUse as RunInUse, lock_run as lock_run
from hamflow.training.mesh import (
    check_batch_size as check_batch_size,
    device_mesh as device_mesh,
    parse_mesh as parse_mesh,
)
from hamflow.training.optimizers import muon as muon
from hamflow.training.origin import NonFiniteOrigin as NonFiniteOrigin, find_origin as find_origin
from hamflow.training.peak_rates import measure_peak_rate as measure_peak_rate, peak_rate as peak_rate
from hamflow.training.processes import (
    StopTogether as StopTogether,
    detect_cluster as detect_cluster,
    from_first_process as from_first_process,
    is_first_process as is_first_process,
    join_processes as join_processes,
)
from hamflow.training.profile import Profile as Profile, check_profile_steps as check_profile_steps
from hamflow.training.progress import Progress as Progress
from hamflow.training.read_arrays import read_arrays as read_arrays
from hamflow.training.reconstruct import (
    reconstruct_average as reconstruct_average,
    reconstruction_weights as reconstruction_weights,
)
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
    Rule as Rule,
    gather as gather,
    largest_axis as largest_axis,
    replicate as replicate,
    replicated as replicated,
    shard as shard,
    shard_batch as shard_batch,
    state_sharding as state_sharding,
)
from hamflow.training.state import TrainState as TrainState, init_state as init_state
from hamflow.training.stats import StatsLog as StatsLog, read_stats as read_stats
from hamflow.training.step import Step as Step, make_step as make_step
from hamflow.training.tensorboard import TensorBoardWriter as TensorBoardWriter
from hamflow.training.trainable import only as only, split as split
from hamflow.training.validation import HeldOutLoss as HeldOutLoss
from hamflow.training.weights_and_biases import WandbWriter as WandbWriter
from hamflow.training.writers import InBackground as InBackground, every as every
