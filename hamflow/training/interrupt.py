"""Ctrl-C and SIGTERM: the first finishes the step and saves, the second leaves at once. And how to go on after that.

A run that was stopped leaves with the exit code 128 + the number of the signal, as shells have it: 130 after Ctrl-C,
143 after SIGTERM (what `kill`, Slurm and Kubernetes send). A second signal ends the process itself, which a shell calls
130 or 143 too, and Python's subprocess -2 or -15. Every step that was started is in the checkpoint, or, after a second
signal and after SIGKILL, every step up to the newest complete checkpoint.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
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
        checkpoints.save(state, key)
    if stop.requested:
        sys.exit(stop.exit_code)
    ```
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What to leave with: 130 after Ctrl-C, 143 after SIGTERM, 0 if no signal came."""
        return 0 if self.signal is None else 128 + self.signal

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


@contextlib.contextmanager
def exit_on_interrupt(message: str) -> Iterator[None]:
    """Let Ctrl-C end the program with a message and the exit code 130, as shells expect, and without a traceback.

    ```python
    with exit_on_interrupt("The training is saved; no samples were drawn."):
        samples = generate(...)
    ```
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{message}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def resume_command(folder: str | os.PathLike, *arguments: str, words: Sequence[str] = ()) -> str:
    """The command that goes on with a run, to be pasted: this script as it was called, `--resume folder`, and more.

    Quoted for a shell, and good in the folder that the script was started in. `words`: in place of the script, such as
    `hamflow train faces`.
    """
    if words:
        return shlex.join([*words, "--resume", os.fspath(folder), *arguments])
    script, called = sys.argv[0], sys.orig_argv
    # With its interpreter and that one's options, unless something else found the script (`python -m`, a test).
    start = called[: called.index(script) + 1] if script in called else ["python", script]
    return shlex.join([*start, "--resume", os.fspath(folder), *arguments])
