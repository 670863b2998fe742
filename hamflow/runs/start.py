"""A training that begins with the weights of another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from .. import training
from .._types import PyTree
from ..serialization import load, save, write_atomically


def with_weights_of(path: Path, model: PyTree, trainable: PyTree, *, trust: Sequence[str] = ()) -> PyTree:
    """`model` with what is trained of it taken from a file of `hamflow.save`, or from the run in a folder.

    Raises `ValueError` or `OSError` for a file that cannot be read, or is of another network, with the first weights
    that differ.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise FileNotFoundError(
            f"--start {path} holds no model.safetensors: the run has not ended. `hamflow export {path}` writes it."
        )
    try:
        found = _named(load(file, trust=trust))
    except (ValueError, OSError) as error:
        hint = "; for a class or a function of your own give --trust MODULE" if "trust" in str(error) else ""
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"--start {path}: {str(error).rstrip('.')}{hint}.") from None
    wanted = _named(eqx.filter(model, trainable))
    differing = [name for name, leaf in wanted.items() if name not in found or found[name].shape != leaf.shape]
    if differing:
        name = differing[0]
        theirs = found[name].shape if name in found else "absent"
        raise ValueError(
            f"--start {path} is of another network: {name} is {theirs} there, and {wanted[name].shape} here "
            f"({len(differing)} of {len(wanted)} differ). Give the settings of that run."
        )

    def take(name: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(name)
        return found[name].astype(leaf.dtype) if name in wanted else leaf

    return jax.tree_util.tree_map_with_path(take, model)


def _named(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_inexact_array))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def write_start(folder: Path, model: PyTree, step: int) -> None:
    """The model as a run begins: what `hamflow export` fills with the arrays of a checkpoint.

    One that was there, of other settings, stays as `initial-until-<step>.safetensors`.
    """
    if not training.is_first_process():
        return
    path = folder / "initial.safetensors"
    before = path.with_name(f"initial-until-{step}.safetensors")
    if path.exists() and not before.exists():
        write_atomically(before, path.read_bytes())
    save(path, model)
