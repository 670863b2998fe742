"""Between a `Recorder` and what it writes to: fewer records, and none that the training waits for."""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, final

from hamflow._types import checked
from hamflow.training.recorder import Record

Write = Callable[[Record], None]
"""What a `Recorder` takes: `StatsLog(...).write`, `TensorBoardWriter(...).write`, or any function of a record."""


@checked
def every(num_steps: int, write: Write) -> Write:
    """A function that hands on the records of steps 0, n, 2n, ... only.

    ```python
    record = Recorder(stats.write, every(100, board.write))
    ```
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}: it must be 1 or more.")

    def write_some(record: Record) -> None:
        if record["step"] % num_steps == 0:
            write(record)

    return write_some


@final
class InBackground:
    """Calls a writer in a thread of its own, in order, so that a slow disk or network does not hold up the training.

    - `write`: the function that may take long.
    - `capacity`: how many records may wait. When there are more, `write` waits too: none is dropped.

    What the writer raises is raised by the next `write` here, or by `close`; records after it are not written. `close`
    waits until all are. Leave it before the writer that it calls:

    ```python
    with TensorBoardWriter(folder) as board, InBackground(board.write) as background:
        record = Recorder(stats.write, background.write)
    ```
    """

    @checked
    def __init__(self, write: Callable[[Any], None], *, capacity: int = 1000):
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}: it must be 1 or more.")
        self._write = write
        self._queue: queue.Queue[Any] = queue.Queue(capacity)
        self._error: BaseException | None = None
        self._told = self._closed = False
        self._end = object()
        # A daemon: a program that leaves without `close` (a second Ctrl-C) does not wait for it.
        self._thread = threading.Thread(target=self._run, name="hamflow writer", daemon=True)
        self._thread.start()

    def write(self, record: Any) -> None:
        """Hand over a record. Raises what went wrong with an earlier one, and `ValueError` after `close`."""
        if self._closed:
            raise ValueError("This writer is closed: it takes no more records.")
        self._raise_error()
        self._queue.put(record)

    def close(self) -> None:
        """Wait until all is written, and raise what went wrong, unless `write` has done so."""
        if not self._closed:
            self._closed = True
            self._queue.put(self._end)
            self._thread.join()
        if not self._told:
            self._raise_error()

    def _run(self) -> None:
        while (record := self._queue.get()) is not self._end:
            if self._error is None:  # after an error records are only taken, so that nobody waits for room
                try:
                    self._write(record)
                except BaseException as error:
                    self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            self._told = True
            raise self._error

    def __enter__(self) -> "InBackground":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except Exception as own:
            if error is None:
                raise
            error.add_note(f"A writer failed too: {own}")  # what ended the loop is what the script handles
