"""Points: a small law of the library, or a .npy of one's own, a Hamiltonian flow, and a multilayer perceptron."""

import dataclasses
import hashlib
import math
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure

from .. import data, plotting
from .._array_files import read_points
from .._types import PyTree
from ..distances import two_sample_distance
from ..networks import MLP
from ..objectives import velocity_matching_loss
from ..predictors import Preconditioned
from ..sampling import generate
from .flows import check_flow, make_flow
from .recipe import AbstractRecipe, AbstractTask, Problem

LAWS = {"two-moons": data.two_moons, "checkerboard": data.checkerboard}


@final
@dataclasses.dataclass(frozen=True)
class Points(AbstractRecipe):
    """Train a Hamiltonian flow on points: two moons, a checkerboard, or arrays of your own."""

    # Data
    data: Path | None = None  # a .npy or .npz of shape (n, *event); a law of the library if not given
    law: Literal["two-moons", "checkerboard"] = "two-moons"  # of the points, without --data
    num_points: int = 50_000  # drawn of that law
    data_seed: int = 0  # of these draws
    # Flow
    flow: str = "oscillation"  # oscillation, diffusion, flow-matching, reflection, or module:flow for one of your own
    # Network
    width: int = 128  # of the hidden layers
    depth: int = 3  # residual blocks
    position_octaves: int = 0  # sines and cosines of the position, for laws with sharp edges
    # Training
    batch: int = 256  # points a step, over all devices
    duration: float = 0.5632  # millions of points
    lr: float = 2e-3  # the learning rate
    ema: float = 0.02  # half-life of the average model, millions of points
    steps_together: int = 50  # in one dispatch; best if it divides the intervals below, in steps
    held_out: float = 0.1  # share of the points that is not trained on, but measured
    validate_every: float = 0.128  # millions of points between measurements of the held-out loss
    num_samples: int = 30_000  # drawn at the end
    save_every: float = 0.256  # millions of points between checkpoints

    NOUN: ClassVar[str] = "point"
    DATA_FIELDS: ClassVar[frozenset[str]] = frozenset({"data", "law", "num_points", "data_seed"})
    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        **AbstractRecipe.RANGES,
        **dict.fromkeys(("num_points", "width", "depth"), (1, math.inf)),
        "position_octaves": (0, math.inf),
        "data_seed": (0, 2**32),
    }
    FLAGS: ClassVar[Mapping[str, str]] = {**AbstractRecipe.FLAGS, "position_octaves": "--position-octaves"}
    SMALLER: ClassVar[Mapping[str, Any]] = {
        **AbstractRecipe.SMALLER,
        "num_points": 200,
        "width": 8,
        "depth": 1,
        "num_samples": 100,
        "validate_every": 8e-6,
    }

    def open(self) -> "PointsTask":
        return PointsTask(self)


@final
class PointsTask(AbstractTask):
    """Points in memory, some of them held out, and the network that learns the others."""

    def __init__(self, recipe: Points):
        self.recipe = recipe
        check_flow(recipe.flow)
        if recipe.data is None:
            points = np.asarray(LAWS[recipe.law](jr.key(recipe.data_seed), recipe.num_points))
            name, self.about = recipe.law, f"of {recipe.law.replace('-', ' ')}"
        else:
            points, _, _ = read_points(recipe.data)
            name, self.about = recipe.data.stem, f"from {recipe.data}"
        if not np.isfinite(points).all():
            raise ValueError(f"{recipe.data} holds numbers that are not finite: leave those points out.")
        if points.size == 0:
            raise ValueError(f"{recipe.data} holds no numbers, its shape is {points.shape}: give (n, *event).")
        digest = hashlib.sha256(points.tobytes()).hexdigest()
        self.identity = {"number": len(points), "fingerprint": digest}
        self.event_shape = points.shape[1:]
        order = data.epoch_order(0, 0, len(points))  # not by the seed of the run: runs are compared
        held_out = round(recipe.held_out * len(points))
        self._points, self._held_out = points[order[held_out:]], points[order[:held_out]]
        self.num_examples, self.num_held_out = len(self._points), held_out
        if recipe.batch > self.num_examples:
            raise ValueError(f"--batch is {recipe.batch}, and there are {self.num_examples} points to train on.")
        self.name = f"{name}-{recipe.flow}"
        self.measured = {"data_mean": float(self._points.mean()), "data_std": float(self._points.std())}
        self.measured |= dict(zip(("lower_wall", "upper_wall"), _walls(recipe, points), strict=True))
        std = np.float32(self.measured["data_std"])
        if not std > 0 and np.ptp(self._points) == 0:
            raise ValueError(f"{recipe.data} holds one point only, again and again: there is nothing to learn.")
        if not 1e-15 < std < 1e15:  # its square is to be a float32 too
            raise ValueError(f"{recipe.data} has a standard deviation of {self.measured['data_std']:g}: scale it.")

    def batches(self, start_step: int) -> Generator[dict[str, np.ndarray]]:
        rows = self.recipe.batch // jax.process_count()
        first = start_step * self.recipe.batch + jax.process_index() * rows
        while True:
            index = data.stream_indices(self.recipe.seed, self.num_examples, first, first + rows)
            yield {"point": self._points[index], "index": index}
            first += self.recipe.batch

    def held_out_batches(self) -> list[dict[str, np.ndarray]]:
        size = min(4096, self.num_held_out)
        return [{"point": self._held_out[i : i + size]} for i in range(0, self.num_held_out, size)] if size else []

    def problem(self, measured: Mapping[str, float], keys: tuple[jax.Array, jax.Array]) -> Problem:
        recipe = self.recipe
        # Runs of the first releases have no walls in their settings: their flows and times had one unit for all data.
        in_units = "lower_wall" in measured
        bounds = (measured["lower_wall"], measured["upper_wall"]) if in_units else None
        flow = make_flow(recipe.flow, measured["data_std"], measured["data_mean"], bounds)
        noise_unit = None if in_units else 0.5
        network = MLP(
            self.event_shape,
            width=recipe.width,
            depth=recipe.depth,
            position_octaves=recipe.position_octaves,
            key=keys[0],
        )
        model = Preconditioned.from_data(
            network, flow, jnp.asarray(self._points[:10_000]), keys[1], noise_unit=noise_unit
        )
        model = eqx.tree_at(lambda m: (m.data_mean, m.data_std), model, (measured["data_mean"], measured["data_std"]))

        def loss(model, batch, key):
            return velocity_matching_loss(model, flow, batch["point"], key), {}

        return Problem(model, model.trainable(), loss, loss, f"{recipe.flow} flow, MLP of width {recipe.width}")

    def draw(self, model: PyTree, key: jax.Array, number: int) -> np.ndarray:
        return np.asarray(generate(model, model.flow, key, (number, *self.event_shape), self.recipe.sampling_steps))

    def snapshot_samples(self, number: int) -> int:
        return number

    def picture(self, samples: np.ndarray, path: Path) -> None:
        """Data and samples, of points of more than two coordinates the first two."""
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots(1, 2)
        flat = [np.reshape(points, (len(points), -1)) for points in (self._points[: len(samples)], samples)]
        for ax, points in zip(axes, flat, strict=True):
            if flat[0].shape[1] == 1:
                ax.hist(points[:, 0], bins=100, density=True, color=plotting.DATA)
            else:
                plotting.density(ax, points[:, :2], extent=1.05 * float(np.abs(flat[0][:, :2]).max()))
        plotting.label_panels(axes, ["data", f"samples, {self.recipe.flow} flow"])
        plotting.save_figure(figure, path)

    def report(self, samples: np.ndarray, folder: Path) -> str:
        number = min(len(samples), len(self._held_out), 5000)
        if number < 10:
            return "too few held-out points or samples to compare"
        key = jr.key(0)
        distance, floor = two_sample_distance(key, jnp.asarray(samples[:number]), jnp.asarray(self._held_out[:number]))
        return (
            f"distance of the samples from held-out points, over their standard deviation: {distance:.3f} "
            f"(two sets of {number} points of one law: up to {floor:.3f})"
        )


def _walls(recipe: Points, points: np.ndarray) -> tuple[float, float]:
    """Where a reflection has its walls: at -1 and 1 for the library's distributions, else 1% outside the points."""
    if recipe.data is None:
        return -1.0, 1.0
    lowest, highest = float(points.min()), float(points.max())
    margin = 0.01 * (highest - lowest)
    return lowest - margin, highest + margin
