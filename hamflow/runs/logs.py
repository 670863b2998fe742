"""Where the numbers of each step go besides `stats.jsonl`."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from .. import training
from .options import Options


def other_writers(
    options: Options, folder: Path, settings: dict, start_step: int, opened: contextlib.ExitStack
) -> list[Callable[[dict], None]]:
    """Each in a thread of its own so that no step waits; they are closed with `opened`."""
    logs = []
    if options.tensorboard:
        logs.append(training.TensorBoardWriter(folder / "tensorboard", first_step=start_step))
    if options.wandb is not None:
        logs.append(training.WandbWriter(options.wandb, run_id=folder.name, folder=folder, config=settings))
    for log in logs:
        opened.callback(log.close)
    return [opened.enter_context(training.InBackground(log.write)).write for log in logs]
