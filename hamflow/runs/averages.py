"""Averages kept along the training, from which those of other widths are made afterwards."""

import re
from collections.abc import Sequence
from pathlib import Path

from .. import training
from .._types import PyTree
from ..serialization import load, save
from .recipe import AbstractRecipe

FOLDER = "averages"


def write_averages(folder: Path, recipe: AbstractRecipe, images: int, averages: tuple[PyTree, ...]) -> None:
    """One file for each width: `averages/000000064000-0.05.safetensors`, after 64,000 examples."""
    if not training.is_first_process():
        return
    (folder / FOLDER).mkdir(exist_ok=True)
    for width, model in zip(recipe.ema_width, averages, strict=True):
        save(folder / FOLDER / f"{images:012}-{width!r}.safetensors", model)


def average_of_width(folder: Path, width: float, *, trust: Sequence[str] = ()) -> PyTree:
    """The average of another width at the last of those that were kept in a run folder.

    Raises `ValueError` if there are none, or if they are too few to tell (`reconstruct_average`).
    """
    found = []
    for path in sorted((folder / FOLDER).glob("*.safetensors")):
        match = re.fullmatch(r"(\d{12})-(.+)", path.stem)
        if match is not None:
            found.append((int(match[1]), training.PowerFunctionAverage.from_relative_width(float(match[2])), path))
    if not found:
        raise ValueError(
            f"--ema-width {width}: {folder} has no averages to make it from; train with --ema-width .05 .1 and "
            "--averages-every"
        )
    images = [number for number, _, _ in found]
    return training.reconstruct_average(
        [load(path, trust=trust) for _, _, path in found],
        [average for _, average, _ in found],
        images,
        training.PowerFunctionAverage.from_relative_width(width),
        max(images),
    )
