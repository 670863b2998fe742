"""The curves and the samples of a run in Weights & Biases, where it is installed (`pip install wandb`)."""

import numbers
import os
from types import TracebackType
from typing import Any, Literal, final

import numpy as np
from jaxtyping import UInt8

from hamflow._types import checked


@final
class WandbWriter:
    """Writes each number of a record as a curve over the steps of a run of W&B.

    - `project`: of W&B. `run_id`: of the run, for example the name of the run folder; a resumed run goes on in it.
    - `folder`: where W&B puts its files.
    - `config`: the settings to be shown with the run.
    - `mode`: `"offline"` writes files only, for `wandb sync` later; None is as W&B is set up (`WANDB_MODE`).

    `step` is a column like the others, and the axis of all of them: W&B itself would refuse the steps that a run
    repeats after it was cut off. Raises `ImportError` where W&B is not installed.

    ```python
    with WandbWriter("faces", run_id=run.name, folder=run, config=settings) as wandb:
        record = Recorder(stats.write, wandb.write)
    ```
    """

    @checked
    def __init__(
        self,
        project: str,
        *,
        run_id: str,
        folder: str | os.PathLike,
        config: dict[str, Any] | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
    ):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ImportError(f"WandbWriter needs {error.name}: pip install wandb.") from None
        self._wandb = wandb
        self._run = wandb.init(
            project=project, id=run_id, name=run_id, dir=os.fspath(folder), config=config, mode=mode, resume="allow"
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write(self, record: dict[str, Any]) -> None:
        """Add the numbers of a record under their names."""
        self._run.log({name: value for name, value in record.items() if isinstance(value, numbers.Real)})

    @checked
    def picture(self, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Add a picture, such as `hamflow.data.image_grid` makes, uint8 (height, width, 3)."""
        self._run.log({name: self._wandb.Image(picture), "step": step})

    def close(self) -> None:
        """Send or write what waits, and end the run."""
        self._run.finish()

    def __enter__(self) -> "WandbWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
