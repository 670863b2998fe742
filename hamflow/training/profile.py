"""A trace of a few steps: what the device does, and what it waits for."""

import os
import re
from types import TracebackType
from typing import final

import jax

from hamflow._paths import as_path
from hamflow._types import PyTree, checked


@final
class Profile:
    """Traces some of the steps of a loop with jax's profiler, into a folder that TensorBoard, XProf or Perfetto shows.

    - `folder`: made when the trace begins, for example `run / "profile"`.
    - `steps`: `"10:20"` traces ten steps, from the eleventh that this loop makes on; a resumed run counts anew. Leave
      out those that compile. None or `""` traces nothing.

    Call it before each step with the state (or anything else that is made by the steps so far), which is waited for
    where the trace begins and where it ends. A loop that ends earlier ends the trace; `outcome` says what became of it.
    Raises `ValueError` for steps that cannot be read.

    ```python
    with Profile(run / "profile", "10:20") as profile:
        for batch in batches:
            profile(state)
            state, metrics = step(state, batch, key)
    print(profile.outcome)
    ```
    """

    @checked
    def __init__(self, folder: str | os.PathLike, steps: str | None):
        self.folder = as_path(folder)
        self._first, self._end = check_profile_steps(steps) or (None, None)
        self._num_steps, self._tracing, self._num_traced = 0, False, 0

    def __call__(self, pending: PyTree = None) -> None:
        """Begin or end the trace if it is time; `pending` is what the steps so far have made."""
        if self._num_steps == self._first:
            jax.block_until_ready(pending)
            jax.profiler.start_trace(self.folder)
            self._tracing = True
        elif self._num_steps == self._end:
            self.close(pending)
        self._num_steps += 1

    @property
    def outcome(self) -> str:
        """What was traced, in a sentence; empty if nothing was asked for."""
        if self._first is None:
            return ""
        if self._num_traced:
            return f"{self.folder}: a trace of {_count(self._num_traced)}"
        return f"no trace: the loop ended after {_count(self._num_steps)}, and {self._first}:{self._end} was asked for"

    def close(self, pending: PyTree = None) -> None:
        """End the trace if one is going on."""
        if self._tracing:
            jax.block_until_ready(pending)
            self._tracing = False
            assert self._first is not None
            self._num_traced = self._num_steps - self._first
            jax.profiler.stop_trace()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@checked
def check_profile_steps(steps: str | None) -> tuple[int, int] | None:
    """The first step to trace and the one after the last, or None for None and `""`, before anything is made.

    Raises `ValueError` for steps that cannot be read: no two whole numbers, or none between them.
    """
    if not steps:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", steps, re.ASCII)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(
            f"steps is {steps!r}: two whole numbers as in 10:20, the first step and the one after the last."
        )
    return int(match[1]), int(match[2])


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"
