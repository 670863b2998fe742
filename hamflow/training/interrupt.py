"""Ctrl-C: the first finishes the step and saves, the second leaves at once."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any


class StopOnSignal:
    """While it is open, the first Ctrl-C or SIGTERM sets `requested` and changes nothing else; a second ends at once.

    The loop asks `requested` after each step, saves and leaves. The second signal has its default effect, in the
    operating system rather than in Python, so that it works while XLA compiles too. Afterwards the signals do what
    they did before. Signals reach the main thread only; in another thread this raises `ValueError`.

    ```python
    with StopOnSignal() as stop:
        for n in range(num_steps):
            ...
            if stop.requested:
                break
    ```
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def __enter__(self) -> "StopOnSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._first)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        # A progress bar hides the cursor, and a second signal leaves no time to show it again.
        # `print` may not be called here: the signal may have come in the middle of another one.
        cursor = "\x1b[?25h" if os.isatty(2) else ""
        message = f"{cursor}\n{self.signal.name}: finishing this step, then saving. Once more to leave at once.\n"
        os.write(2, message.encode())
