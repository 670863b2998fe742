"""Ctrl-C, SIGTERM and SIGHUP: the first finishes the step and saves, the second leaves at once. And how to go on then.

A run that was stopped leaves with the exit code 128 + the number of the signal, as shells have it: 130 after Ctrl-C,
143 after SIGTERM (what `kill`, Slurm and Kubernetes send), 129 after SIGHUP (the terminal was closed, or ssh dropped).
A second signal ends the process itself, which a shell calls 130 or 143 too, and Python's subprocess -2 or -15. Every
step that was started is in the checkpoint, or, after a second signal and after SIGKILL, every step up to the newest
complete checkpoint.

A terminal that is closed may say so twice, once by its shell and once by the kernel: a SIGHUP that is not the first
signal changes nothing. Where it is ignored already, as under `nohup`, it stays ignored, and the run goes on.
"""

import atexit
import contextlib
import os
import select
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

# Windows has none.
_HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)


class StopOnSignal:
    """While it is open, the first Ctrl-C, SIGTERM or SIGHUP sets `requested` and changes nothing else.

    The loop asks `requested` after each step, saves and leaves. A second Ctrl-C or SIGTERM ends at once: it has its
    default effect, in the operating system rather than in Python, so that it works while XLA compiles too. Afterwards
    the signals do what they did before. After a SIGHUP, what is written to a terminal that is gone, or to a pipe that
    nobody reads, goes nowhere, rather than ending the run with an error before it has saved.

    Signals reach the main thread only; in another thread this raises `ValueError`.

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
        """What to leave with: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 0 if no signal came."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> "StopOnSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._first)
        if _HANG_UP is not None and signal.getsignal(_HANG_UP) is not signal.SIG_IGN:
            self._before[_HANG_UP] = signal.signal(_HANG_UP, self._first)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        for each in self._before:
            signal.signal(each, signal.SIG_IGN if each is _HANG_UP else signal.SIG_DFL)
        if self.signal is _HANG_UP:
            _forget_what_is_gone()
        # A progress bar hides the cursor, and a second signal leaves no time to show it again.
        # `print` may not be called here: the signal may have come in the middle of another one.
        cursor = "\x1b[?25h" if os.isatty(2) else ""
        message = f"{cursor}\n{self.signal.name}: finishing this step, then saving. Once more to leave at once.\n"
        with contextlib.suppress(OSError):
            os.write(2, message.encode())


def _forget_what_is_gone() -> None:
    """Let what nobody can read any more go nowhere: else each print raises, and a run prints all the time."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            asked = select.poll()
            asked.register(number, 0)  # errors and hang-ups are always told
            if asked.poll(0):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


@contextlib.contextmanager
def exit_on_interrupt(message: str) -> Iterator[None]:
    """Let Ctrl-C or SIGTERM end the program with a message, and without a traceback.

    It leaves with 130 or 143, as shells expect; a second signal ends at once. In another thread than the main one,
    which no signal reaches, this does nothing.

    ```python
    with exit_on_interrupt("The training is saved; no samples were drawn."):
        samples = generate(...)
    ```
    """
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if here else None
    try:
        yield
    except (KeyboardInterrupt, _Terminated) as error:
        # The interpreter waits for what jax computes still, and a second Ctrl-C there would be shown with a traceback.
        atexit.register(_leave_at_once)
        print(f"\n{message}", file=sys.stderr)
        raise SystemExit(128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT)) from None
    finally:
        if here:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class _Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise _Terminated


def _leave_at_once() -> None:
    with contextlib.suppress(ValueError):  # not the main thread's
        signal.signal(signal.SIGINT, signal.SIG_DFL)


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
