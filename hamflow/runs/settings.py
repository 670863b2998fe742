"""The settings of a run as `config.json` holds them, and what of them a resumed run may change."""

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Any

from .. import training
from .options import Options
from .recipe import AbstractRecipe, AbstractTask
from .words import count, say

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
    if len(set(recipe.ema_width)) < len(recipe.ema_width):
        raise ValueError(f"--ema-width {' '.join(map(str, recipe.ema_width))}: one of them twice is one average.")
    if options.replay is not None:
        if options.resume is None:
            raise ValueError(f"--replay {options.replay} needs the run it is of: give --resume.")
        if options.resume.resolve() not in options.replay.resolve().parents:
            raise ValueError(f"--replay {options.replay} is no bundle of --resume {options.resume}.")
    try:
        training.check_profile_steps(options.profile)
    except ValueError as error:
        raise ValueError(str(error).replace("steps is", "--profile is", 1)) from None
    for flag, value, module in (
        ("--wandb", options.wandb, "wandb"),
        ("--tensorboard", options.tensorboard, "tensorboardX"),
    ):
        if value and importlib.util.find_spec(module) is None:
            extra = "'hamflow[tensorboard]'" if flag == "--tensorboard" else module
            raise ValueError(f"{flag} needs {module}: pip install {extra}")


def check_resumed(recipe: AbstractRecipe, folder: Path) -> None:
    """Raise `ValueError` if a run cannot go on with so many averages."""
    kept, asked = (max(len(widths), 1) for widths in (read_settings(folder).get("ema_width", ()), recipe.ema_width))
    if kept != asked:
        raise ValueError(
            f"--ema-width: {folder} keeps {count(kept, 'average')}, and cannot keep {asked} from here on: give as many "
            "widths, or begin a new run with --start."
        )


def opened(recipe: AbstractRecipe, options: Options) -> AbstractTask:
    """The data of a recipe; `ValueError` or `OSError` if they do not fit its settings."""
    try:
        task = recipe.open()
    except FileNotFoundError as error:
        if options.resume is None:
            raise
        raise FileNotFoundError(
            f"{error} The run was begun in another folder, or the {recipe.NOUN}s were moved: say where they are with "
            "--data."
        ) from None
    if recipe.keep_best and not task.num_held_out:
        raise ValueError(
            f"--keep-best is of the held-out loss, and none of the {count(task.num_examples, recipe.NOUN)} are held "
            "out: give a larger --held-out."
        )
    return task


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
    for name, value in changes.items():
        usual = getattr(type(recipe)(), name)
        kinds = (int, float) if type(usual) is float else type(usual)
        if usual is not None and (not isinstance(value, kinds) or isinstance(value, bool) != isinstance(usual, bool)):
            raise ValueError(f"{folder / 'config.json'} is damaged: {name} is {value!r}. Mend it, or copy it again.")
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
    if not isinstance(saved.get(examples, {}), dict):
        raise ValueError(f"{options.resume / 'config.json'} is damaged: {examples} is {saved[examples]!r}.")
    measured = settings.keys() - dataclasses.asdict(recipe).keys() - {examples}
    for name in measured - saved.keys():  # an older run did not measure that, and goes on without it
        del settings[name]
    for name in measured & saved.keys():
        if not isinstance(saved[name], int | float):
            raise ValueError(f"{options.resume / 'config.json'} is damaged: {name} is {saved[name]!r}.")
        settings[name] = saved[name]
    for name in (LATER & settings.keys()) - saved.keys():
        if settings[name] == getattr(type(recipe)(), name):
            del settings[name]
    number, before = (of.get(examples, {}).get("number", 0) for of in (settings, saved))
    free = FREE | (recipe.DATA_FIELDS | {examples} if options.changed_data else set())
    free |= {examples} if settings.get("skip_corrupt") and before > number else set()
    if settings[examples] == saved.get(examples):  # wherever they lie now
        free |= recipe.DATA_FIELDS
    try:
        changes = training.check_same_config(
            options.resume, settings, free=free | {"outdir"}, override=options.override
        )
    except ValueError as error:
        of_data = any(f"  {name}" in str(error) for name in (f"{examples}.", *(f"{f}:" for f in recipe.DATA_FIELDS)))
        hint = f"\nIf the {examples} were moved or mended, add --changed-data." if of_data else ""
        raise ValueError(f"{error}{hint}") from None
    changes = {name: words for name, words in changes.items() if not _is_respelt(name, settings, saved)}
    for name, words in changes.items():
        say(f"{name}: {words}")
    if "held_out" in changes:
        say(f"other {examples} are held out from here on, some of which it was trained on before")
    if changes.keys() & {f"{examples}.number", "seed", "held_out"}:
        say(f"the order of the {examples} changes from here on; the number of steps is kept")
    return changes


def _is_respelt(name: str, settings: dict[str, Any], saved: dict[str, Any]) -> bool:
    """Whether a setting of an older run means what it means today, in other words."""
    return name == "outdir" or (name == "ema_width" and list(settings.get(name, ())) == saved.get(name, []))


def position(recipe: AbstractRecipe, task: AbstractTask, state: training.TrainState) -> training.DataPosition:
    """The place in the data after the steps that a state has made."""
    return training.DataPosition(recipe.seed, int(state.step), recipe.batch, task.num_examples)
