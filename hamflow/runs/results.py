"""What a run leaves when it has ended: the average model, samples, and the curve of the loss."""

from pathlib import Path

import jax
from matplotlib.figure import Figure  # and not pyplot, which would hold on to it

from .. import plotting, training
from .._types import PyTree
from ..serialization import save
from .recipe import AbstractRecipe, AbstractTask
from .words import count, say


def write_results(recipe: AbstractRecipe, task: AbstractTask, folder: Path, model: PyTree, key: jax.Array) -> None:
    """In the first of several processes, which all draw the same samples."""
    samples = task.draw(model, key, recipe.num_samples)
    if not training.is_first_process():
        return
    save(folder / "model.safetensors", model)
    task.picture(samples, folder / "samples.png")
    write_loss_curve(folder)
    say(training.in_flags(task.report(samples, folder), recipe.FLAGS))
    evaluations = count(2 * recipe.sampling_steps - 1, "evaluation")
    say(f"{folder / 'samples.png'}: {count(recipe.num_samples, 'sample')} of {evaluations} each")


def write_snapshot(
    recipe: AbstractRecipe, task: AbstractTask, folder: Path, num_steps: int, model: PyTree, key: jax.Array
) -> None:
    """Of a few samples, on the way."""
    samples = task.draw(model, key, task.snapshot_samples(recipe.num_samples))
    if training.is_first_process():
        (folder / "snapshots").mkdir(exist_ok=True)
        task.picture(samples, folder / "snapshots" / f"{num_steps:08}.png")


def write_loss_curve(folder: Path) -> None:
    """Training and held-out loss over the examples seen, from `stats.jsonl`."""
    lines = training.read_stats(folder / "stats.jsonl")
    history = [line for line in lines if {"images", "loss"} <= line.keys()]
    figure = Figure(figsize=(6, 4))
    ax = figure.subplots()
    plotting.loss_curve(ax, [line["images"] for line in history], [line["loss"] for line in history])
    plotting.save_figure(figure, folder / "loss.png")


def say_speed(recipe: AbstractRecipe, num_steps: int, seconds: float, cost: training.StepCost) -> None:
    """Examples a second, and the share of what the devices can compute."""
    say(f"{num_steps * recipe.batch / seconds:.1f} {_things(recipe)}/s over {seconds:.0f} s, compilation included")
    steps_per_second = num_steps / max(seconds - cost.compile_seconds, 1e-9)
    utilisation = training.model_flop_utilisation(cost.flops, steps_per_second)
    say(f"{utilisation:.1%} of what the devices can compute (FLOP of a step over their peak, once compiled)")


def _things(recipe: AbstractRecipe) -> str:
    return {"picture": "images"}.get(recipe.NOUN, recipe.NOUN + "s")
