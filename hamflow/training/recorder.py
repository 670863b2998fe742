"""The numbers of each step on their way from the device to a log, a few steps late so that nothing waits for them."""

import collections
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from hamflow._types import checked
from hamflow.training.dispatch import failed_checks_named

Record = dict[str, Any]
"""The metrics of one step as Python numbers, and `seconds` since the recorder was made."""


class NonFiniteLoss(FloatingPointError):
    """A loss or a gradient was not finite. The update was not applied: the state is that after `step` steps."""

    def __init__(self, step: int, record: Record, batch_indices: Any):
        self.step, self.record, self.batch_indices = step, record, batch_indices
        indices = "unknown" if batch_indices is None else np.array2string(np.asarray(batch_indices), separator=", ")
        steps = "1 step" if step == 1 else f"{step} steps"
        super().__init__(
            f"Step {step}: the loss is {record['loss']} and the norm of its gradient {record['grad_norm']}. "
            f"The update was not applied, the state is that after {steps}. Indices of the batch: {indices}. "
            "Look at these examples, or try a smaller learning rate."
        )


class Recorder:
    """Hands the metrics of each step to functions that write them down, in order and each once.

    ```python
    record = Recorder(stats.write, progress.update)
    for batch in batches:
        state, metrics = step(state, batch, key)
        record(metrics, batch["index"])
    record.flush()
    ```

    The metrics of step n are read when step n + `lag` has been started. So the device always has work while the host
    reads, and the host is never more than `lag` steps ahead. A step that was not finite raises `NonFiniteLoss`, also
    if steps after it were started: the state has not moved since.
    """

    @checked
    def __init__(self, *writers: Callable[[Record], None], lag: int = 2):
        if lag < 0:
            raise ValueError(f"lag is {lag}: it must not be negative.")
        self._writers, self._lag = writers, lag
        self._waiting: collections.deque[tuple[Mapping[str, Any], Any]] = collections.deque()
        self._start = time.monotonic()

    def __call__(self, metrics: Mapping[str, Any], batch_indices: Any = None) -> None:
        """Take the metrics of a step that was just started, and write down those of an earlier one.

        `batch_indices`: which examples it was given, for the error message.
        """
        for value in metrics.values():
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        self._waiting.append((metrics, batch_indices))
        while len(self._waiting) > self._lag:
            self._write_oldest()

    def flush(self) -> None:
        """Wait for all steps started and write them down: before a checkpoint, and at the end."""
        while self._waiting:
            self._write_oldest()

    def _write_oldest(self) -> None:
        metrics, batch_indices = self._waiting.popleft()
        names = [*(name for name in ("step", "images", "loss") if name in metrics), *metrics]  # jit sorts them
        with failed_checks_named():
            record = {name: np.asarray(metrics[name]).item() for name in dict.fromkeys(names)}
        if not record.pop("finite", True):
            self._waiting.clear()
            raise NonFiniteLoss(record["step"], record, batch_indices)
        record["seconds"] = round(time.monotonic() - self._start, 3)
        for write in self._writers:
            write(record)
