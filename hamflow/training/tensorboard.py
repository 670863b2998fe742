"""The curves and the samples of a run in TensorBoard's files. Needs the `tensorboard` extra (tensorboardX)."""

import numbers
import os
import time
import uuid
from types import TracebackType
from typing import Any, final

import numpy as np
from jaxtyping import UInt8

from hamflow._paths import as_path
from hamflow._types import checked


@final
class TensorBoardWriter:
    """Writes each number of a record as a curve over the steps; `tensorboard --logdir FOLDER` shows them.

    - `folder`: where the file goes, made if it is not there; a run has one, and TensorBoard may be given a folder of
      runs.
    - `first_step`: the next step that will be written. TensorBoard then hides what a run wrote of that step and later
      ones before it was cut off.
    - `flush_seconds`: how long a record may wait in memory.

    Words are left out. It needs tensorboardX, and neither TensorBoard nor TensorFlow: raises `ImportError` without it,
    and `OSError` with the path if the file cannot be written.

    ```python
    with TensorBoardWriter(run / "tensorboard", first_step=start_step) as board, InBackground(board.write) as behind:
        record = Recorder(stats.write, behind.write)
        board.picture("samples", image_grid(samples), n)
    ```
    """

    @checked
    def __init__(self, folder: str | os.PathLike, *, first_step: int = 0, flush_seconds: float | int = 30.0):
        try:
            from tensorboardX.event_file_writer import EventsWriter  # pyright: ignore[reportMissingImports]
            from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
            from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore
            from tensorboardX.summary import image  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ImportError(f"TensorBoardWriter needs {error.name}: pip install 'hamflow[tensorboard]'.") from None
        self.folder = as_path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary, self._image = Event, Summary, image
        self._flush_seconds, self._flushed = flush_seconds, time.monotonic()
        # tensorboardX's `SummaryWriter` has a thread whose errors are lost, and waits for ever once it has died. And
        # the name of its files is the second they were made in: a run that is resumed within it would overwrite one.
        self._file = EventsWriter(str(self.folder / "events"), f".{uuid.uuid4().hex[:8]}")
        if first_step > 0:
            started = SessionLog(status=SessionLog.START)
            self._file.write_event(Event(wall_time=time.time(), step=first_step, session_log=started))
        self._file.flush()

    def write(self, record: dict[str, Any]) -> None:
        """Append the numbers of a record under their names, at its `step`."""
        summary = self._summary()
        for name, value in record.items():
            if name != "step" and isinstance(value, numbers.Real):
                summary.value.add(tag=name, simple_value=float(value))
        self._append(summary, record["step"])

    @checked
    def picture(self, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Append a picture, such as `hamflow.data.image_grid` makes, uint8 (height, width, 3)."""
        self._append(self._image(name, picture, dataformats="HWC"), step)

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._file.close()

    def _append(self, summary: Any, step: int) -> None:
        self._file.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self._flushed = time.monotonic()
            self._file.flush()

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
