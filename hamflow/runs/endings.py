"""How a run ends that did not get to its end: what is said, and how to go on."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import equinox as eqx
import jax.numpy as jnp

from .. import training
from .._types import PyTree
from .recipe import AbstractRecipe
from .words import count


def exit_nonfinite(
    error: training.NonFiniteLoss,
    recipe: AbstractRecipe,
    folder: Path,
    checkpoints: training.Checkpoints,
    model: PyTree,
    key: Any,
    command: Callable[..., str],
) -> NoReturn:
    """Leave a bundle that replays the step, and say how to go on from the checkpoint that was saved just now."""
    if not training.is_first_process():
        sys.exit(1)
    bundle = training.save_bundle(folder, error, model, key)
    *older, newest = checkpoints.steps() or [0]
    or_older = f", or move {checkpoints.folder / str(newest)} away to go on from an older checkpoint" if older else ""
    sys.exit(
        f"{error}\nTo see in which layer it began:\n"
        f"  {command('--replay', str(bundle))}\n"
        "The last good state is saved. To go on with a smaller learning rate:\n"
        f"  {command('--lr', f'{recipe.lr / 3:.2g}')}\n"
        "If it stops again at once, the step before had spoiled the parameters already: start a new run"
        f"{or_older}."
    )


def save_before_raising(
    checkpoints: training.Checkpoints,
    state: training.TrainState,
    key: Any,
    position: training.DataPosition,
    command: Callable[..., str],
) -> None:
    """Save what was learned before an error in something else is raised, and say how to go on."""
    try:
        checkpoints.save(state, key, position.to_json())
        said = f"The training is saved after {count(int(state.step), 'step')}. To go on:\n  {command()}"
    except Exception as error:  # the one that is about to be raised says more
        said = f"The last steps could not be saved ({type(error).__name__}: {error})."
    with contextlib.suppress(OSError):  # a terminal that was closed
        print(said, file=sys.stderr)


def before_skipped(
    state: training.TrainState, error: training.NonFiniteLoss, batch_size: int, newest: int
) -> training.TrainState:
    """The state at the first of the steps that were skipped in a row, since when only its counters moved.

    So the same batches come again when the run goes on. `newest` is the step of the last checkpoint, before which none
    can be saved. A run that does not skip has not moved on.
    """
    if not error.skipped:
        return state
    steps = int(state.step) - max(error.step - error.skipped + 1, newest)
    counters = state.step - jnp.int32(steps), state.images - jnp.uint32(steps * batch_size)
    return eqx.tree_at(lambda s: (s.step, s.images), state, counters)


def exit_unreadable(error: Exception, recipe: AbstractRecipe, so_far: str, command: Callable[..., str]) -> NoReturn:
    """Say which of the data cannot be read, and both ways to go on."""
    said = f"{training.in_flags(str(error), recipe.FLAGS)}\n{so_far} "
    mended = f"go on with:\n  {command('--changed-data')}"
    if hasattr(recipe, "skip_corrupt"):
        said += f"To go on without such {recipe.NOUN}s (in another order):\n  {command('--skip-corrupt')}\n"
        sys.exit(f"{said}Or mend it, and {mended}")
    sys.exit(f"{said}Mend it, and {mended}")
