"""The settings of a run as `config.json` holds them, and what of them a resumed run may change."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from .. import training
from .options import Options
from .recipe import AbstractRecipe, AbstractTask
from .words import say

# Not in the oldest runs, which go on with what they are by default.
LATER = frozenset(
    {"keep", "keep_every", "keep_best", "on_nonfinite", "validate_every", "snapshot_every", "ema_width"}
    | {"steps_together", "averages_every", "start"}
)
FREE = (LATER - {"start"}) | {
    *("duration", "outdir", "skip_corrupt", "save_every", "num_samples", "sampling_steps"),
    *("lr", "lr_rampup", "lr_decay", "momentum", "beta2", "ema"),  # a run that diverged goes on with others
}


def check(recipe: AbstractRecipe, options: Options) -> None:
    """Raise `ValueError` for a number out of its range, in the name of its flag, and for flags that do not fit."""
    training.check_ranges(recipe, recipe.RANGES)
    training.check_ranges(options, {"microbatches": (1, math.inf)})
    if recipe.keep_best and not recipe.held_out:
        raise ValueError("--keep-best is of the held-out loss, and --held-out is 0: hold some out, or leave it out.")
    if recipe.averages_every and not recipe.ema_width:
        raise ValueError("--averages-every is of averages by --ema-width: give one or two, such as .05 .1.")
    for width in recipe.ema_width:
        training.PowerFunctionAverage.from_relative_width(width)
    if options.replay is not None and options.resume is None:
        raise ValueError(f"--replay {options.replay} needs the run it is of: give --resume.")


def steps_in(recipe: AbstractRecipe, millions: float) -> int:
    """Steps in so many millions of examples: 1 at least, 0 for none."""
    return max(round(millions * 1e6 / recipe.batch), 1) if millions else 0


def settings_of(recipe: AbstractRecipe, task: AbstractTask) -> dict[str, Any]:
    """All that a run is: its recipe, its data, and what was measured of them."""
    settings = dataclasses.asdict(recipe)
    # As in the runs from before there were such settings, which go on without them.
    if "label_dropout" in settings and not (settings["cond"] and settings["label_dropout"]):
        del settings["label_dropout"]
    if not settings["held_out"]:
        del settings["held_out"]
    return {**settings, recipe.NOUN + "s": task.identity, **task.measured}


def read_settings(folder: Path) -> dict[str, Any]:
    """Those of a run, in the words of today."""
    saved = training.read_config(folder)
    saved.pop("outdir", None)  # of the first command; a run lies where it lies
    width = saved.get("ema_width", ())
    if "ema_width" in saved and not isinstance(width, list):
        saved["ema_width"] = [] if width is None else [width]
    return saved


def recipe_of(folder: Path, recipe: AbstractRecipe) -> AbstractRecipe:
    """The recipe with the settings of a run, as far as they are its fields."""
    saved = {"label_dropout": 0.0, "held_out": 0.0, **read_settings(folder)}
    known = {field.name: field for field in dataclasses.fields(recipe)}
    changes = {name: _as(known[name], value) for name, value in saved.items() if name in known}
    return dataclasses.replace(recipe, **changes)


def _as(field: dataclasses.Field, value: Any) -> Any:
    """JSON knows no paths and no tuples."""
    if isinstance(value, str) and "Path" in str(field.type):
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def take_up(recipe: AbstractRecipe, options: Options, settings: dict[str, Any]) -> dict[str, str]:
    """Refuse to resume a run with other settings, but for what may change; show that, and measure nothing anew.

    `settings` are made those the run goes on with. Returns what has changed, by name, in words.
    """
    assert options.resume is not None
    saved, examples = read_settings(options.resume), recipe.NOUN + "s"
    measured = settings.keys() - dataclasses.asdict(recipe).keys() - {examples}
    settings.update({name: saved[name] for name in measured if name in saved})
    for name in (LATER & settings.keys()) - saved.keys():
        if settings[name] == getattr(type(recipe)(), name):
            del settings[name]
    number, before = (of.get(examples, {}).get("number", 0) for of in (settings, saved))
    free = FREE | (recipe.DATA_FIELDS | {examples} if options.changed_data else set())
    free |= {examples} if settings.get("skip_corrupt") and before > number else set()
    try:
        changes = training.check_same_config(
            options.resume, settings, free=free | {"outdir"}, override=options.override
        )
    except ValueError as error:
        hint = f"\nIf the {examples} were moved or mended, add --changed-data." if f"{examples}." in str(error) else ""
        raise ValueError(f"{error}{hint}") from None
    changes = {name: words for name, words in changes.items() if not _is_respelt(name, settings, saved)}
    for name, words in changes.items():
        say(f"{name}: {words}")
    if changes.keys() & {f"{examples}.number", "seed"}:
        say(f"the order of the {examples} changes from here on; the number of steps is kept")
    return changes


def _is_respelt(name: str, settings: dict[str, Any], saved: dict[str, Any]) -> bool:
    """Whether a setting of an older run means what it means today, in other words."""
    return name == "outdir" or (name == "ema_width" and list(settings.get(name, ())) == saved.get(name, []))


def position(recipe: AbstractRecipe, task: AbstractTask, state: training.TrainState) -> training.DataPosition:
    """The place in the data after the steps that a state has made."""
    return training.DataPosition(recipe.seed, int(state.step), recipe.batch, task.num_examples)
