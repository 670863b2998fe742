"""Steer a trained model: towards a class, to fill in half a picture, to sharpen one.

    python examples/guidance.py                           # trains on the embedded faces first, six minutes on two cores
    python examples/guidance.py --network runs/00000-...  # a run of `ffhq.py --cond`, two minutes
    python examples/guidance.py --network runs/00000-... --weaker runs/00001-... --scales 1 2    # autoguidance

`classes.png` has a row for each class and a column for each guidance scale, with the same seeds in every column: 1 is
the model as it was trained, more is farther from what it draws without a class, or from what the weaker model draws.
`inpainting.png` has pictures of which the model is told one half, and what it makes of the other; `sharpening.png`
pictures of which it is told the means over blocks. Nothing is trained for either: an energy of the data is added while
sampling. The pictures are among those it was trained on.
"""

import dataclasses
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
import tyro

import hamflow as hf
from hamflow import plotting, runs, training
from hamflow.data import AbstractImages, embedded_faces, image_grid, open_images, to_float
from hamflow.runs import Options, Pictures

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob."""

    network: Path | None = None  # a run folder of `ffhq.py --cond`; one is made in outdir if not given
    outdir: Path = Path("runs/guidance")  # where the pictures go
    duration: float = 0.0118  # of that run: millions of images
    # Guidance
    scales: tuple[float, ...] = (1.0, 2.0, 3.0)  # a column each
    weaker: Path | None = None  # a run of a smaller or less trained model to lead away from, in place of no class
    per_class: int = 3  # pictures in a cell
    # Pictures known in part
    pictures: tuple[int, ...] = (164, 411, 283, 672)  # their numbers in the data set
    known: Literal["left", "top"] = "left"  # the half that is told
    block: int = 4  # pixels a side of a block whose mean is told
    std: float = 0.05  # how far off what is told may be; pixels lie in [-1, 1]
    tries: int = 4  # completions of each
    # Sampling
    sampling_steps: int = 18  # of Heun's method
    seed: int = 0
    smoke: bool = False  # a tiny model and two steps of everything, to see that it runs


RANGES = {
    **dict.fromkeys(("per_class", "block", "tries", "sampling_steps"), (1, math.inf)),
    **dict.fromkeys(("duration", "std"), (1e-6, math.inf)),
    "seed": (0, math.inf),
}


# -- a predictor for each kind of steering ---------------------------------------------------------------------------


class ScaledByRow(eqx.Module):
    """Guidance whose scale is a part of the condition, so that all scales are one batch."""

    model: hf.Preconditioned
    weaker: hf.Preconditioned | None

    def __call__(self, t: Any, x: jax.Array, condition: Any, key: Any = None) -> jax.Array:
        label, scale = condition
        return hf.Guided(self.model, scale, self.weaker)(t, x, label, key)


class Painted(eqx.Module):
    """Pictures known in part: label, what is known, and where, are the condition of a row."""

    model: hf.Preconditioned
    std: float
    measure: Callable[[jax.Array], jax.Array] | None = None

    def __call__(self, t: Any, x: jax.Array, condition: Any, key: Any = None) -> jax.Array:
        label, known, mask = condition
        energy = hf.painted(known, mask, std=self.std, measure=self.measure)
        return hf.EnergyGuided(self.model, self.model.flow, energy, self.model.data_std)(t, x, label, key)


class BlockMeans(eqx.Module):
    """The mean over each block of a picture (channel, height, width)."""

    block: int = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        channels, height, width = x.shape
        rows, columns = height // self.block, width // self.block
        return x.reshape(channels, rows, self.block, columns, self.block).mean(axis=(2, 4))


# -- what is asked of them -------------------------------------------------------------------------------------------


def by_class(config: Config, model: Any, weaker: Any, source: AbstractImages, names: Sequence[str]) -> None:
    """Every class at every scale, from the same draws of the prior."""
    shape = (len(names), len(config.scales), config.per_class)
    labels = jnp.broadcast_to(jnp.arange(len(names))[:, None, None], shape).ravel()
    scales = jnp.broadcast_to(jnp.asarray(config.scales)[None, :, None], shape).ravel()
    keys = jnp.broadcast_to(jr.split(jr.key(config.seed), config.per_class)[None, None, :], shape).ravel()
    size = (len(labels), 3, source.resolution, source.resolution)
    samples = hf.generate(
        ScaledByRow(model, weaker), model.flow, keys, size, config.sampling_steps, condition=(labels, scales)
    )
    cells = np.asarray(samples).reshape(*shape, *size[1:])
    draw_sheet(config.outdir / "classes.png", cells, names, [f"guidance {scale:g}" for scale in config.scales])


def in_part(config: Config, model: Any, source: AbstractImages, measure: BlockMeans | None) -> tuple[Any, ...]:
    """Pictures, what is told of each, and several samples that fit it: (n, ...), (n, ...), (n, tries, ...)."""
    pictures = to_float(jnp.asarray(np.stack([source[i]["image"] for i in config.pictures])))
    labels = jnp.asarray([source[i]["label"] for i in config.pictures])
    if measure is None:
        known, (height, width) = pictures, pictures.shape[2:]
        left, top = jnp.arange(width)[None, :] < width // 2, jnp.arange(height)[:, None] < height // 2
        mask = jnp.broadcast_to((left if config.known == "left" else top)[None, None], known.shape).astype(known.dtype)
    else:
        known = jax.vmap(measure)(pictures)
        mask = jnp.ones_like(known)
    n = len(config.pictures)
    condition = jax.tree.map(lambda leaf: jnp.repeat(leaf, config.tries, axis=0), (labels, known, mask))
    shape = (n * config.tries, *pictures.shape[1:])
    predictor = Painted(model, config.std, measure)
    samples = hf.generate(predictor, model.flow, jr.key(config.seed), shape, config.sampling_steps, condition=condition)
    seen = samples if measure is None else jax.vmap(measure)(samples)
    error = jnp.sqrt(jnp.sum((condition[2] * (seen - condition[1])) ** 2) / jnp.sum(condition[2]))
    what = "told pixels" if measure is None else "told means"
    print(f"{what}: met to {float(error):.3f} (root mean square); they vary by {float(jnp.std(known)):.3f}")
    return pictures, known, mask, np.asarray(samples).reshape(n, config.tries, *shape[1:])


def inpaint(config: Config, model: Any, source: AbstractImages) -> None:
    pictures, known, mask, samples = in_part(config, model, source, None)
    told = mask * known + (1.0 - mask) * 0.5  # grey where nothing is told
    cells = [[picture[None], one[None], tries] for picture, one, tries in zip(pictures, told, samples, strict=True)]
    draw_sheet(config.outdir / "inpainting.png", cells, None, ["picture", "told", "completed"])


def sharpen(config: Config, model: Any, source: AbstractImages) -> None:
    pictures, known, _, samples = in_part(config, model, source, BlockMeans(config.block))
    told = jnp.repeat(jnp.repeat(known, config.block, axis=2), config.block, axis=3)
    cells = [[picture[None], one[None], tries] for picture, one, tries in zip(pictures, told, samples, strict=True)]
    draw_sheet(config.outdir / "sharpening.png", cells, None, ["picture", "told", "sharpened"])


def draw_sheet(path: Path, cells: Any, rows: Sequence[str] | None, columns: Sequence[str]) -> None:
    """A table of small sheets: `cells[i][j]` holds pictures (n, channel, height, width), drawn in a line."""
    widths = [len(cell) for cell in cells[0]]
    figure, axes = plt.subplots(
        len(cells),
        len(columns),
        figsize=(0.75 * sum(widths) + 0.3 * len(widths), 0.8 * len(cells) + 0.4),
        width_ratios=widths,
        squeeze=False,
        layout="constrained",
    )
    for i, line in enumerate(axes):
        for j, ax in enumerate(line):
            ax.imshow(image_grid(np.asarray(cells[i][j]), widths[j]), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if i == 0:
                ax.set_title(columns[j], fontsize=9)
        if rows is not None:
            line[0].set_ylabel(rows[i].replace("-", "\n"), fontsize=8)
    plotting.save_figure(figure, path)


# -- the run it starts from ------------------------------------------------------------------------------------------


def train(config: Config) -> Path:
    """A run of `ffhq.py --cond` with its usual settings."""
    recipe = Pictures(cond=True, duration=config.duration, seed=config.seed)
    if config.smoke:
        # As little to compile as can be; the smoke run of `ffhq.py` itself takes the rest.
        smaller = {**Pictures.SMALLER, "multipliers": (1,), "blocks": (1,), "optimizer": "adam"}
        recipe = dataclasses.replace(recipe, **smaller)
    folder = runs.train(recipe, Options(outdir=config.outdir))
    assert folder is not None  # only a dry run leaves none
    return folder


def open_run(folder: Path, flag: str) -> tuple[hf.Preconditioned, dict[str, Any]]:
    """The model of a run with classes, and the run's settings."""
    run = training.read_config(folder)
    if not run.get("cond"):
        raise ValueError(f"{flag} {folder} is a run without classes: give one of `ffhq.py --cond`")
    if not run.get("label_dropout") and flag == "--network":
        print(
            f"{folder} was trained with all labels in place: guidance without --weaker leads away from nothing learned"
        )
    return hf.load(folder / "model.safetensors"), run


def class_names(path: Path, number: int) -> list[str]:
    """As a zip's `dataset.json` names them, else by number."""
    names: list[str] = []
    if path.suffix == ".zip":  # a .npz is one too
        with zipfile.ZipFile(path) as archive:
            names = json.loads(archive.read("dataset.json")).get("class_names", [])
    return [names[i] if i < len(names) else f"class {i}" for i in range(number)]


def main(config: Config) -> None:
    training.check_ranges(config, RANGES)
    training.check_outdir(config.outdir)
    config.outdir.mkdir(parents=True, exist_ok=True)
    folder = train(config) if config.network is None else config.network
    model, run = open_run(folder, "--network")
    weaker = None if config.weaker is None else open_run(config.weaker, "--weaker")[0]
    path = embedded_faces() if run["data"] is None else Path(run["data"])
    source = open_images(path, run["resolution"], labels=True)
    outside = [i for i in config.pictures if not 0 <= i < len(source)]
    if outside:
        raise ValueError(f"--pictures {outside[0]}: {path} has the pictures 0 to {len(source) - 1}")
    if source.resolution % config.block:
        raise ValueError(f"--block {config.block} does not divide {source.resolution} pixels: give 2, 4 or 8")
    by_class(config, model, weaker, source, class_names(path, source.num_classes))
    inpaint(config, model, source)
    sharpen(config, model, source)


def run() -> None:
    """`main`, with what a person can mend said in a line."""
    start = time.perf_counter()
    config = tyro.cli(Config, description=__doc__)
    if config.smoke:
        config = dataclasses.replace(
            config, scales=(1.0, 2.0), per_class=1, pictures=(0,), tries=2, block=2, sampling_steps=2
        )
    try:
        main(config)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {training.in_flags(str(error), {'outdir': '--outdir'})}")
    print(f"classes.png, inpainting.png, sharpening.png in {config.outdir}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    run()
