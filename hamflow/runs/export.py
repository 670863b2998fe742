"""The weights of a run as a file: of any checkpoint, of a run that was cut off, of an average of another width."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import training
from .._paths import as_path
from .._types import PyTree
from ..serialization import load, save
from .averages import average_of_width


def export(
    run: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    step: int | None = None,
    weights: Literal["average", "model"] = "average",
    ema_width: float | None = None,
    trust: Sequence[str] = (),
    replace: bool = False,
) -> Path:
    """Write the weights in a run folder to a `.safetensors` file, for `hamflow.load` and `hamflow sample`.

    Nothing else in the folder is touched, so it may be one in which a training goes on.

    Args:
        run: the run folder.
        out: the file; `model.safetensors` in the run folder by default, which a run writes when it ends.
        step: of the checkpoint; the latest by default.
        weights: those of the average model, or those that are trained.
        ema_width: the average of that width, from those in `averages/` (`reconstruct_average`), in place of one that a
            checkpoint holds.
        trust: modules of your own that the model may name, as for `hamflow.load`.
        replace: a file that is there.

    Returns:
        The file.

    Raises:
        FileNotFoundError: no run, or no checkpoint in it.
        FileExistsError: `out` is there, and not to be replaced.
        ValueError: a damaged checkpoint; arguments that do not fit; a run of another model than its first.
    """
    run = as_path(run)
    training.read_config(run)
    out = run / "model.safetensors" if out is None else as_path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out} must be called .safetensors, by which the commands know it")
    if out.exists() and not replace:
        raise FileExistsError(f"{out} is there already: replace it with --force, or give another name")
    if ema_width is not None:
        if step is not None or weights != "average":
            raise ValueError("--ema-width is of the averages in averages/: leave out --step and --weights")
        save(out, average_of_width(run, ema_width, trust=trust))
        return out
    prefix = {"average": ".ema", "model": ".model"}[weights]
    arrays = training.read_arrays(run / "checkpoints", prefix, step=step)
    save(
        out,
        _with_arrays(_structure(run, trust), {name.removeprefix(prefix): array for name, array in arrays.items()}, run),
    )
    return out


def _structure(run: Path, trust: Sequence[str]) -> PyTree:
    """A model of that run, whichever its weights."""
    for name in ("initial.safetensors", "model.safetensors"):
        if (run / name).exists():
            return load(run / name, trust=trust)
    raise FileNotFoundError(
        f"{run} has no initial.safetensors, which tells the structure of its model: it is a run of an older hamflow, "
        "and writes model.safetensors when it is resumed and ends"
    )


def _with_arrays(model: PyTree, arrays: dict[str, Any], run: Path) -> PyTree:
    """The model with these arrays in their places."""
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}
    ours = {name: leaf.shape for name, leaf in named.items() if eqx.is_array(leaf) and leaf.size}
    theirs = {name: array.shape for name, array in arrays.items()}
    if ours != theirs:
        name = sorted(set(ours.items()) ^ set(theirs.items()))[0][0]
        raise ValueError(
            f"{run} has a checkpoint of another model than its first: {name} is {theirs.get(name, 'absent')} in the "
            f"checkpoint and {ours.get(name, 'absent')} in initial.safetensors"
        )

    def take(path: Any, leaf: Any) -> Any:
        return jnp.asarray(arrays.get(jax.tree_util.keystr(path), leaf)) if eqx.is_array(leaf) else leaf

    return jax.tree_util.tree_map_with_path(take, model)
