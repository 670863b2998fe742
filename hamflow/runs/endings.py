"""How a run ends that did not get to its end: what is said, and how to go on."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .. import training
from .._types import PyTree
from .recipe import AbstractRecipe


def exit_nonfinite(
    error: training.NonFiniteLoss,
    recipe: AbstractRecipe,
    folder: Path,
    newest: Path,
    model: PyTree,
    key: Any,
    command: Callable[..., str],
) -> NoReturn:
    """Leave a bundle that replays the step, and say how. `newest` is the checkpoint that was saved just now."""
    if not training.is_first_process():
        sys.exit(1)
    bundle = training.save_bundle(folder, error, model, key)
    sys.exit(
        f"{error}\nTo see in which layer it began:\n"
        f"  {command('--replay', str(bundle))}\n"
        "The last good state is saved. To go on with a smaller learning rate:\n"
        f"  {command('--lr', f'{recipe.lr / 3:.2g}')}\n"
        "If it stops again at once, the step before had spoiled the parameters already: start a new run, or "
        f"move {newest} away to go on from an older checkpoint."
    )


def exit_unreadable(error: Exception, recipe: AbstractRecipe, so_far: str, command: Callable[..., str]) -> NoReturn:
    """Say which of the data cannot be read, and both ways to go on."""
    said = f"{training.in_flags(str(error), recipe.FLAGS)}\n{so_far} "
    mended = f"go on with:\n  {command('--changed-data')}"
    if hasattr(recipe, "skip_corrupt"):
        said += f"To go on without such {recipe.NOUN}s (in another order):\n  {command('--skip-corrupt')}\n"
        sys.exit(f"{said}Or mend it, and {mended}")
    sys.exit(f"{said}Mend it, and {mended}")
