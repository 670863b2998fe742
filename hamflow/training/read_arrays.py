"""Some arrays of a checkpoint, by name: for looking into a run, also while another process trains on it."""

import os
import pathlib

import numpy as np
import orbax.checkpoint as ocp

from hamflow._types import checked
from hamflow.training.checkpoint import CorruptCheckpoint
from hamflow.training.checksums import find_damage
from hamflow.training.silence import silence_orbax


@checked
def read_arrays(folder: str | os.PathLike, prefix: str = "", *, step: int | None = None) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, `.ema` for those of the average, and nothing else of them.

    - `folder`: of all checkpoints, as given to `Checkpoints`. Nothing in it is changed, and what is being written there
      is left alone.
    - `step`: of the checkpoint; by default the latest.

    Raises `FileNotFoundError` if there is no such checkpoint, `CorruptCheckpoint` if a file of it is damaged, and
    `ValueError` if no array has such a name.
    """
    folder = pathlib.Path(folder).absolute()
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal()) if folder.is_dir() else []
    if not steps or (step is not None and step not in steps):
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise FileNotFoundError(f"There is {wanted} in {folder}: {f'those there are of {steps}' if steps else 'none'}.")
    place = folder / str(steps[-1] if step is None else step)
    damage = find_damage(place)
    if damage is not None:
        good = [s for s in reversed(steps) if folder / str(s) != place and find_damage(folder / str(s)) is None]
        advice = f" Step {good[0]} is good." if good else ""
        raise CorruptCheckpoint(f"The checkpoint {place} is damaged: {damage}.{advice}")
    silence_orbax()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        names = [name for name in reader.metadata(place / "state").item_metadata.tree if name.startswith(prefix)]
        if not names:
            raise ValueError(f"{place} has no array whose name begins with {prefix!r}.")
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)  # on whatever devices it was saved
        found = ocp.args.PyTreeRestore(
            item=dict.fromkeys(names, 0), restore_args=dict.fromkeys(names, as_numpy), partial_restore=True
        )
        return reader.restore(place / "state", args=found)
