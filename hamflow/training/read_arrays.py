"""Some arrays of a checkpoint, by name: for looking into a run, also while another process trains on it."""

import os
import pathlib
import time

import numpy as np
import orbax.checkpoint as ocp

from hamflow._paths import as_path
from hamflow._types import checked
from hamflow.training.checkpoint import CorruptCheckpoint
from hamflow.training.checksums import find_damage
from hamflow.training.silence import silence_orbax


@checked
def read_arrays(folder: str | os.PathLike, prefix: str = "", *, step: int | None = None) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, `.ema` for those of the average, and nothing else of them.

    - `folder`: of all checkpoints, as given to `Checkpoints`. Nothing in it is changed, and what is being written there
      is left alone.
    - `step`: of the checkpoint; by default the latest. If the training deletes that meanwhile, the one that is the
      latest by then.

    Raises `FileNotFoundError` if there is no such checkpoint (any more), `CorruptCheckpoint` if a file of it is
    damaged, and `ValueError` if no array has such a name.
    """
    folder = as_path(folder).absolute()
    silence_orbax()
    for _ in range(_ATTEMPTS):
        steps = _steps(folder)
        if not steps or (step is not None and step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            there = f"those there are of {steps}" if steps else "none"
            raise FileNotFoundError(f"There is {wanted} in {folder}: {there}.")
        chosen = steps[-1] if step is None else step
        try:
            return _read(folder, chosen, steps, prefix)
        except Exception:  # a folder that is deleted meanwhile breaks in many ways, and none names the reason
            if not _is_cleaned_up(folder, chosen, wait=step is not None):
                raise
    raise FileNotFoundError(f"The checkpoints in {folder} are deleted faster than they can be read: keep more of them.")


_ATTEMPTS = 5
_SECONDS_TO_DELETE = 1.0


def _steps(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal()) if folder.is_dir() else []


def _is_cleaned_up(folder: pathlib.Path, step: int, *, wait: bool) -> bool:
    """Whether the training beside this deletes a checkpoint: it is gone, or going, and there are newer ones."""
    for _ in range(10):
        steps = _steps(folder)
        if step not in steps:
            return True
        if step == steps[-1]:
            return False  # the newest is never deleted
        if not wait:
            return True  # the newest is wanted, and there is a newer one
        time.sleep(_SECONDS_TO_DELETE / 10)  # it may be gone in a moment, or else it is broken
    return False


def _read(folder: pathlib.Path, step: int, steps: list[int], prefix: str) -> dict[str, np.ndarray]:
    place = folder / str(step)
    damage = find_damage(place)
    if damage is not None:
        good = [s for s in reversed(steps) if s != step and find_damage(folder / str(s)) is None]
        advice = f" Step {good[0]} is good." if good else ""
        raise CorruptCheckpoint(f"The checkpoint {place} is damaged: {damage}.{advice}")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        names = [name for name in reader.metadata(place / "state").item_metadata.tree if name.startswith(prefix)]
        if not names:
            raise ValueError(f"{place} has no array whose name begins with {prefix!r}.")
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)  # on whatever devices it was saved
        found = ocp.args.PyTreeRestore(
            item=dict.fromkeys(names, 0), restore_args=dict.fromkeys(names, as_numpy), partial_restore=True
        )
        return reader.restore(place / "state", args=found)
