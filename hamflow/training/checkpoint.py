"""Checkpoints: the whole training state on the disk, complete or not there, and checked before it is used.

Orbax writes the arrays, beside the training if asked to, and renames a folder into place when it is complete. It does
not notice a flipped byte, so a list of the sha256 of all files is added to each folder, and checked by `restore`.

    checkpoints/300/state/...           the arrays, by their place in the state: `.model.layers[0].weight`
    checkpoints/300/position/...        JSON: the place in the data, the metrics, and the format
    checkpoints/300/sha256.json         the checksums
"""

import math
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from hamflow._paths import as_path
from hamflow._types import Array, Key, checked
from hamflow.training.checksums import find_damage, write_checksums
from hamflow.training.keeping import preservation_policy, saved_metrics
from hamflow.training.silence import silence_orbax
from hamflow.training.state import TrainState
from hamflow.training.state_arrays import abstract, as_stored, named_arrays, refuse_local, replace_arrays, restored_as

FORMAT = 1

_NO_GOOD_ONE = "No older one is good: copy this one back from where you keep another, or start a new run."


class CorruptCheckpoint(ValueError):
    """The files of a checkpoint are not those that were written."""


class Checkpoints:
    """The checkpoints of one run.

    - `folder`: where they lie; it is made if it is not there.
    - `keep`: how many of the latest to keep. `keep_every`: keep those of every so many steps for ever.
    - `keep_best`: how many of the best to keep, by the number called `metric` among the `metrics` that `save` is given;
      the lowest, or with `higher_is_better` the highest. A checkpoint that was saved without metrics is not among them,
      and one whose number is not finite comes last.
    - `asynchronous`: write while the training goes on. `close` waits, and so does the next `save`; an error in writing
      (a full disk) is raised there.

    ```python
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(state, key, {"seed": 0}, metrics={"loss": 0.31})
        state, key, position = checkpoints.restore(state, key)
    ```
    """

    @checked
    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        keep: int = 2,
        keep_every: int | None = None,
        keep_best: int = 0,
        metric: str = "loss",
        higher_is_better: bool = False,
        asynchronous: bool = True,
    ):
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least one checkpoint is kept.")
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"keep_every is {keep_every}: it must be 1 or more, or None to keep none for ever.")
        if keep_best < 0:
            raise ValueError(f"keep_best is {keep_best}: it must be 0 or more.")
        silence_orbax()
        self.folder = as_path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except PermissionError:
            raise PermissionError(f"{self.folder} cannot be made: you may not write there.") from None
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(f"{self.folder} is not a folder.") from None
        except OSError as error:
            raise OSError(f"{self.folder} cannot be made ({error.strerror}).") from None
        self._metric = metric if keep_best else None
        self._metrics = {} if self._metric is None else saved_metrics(self.folder)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy(
                keep, keep_every, keep_best, metric, higher_is_better, self._metrics
            ),
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._write_checksums,
                # Else threads that wait for a folder which cannot be made keep the process from ending, for minutes.
                create_directories_asynchronously=False,
            ),
            cleanup_tmp_directories=True,  # what a kill left half-written
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "position": ocp.JsonCheckpointHandler()}
        self._asynchronous = asynchronous
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """The steps there is a complete checkpoint of, in order."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        state: TrainState,
        key: Key[Array, ""],
        position: Mapping[str, Any] | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the state after `state.step` steps, the key of the run, and a JSON position (see `DataPosition`).

        `metrics`: numbers by their names, of which `keep_best` looks at one; they come back as `position["metrics"]`.

        A step that is there already is left as it is. Raises `ValueError` if there is a later one, which is of another
        history than this state, if the metric of `keep_best` is not among `metrics`, or, of several processes, for an
        array that lies on devices of this one alone, and `OSError` if it cannot be written.
        """
        numbers = None if metrics is None else {name: float(value) for name, value in metrics.items()}
        if self._metric is not None and numbers is not None and self._metric not in numbers:
            raise ValueError(f"keep_best looks at the metric {self._metric!r}, and there are only {sorted(numbers)}.")
        named = named_arrays(state, key)
        refuse_local(named)
        self._wait()
        step = int(state.step)
        steps = self.steps()
        if step in steps:
            return
        if steps and steps[-1] > step:
            raise ValueError(
                f"{self.folder} has a checkpoint of step {steps[-1]}, and this state is of step {step}: "
                "resume from there, or move it away."
            )
        arrays = {name: as_stored(leaf) for name, leaf in named.items()}
        content = {"format": FORMAT, "step": step, **(position or {})}
        if numbers is not None:
            # JSON knows no inf and no nan.
            content["metrics"] = {name: x if math.isfinite(x) else repr(x) for name, x in numbers.items()}
            self._metrics[step] = content["metrics"]
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(arrays), position=ocp.args.JsonSave(content)),
            )
        except OSError as error:
            raise self._not_written(error) from error
        if not self._asynchronous:
            self._wait()

    def restore(
        self, like: TrainState, key: Key[Array, ""], *, step: int | None = None
    ) -> tuple[TrainState, Key[Array, ""], dict[str, Any]]:
        """Read the state after `step` steps, of the latest checkpoint by default, with the key and the position.

        `like` is a state of the same structure: its arrays (or `ShapeDtypeStruct`s) say where the new ones go, so a
        run saved on two devices goes on on one, or on eight, and everything that is no array is taken from it.

        Raises `FileNotFoundError` if there is no checkpoint, `CorruptCheckpoint` if a file of it is damaged, and
        `ValueError` if it is of another model or optimiser.
        """
        self._manager.wait_until_finished()
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            advice = f"those there are of {steps}" if steps else "nothing was saved yet, so start a new run"
            raise FileNotFoundError(f"There is {wanted} in {self.folder}: {advice}.")
        step = steps[-1] if step is None else step
        self._refuse_damage(step, steps)
        wanted = named_arrays(like, key)
        self._refuse_mismatch(step, {name: abstract(leaf) for name, leaf in wanted.items()})
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore({name: abstract(leaf) for name, leaf in wanted.items()}),
                position=ocp.args.JsonRestore(),
            ),
        )
        found = restored["position"].get("format")
        if found != FORMAT:
            raise ValueError(f"{self.folder / str(step)} has format {found}, and this hamflow reads {FORMAT}.")
        leaves = {name: restored_as(leaf, restored["state"][name]) for name, leaf in wanted.items()}
        return replace_arrays(like, leaves), leaves["key"], restored["position"]

    def close(self) -> None:
        """Wait for what is being written, and raise what went wrong."""
        try:
            self._wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _wait(self) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error
        self._write_checksums(unfinished=False)  # are there already, unless another orbax forgets to ask for them

    def _not_written(self, error: Exception) -> OSError:
        said = str(error).partition(" [tensorstore_spec=")[0]  # and then a page of JSON
        # Not the manager's: a full disk leaves it in the middle of things.
        before = any(path.name.isdecimal() for path in self.folder.glob("*"))
        advice = (
            "Those before it are as they were: mend that, and resume."
            if before
            else "There is none before it: mend that, and start a new run."
        )
        return OSError(f"A checkpoint could not be written to {self.folder}: {said}. {advice}")

    def _write_checksums(self, *, unfinished: bool = True) -> None:
        # Orbax asks when all files are there, and renames `300.orbax-checkpoint-tmp` to `300` afterwards.
        for folder in self.folder.iterdir():
            step, dot, _ = folder.name.partition(".")
            if step.isdecimal() and (unfinished or not dot):
                write_checksums(folder)

    def _refuse_damage(self, step: int, steps: list[int]) -> None:
        damage = find_damage(self.folder / str(step))
        if damage is None:
            return
        good = [other for other in reversed(steps) if other < step and find_damage(self.folder / str(other)) is None]
        advice = f"Step {good[0]} is good: move {step} away to resume from there." if good else _NO_GOOD_ONE
        raise CorruptCheckpoint(f"The checkpoint {self.folder / str(step)} is damaged: {damage}. {advice}")

    def _refuse_mismatch(self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]) -> None:
        metadata = self._manager.item_metadata(step)["state"]
        saved = {name: (tuple(entry.shape), jnp.dtype(entry.dtype)) for name, entry in metadata.items()}
        ours = {name: (leaf.shape, leaf.dtype) for name, leaf in wanted.items()}
        lines = [
            f"  {name}: {_describe(saved.get(name))} in the checkpoint, {_describe(ours.get(name))} now"
            for name in [*saved, *(name for name in ours if name not in saved)]
            if saved.get(name) != ours.get(name) and not _is_widened(name, saved.get(name), ours.get(name))
        ]
        if lines:
            more = f"\n  ... and {len(lines) - 5} more" if len(lines) > 5 else ""
            raise ValueError(
                f"{self.folder / str(step)} is of another model or optimiser:\n" + "\n".join(lines[:5]) + more
            )


def _is_widened(name: str, saved: tuple | None, ours: tuple | None) -> bool:
    """Whether an average or a moment was saved in half precision, as before hamflow kept them in float32."""
    if saved is None or ours is None or saved[0] != ours[0] or name.startswith(".model"):
        return False
    return ours[1] == jnp.float32 and saved[1] in (jnp.bfloat16, jnp.float16)


def _describe(entry: tuple[tuple[int, ...], Any] | None) -> str:
    return "absent" if entry is None else f"{entry[1]}[{','.join(map(str, entry[0]))}]"
