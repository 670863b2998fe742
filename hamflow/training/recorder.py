"""The numbers of each step on their way from the device to a log, a few steps late so that nothing waits for them."""

import collections
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np

from hamflow._types import checked
from hamflow.training.dispatch import failed_checks_named

Record = dict[str, Any]
"""The metrics of one step as Python numbers, and the `seconds` since the recorder was made after which they were read,
which are the same for steps that were stacked."""


class NonFiniteLoss(FloatingPointError):
    """A loss or a gradient was not finite. The update was not applied: the state is that after `step` steps.

    `record`: the metrics. `batch_indices` and `batch`: what the recorder was given with them. `skipped`: 0, or of a
    recorder that skips, how many steps in a row were not finite, this one the last.
    """

    def __init__(self, step: int, record: Record, batch_indices: Any, batch: Any = None, *, skipped: int = 0):
        self.step, self.record, self.batch_indices = step, record, batch_indices
        self.batch, self.skipped = batch, skipped
        indices = "unknown" if batch_indices is None else np.array2string(np.asarray(batch_indices), separator=", ")
        steps = "1 step" if step == 1 else f"{step} steps"
        applied = f"The update was not applied, the state is that after {steps}."
        if skipped:
            applied = f"The update was skipped, {skipped} in a row now, {step - skipped + 1} the first of them."
        super().__init__(
            f"Step {step}: the loss is {record['loss']} and the norm of its gradient {record['grad_norm']}. "
            f"{applied} Indices of the batch: {indices}. "
            "Look at these examples, or try a smaller learning rate."
        )


class Recorder:
    """Hands the metrics of each step to functions that write them down, in order and each once.

    ```python
    record = Recorder(stats.write, progress.update)
    for batch in batches:
        state, metrics = step(state, batch, key)
        record(metrics, batch["index"], batch=batch)
    record.flush()
    ```

    The metrics of step n are read when step n + `lag` has been started. So the device always has work while the host
    reads, and the host is never more than `lag` steps ahead. A step that was not finite raises `NonFiniteLoss`, also
    if steps after it were started: the state has not moved since.

    With `on_nonfinite="skip"`, as given to `make_step`, such a step is not written down but counted in `num_skipped`
    (and so in all later records, as `skipped`), and `on_skip` is called with the error. After `max_skipped` of them in
    a row the error is raised all the same: then it is not the odd batch that is bad. A resumed run counts anew.

    The metrics of steps that are stacked (`make_step(..., stacked=True)`) are taken apart: one record a step, and an
    error of one step and its batch. `lag` counts calls then.
    """

    @checked
    def __init__(
        self,
        *writers: Callable[[Record], None],
        lag: int = 2,
        on_nonfinite: Literal["stop", "skip"] = "stop",
        max_skipped: int = 10,
        on_skip: Callable[[NonFiniteLoss], None] | None = None,
    ):
        if lag < 0:
            raise ValueError(f"lag is {lag}: it must not be negative.")
        if max_skipped < 1:
            raise ValueError(f"max_skipped is {max_skipped}: it must be 1 or more.")
        self._writers, self._lag = writers, lag
        self._skip, self._max_skipped, self._on_skip = on_nonfinite == "skip", max_skipped, on_skip
        self._in_a_row, self.num_skipped = 0, 0
        self._waiting: collections.deque[tuple[Mapping[str, Any], Any, Any, int | None]] = collections.deque()
        self._start = time.monotonic()

    def __call__(self, metrics: Mapping[str, Any], batch_indices: Any = None, *, batch: Any = None) -> None:
        """Take the metrics of a step that was just started, and write down those of an earlier one.

        `batch_indices`: which examples it was given, for the error message. `batch`: the batch itself, in the host's
        memory, for `save_bundle`; the last `lag` + 1 of them are held. Of stacked steps all have the steps as their
        first axis. Raises `ValueError` if these axes differ.
        """
        num_steps = _num_steps(metrics, batch_indices, batch)
        for value in metrics.values():
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        self._waiting.append((metrics, batch_indices, batch, num_steps))
        while len(self._waiting) > self._lag:
            self._write_oldest()

    def flush(self) -> None:
        """Wait for all steps started and write them down: before a checkpoint, and at the end."""
        while self._waiting:
            self._write_oldest()

    def _write_oldest(self) -> None:
        metrics, batch_indices, batch, num_steps = self._waiting.popleft()
        names = [*(name for name in ("step", "images", "loss") if name in metrics), *metrics]  # jit sorts them
        with failed_checks_named():
            read = {name: np.asarray(metrics[name]) for name in dict.fromkeys(names)}
        seconds = round(time.monotonic() - self._start, 3)
        if num_steps is None:
            self._write({name: value.item() for name, value in read.items()}, batch_indices, batch, seconds)
            return
        for i in range(num_steps):
            record = {name: value[i].item() if value.ndim else value.item() for name, value in read.items()}
            indices = None if batch_indices is None else np.asarray(batch_indices)[i]
            row = jax.tree.map(lambda leaf, i=i: leaf[i] if eqx.is_array(leaf) else leaf, batch)
            self._write(record, indices, row, seconds)

    def _write(self, record: Record, batch_indices: Any, batch: Any, seconds: float) -> None:
        if not record.pop("finite", True):
            self._not_finite(record, batch_indices, batch)
            return
        self._in_a_row = 0
        if self.num_skipped:
            record["skipped"] = self.num_skipped
        record["seconds"] = seconds
        for write in self._writers:
            write(record)

    def _not_finite(self, record: Record, batch_indices: Any, batch: Any) -> None:
        if self._skip:
            self.num_skipped += 1
            self._in_a_row += 1
        error = NonFiniteLoss(record["step"], record, batch_indices, batch, skipped=self._in_a_row)
        if not self._skip or self._in_a_row >= self._max_skipped:
            self._waiting.clear()
            raise error
        if self._on_skip is not None:
            self._on_skip(error)


def _num_steps(metrics: Mapping[str, Any], batch_indices: Any, batch: Any) -> int | None:
    """How many steps are stacked in these metrics; None if it is one that is not."""
    shapes = {name: value.shape for name, value in metrics.items() if getattr(value, "shape", ())}
    if not shapes:
        return None
    shape = next(iter(shapes.values()))
    if len(shape) > 1 or len(set(shapes.values())) > 1:
        raise ValueError(f"The metrics of stacked steps have one axis, that of the steps, and these are {shapes}.")
    given = [] if batch_indices is None else [np.shape(batch_indices)]
    given += [leaf.shape for leaf in jax.tree.leaves(batch) if eqx.is_array(leaf)]
    for other in given:
        if other[:1] != shape:
            raise ValueError(
                f"The metrics are of {shape[0]} stacked steps, and an array of their batches has the shape {other}: "
                "its first axis is that of the steps too."
            )
    return shape[0]
