"""What a run is: a frozen dataclass of settings, which opens its data and says what is to be learned of them.

A recipe of your own derives from `AbstractRecipe`, adds its fields, and writes `open`; what that returns derives from
`AbstractTask` and hands out batches and the `Problem`: a model, its flow and its loss. `hamflow train module:Recipe`
then trains it, with all that the library's own have: `--resume`, `--mesh`, `--dry-run` and the rest.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import jax
import numpy as np

from .._types import PyTree


@dataclasses.dataclass(frozen=True)
class AbstractRecipe(abc.ABC):
    """The settings that every run has. Durations are in millions of examples seen, as in EDM."""

    # Training
    batch: int = 8  # examples a step, over all devices
    duration: float = 0.01  # of the training, millions of examples
    optimizer: Literal["muon", "adam"] = "adam"  # Muon needs about half of the steps on a U-Net
    lr: float = 1e-3  # the learning rate; Muon wants about ten times Adam's
    lr_rampup: float = 0.001  # millions of examples until it is reached
    lr_decay: bool = True  # over the second half, take it to zero
    momentum: float = 0.8  # of Muon; .95 for long runs
    beta2: float = 0.99  # of Adam's second moment; .999 for runs of many thousand steps
    ema: float = 0.5  # half-life of the average model, millions of examples (EDM's ramp-up shortens it early on)
    ema_width: tuple[float, ...] = ()  # in place of a half-life: averages over such shares of the training, as .05 .1
    seed: int = 0  # of the weights, of all random draws and of the order of the examples
    start: Path | None = None  # a model of hamflow.save, or a run folder, whose weights the training begins with
    on_nonfinite: Literal["stop", "skip"] = "stop"  # at a loss that is not finite; ten batches in a row end the run
    steps_together: int = 1  # in one dispatch: more for steps of a millisecond or less
    # Looking
    held_out: float = 0.05  # share of the examples that is not trained on, but measured
    validate_every: float = 0.004  # millions of examples between measurements of the held-out loss
    snapshot_every: float = 0.0  # millions of examples between pictures of samples in snapshots/; 0 for none
    num_samples: int = 64  # drawn at the end
    sampling_steps: int = 18  # of Heun's method: twice as many evaluations, less one
    # Keeping
    save_every: float = 0.02  # millions of examples between checkpoints
    keep: int = 2  # how many of the latest checkpoints
    keep_every: float = 0.0  # millions of examples between checkpoints that are kept for ever; 0 for none
    keep_best: int = 0  # how many of the checkpoints of lowest held-out loss, which is then measured at each
    averages_every: float = 0.0  # with --ema-width: millions of examples between averages in averages/; 0 for none

    NOUN: ClassVar[str] = "example"
    """What one of the data is called."""
    DATA_FIELDS: ClassVar[frozenset[str]] = frozenset({"data"})
    """Fields that say where the data are, which `--changed-data` lets change."""
    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        **dict.fromkeys(("batch", "keep", "num_samples", "sampling_steps", "steps_together"), (1, math.inf)),
        **dict.fromkeys(("duration", "save_every", "validate_every"), (1e-6, math.inf)),  # at least one example
        **dict.fromkeys(("held_out", "momentum", "beta2"), (0, 1)),
        **dict.fromkeys(("lr_rampup", "ema", "keep_every", "keep_best"), (0, math.inf)),
        "seed": (0, 2**32),
        **dict.fromkeys(("snapshot_every", "averages_every"), (0, math.inf)),
        "lr": (1e-30, math.inf),
    }
    """Where each number lies, without the upper end."""
    FLAGS: ClassVar[Mapping[str, str]] = {
        "A batch of": "--batch",
        "batch_size": "--batch",
        "relative_width": "--ema-width",
        "The mesh has": "--mesh:",
        "A mesh of": "--mesh",
        "num_processes": "--num-processes",
        "process_id": "--process-id",
        "coordinator": "--coordinator",
        "outdir": "--outdir",
        "held_out": "--held-out",
        "override=True": "--override",
    }
    """What the library's messages say, and what it is called on a command line."""
    SMALLER: ClassVar[Mapping[str, Any]] = {
        "batch": 8,
        "duration": 16e-6,
        "save_every": 8e-6,
        "steps_together": 1,
        "num_samples": 4,
        "sampling_steps": 2,
    }
    """What `--smoke` runs."""

    @abc.abstractmethod
    def open(self) -> "AbstractTask":
        """Open the data. `ValueError` or `OSError`, before anything is made, for what is wrong with them."""


class AbstractTask(abc.ABC):
    """Data that are open: batches of them, and what is to be learned.

    - `name`: of the run folder, behind its number.
    - `about`: of the data, in words, after their number: "from photos.zip".
    - `num_examples`: that are trained on. `num_held_out`: that are measured only.
    - `identity`: numbers and strings that are those of the same data only, a fingerprint among them.
    - `measured`: numbers found in the data that the model needs. A resumed run keeps those that it began with.
    """

    UNREADABLE: ClassVar[tuple[type[Exception], ...]] = (OSError,)
    """What `batches` raises for data that cannot be read."""

    name: str
    about: str
    num_examples: int
    num_held_out: int
    identity: dict[str, Any]
    measured: dict[str, float]

    @abc.abstractmethod
    def batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of the endless batches from `start_step` on, a function of seed and step alone.

        Each is a dict of arrays, among them `index`, which examples they are. At the end the iterator is closed, if it
        has a `close`.
        """

    @abc.abstractmethod
    def held_out_batches(self) -> list[dict[str, np.ndarray]]:
        """All held-out data; empty where there are none."""

    @abc.abstractmethod
    def problem(self, measured: Mapping[str, float], keys: tuple[jax.Array, jax.Array]) -> "Problem":
        """The untrained model and its loss.

        `measured`: as this task has it, or as the run that is resumed had it. `keys`: for the weights, and for what
        else is drawn.
        """

    @abc.abstractmethod
    def draw(self, model: PyTree, key: jax.Array, number: int) -> np.ndarray:
        """Samples of a model."""

    @abc.abstractmethod
    def snapshot_samples(self, number: int) -> int:
        """How many of the samples that are drawn at the end are enough on the way."""

    @abc.abstractmethod
    def picture(self, samples: np.ndarray, path: Path) -> None:
        """Write a PNG of samples."""

    @abc.abstractmethod
    def report(self, samples: np.ndarray, folder: Path) -> str:
        """At the end, compare the samples to the data; what is to be said, and a picture in the run folder."""


@final
@dataclasses.dataclass(frozen=True)
class Problem:
    """What is trained.

    - `model`: with `trainable`, which of it.
    - `loss(model, batch, key) -> (scalar, metrics)`, of rows that are independent of each other; `held_out_loss`: the
      same without what only training does.
    - `about`: in words.
    - `rows_together`: how many rows the loss looks at together, None for the whole batch.
    """

    model: PyTree
    trainable: PyTree
    loss: Callable[..., Any]
    held_out_loss: Callable[..., Any]
    about: str
    rows_together: int | None = 1
