"""How far the training is, how fast and how well: a bar in a terminal, a line now and then elsewhere."""

import collections
import time
from types import TracebackType
from typing import Any

import rich.console
import rich.progress

from hamflow._types import checked

_WORD, _BAR_WIDTH = "training", 20


class Progress:
    """Show images a second, the loss and the time left; `update` takes the records of a `Recorder`.

    - `num_steps`: the step at which training ends.
    - `first_step`: the step at which it starts, for a resumed run.
    - `console`: where to show it, the terminal by default. In a terminal a bar is drawn by a thread of its own, four
      times a second; elsewhere (a file, a job's log) a plain line comes every `line_seconds`.

    A narrow terminal goes without the word in front, the bar, the images, their rate and the time left, in this order,
    so that the step and the loss are seen.

    The rate is that of the last `window` steps or stacks of steps, so the time of compilation is not in it. The loss is
    averaged over the last 50 steps or so.
    """

    @checked
    def __init__(
        self,
        num_steps: int,
        *,
        first_step: int = 0,
        console: rich.console.Console | None = None,
        line_seconds: float | int = 10.0,
        window: int = 100,
    ):
        self._console = rich.console.Console() if console is None else console
        self._num_steps, self._line_seconds = num_steps, line_seconds
        self._seen: collections.deque[tuple[float, int, int]] = collections.deque(maxlen=window)
        self._loss, self._num_seen, self._read = 0.0, 0, None
        self._last_line = float("-inf")
        self._columns = (
            rich.progress.TextColumn(_WORD),
            rich.progress.BarColumn(bar_width=_BAR_WIDTH),
            rich.progress.TextColumn("{task.fields[text]}"),
        )
        self._bar = rich.progress.Progress(
            *self._columns,
            console=self._console,
            refresh_per_second=4,
            disable=not self._console.is_terminal,
        )
        text = self._fit(["compiling"])
        self._task = self._bar.add_task(_WORD, total=num_steps, completed=first_step, text=text)

    def update(self, record: dict[str, Any]) -> None:
        """Show a step: its `step` (from 0), `images` and `loss`."""
        now, step = time.monotonic(), record["step"] + 1
        if not self._seen or record.get("seconds") is None or record["seconds"] != self._read:
            # Stacked steps come all at once: from the first of them to the first of the next stack is what took time.
            self._seen.append((now, step, record["images"]))
        self._read = record.get("seconds")
        self._num_seen += 1
        self._loss += max(0.02, 1 / self._num_seen) * (record["loss"] - self._loss)
        texts = self._texts(step, record["images"])
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step, text=self._fit(texts))
        elif now - self._last_line >= self._line_seconds or step == self._num_steps:
            self._last_line = now
            self._console.print(texts[0], highlight=False, soft_wrap=True)

    def _texts(self, step: int, images: int) -> list[str]:
        """All there is to say, and the same with less and less of it."""
        (start, first_step, first_images), (end, last_step, last_images) = self._seen[0], self._seen[-1]
        between = [f"{images} images"]  # those that are left out first come first
        if end > start:
            seconds_left = round((self._num_steps - step) * (end - start) / (last_step - first_step))
            hours, minutes, seconds = seconds_left // 3600, seconds_left // 60 % 60, seconds_left % 60
            between.append(f"{(last_images - first_images) / (end - start):.1f} images/s")
            between.append(f"{hours}:{minutes:02}:{seconds:02} left")
        where, loss = f"step {step}/{self._num_steps}", f"loss {self._loss:.4g}"
        return ["  ".join([where, *between[n:], loss]) for n in range(len(between) + 1)]

    def _fit(self, texts: list[str]) -> str:
        """Show as many columns as there is room for, and give the longest text that fits."""
        room = self._console.width - len(texts[0])
        beside = 0 if room < _BAR_WIDTH + 1 else 1 if room < len(_WORD) + 1 + _BAR_WIDTH + 1 else 2
        self._bar.columns = self._columns[2 - beside :]
        return next((text for text in texts if len(text) <= self._console.width), texts[-1])

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
