"""What a step that was not finite leaves behind: all that is needed to run it again, and to see where it went wrong.

    nonfinite-12/bundle.json     the step, the indices of its batch, its metrics, the key of the run
    nonfinite-12/batch.npz       the batch
    nonfinite-12/model.npz       the arrays of the model before the step, by their place: `.layers[0].weight`

The whole state before the step is the checkpoint that a loop saves when it gets the error (`examples/ffhq.py` does).
"""

import io
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from hamflow._paths import as_path
from hamflow._types import Array, Key, PyTree, checked
from hamflow.serialization import write_atomically
from hamflow.training.gradient import grouped
from hamflow.training.origin import NonFiniteOrigin, find_origin
from hamflow.training.recorder import NonFiniteLoss

FORMAT = 1


@checked
def save_bundle(folder: str | os.PathLike, error: NonFiniteLoss, model: PyTree, key: Key[Array, ""]) -> pathlib.Path:
    """Write `nonfinite-<step>/` into a run folder, and return it.

    - `error`: what a `Recorder` raised; its batch is written if the recorder was given it (`record(..., batch=batch)`).
    - `model`: that of the state, as the step found it, `state.model`. Of a recorder that skips it may be a few steps
      later, where the batches after the bad ones were good.
    - `key`: that of the run.

    A bundle of the same step is replaced. `bundle.json` is written last, so a bundle that has one is whole. Of several
    processes each writes its rows of the batch, to `nonfinite-12/process-3/`; a model that is spread over them is left
    out. Raises `OSError` with the path if it cannot be written.
    """
    place = as_path(folder) / f"nonfinite-{error.step}"
    if jax.process_count() > 1:
        place = place / f"process-{jax.process_index()}"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise OSError(failure.errno, f"{failure.strerror}, so no bundle was written", str(place)) from None
    batch, structure = _flatten(error.batch)
    indices = None if error.batch_indices is None else np.asarray(error.batch_indices).tolist()
    about = {
        "format": FORMAT,
        "step": error.step,
        "batch_indices": indices,
        "record": {name: value if _is_json(value) else repr(value) for name, value in error.record.items()},
        "skipped": error.skipped,
        "key": {"impl": str(jax.random.key_impl(key)), "data": np.asarray(jax.random.key_data(key)).tolist()},
        "batch": structure,
        "jax": jax.__version__,
    }
    if structure is not None:
        write_atomically(place / "batch.npz", _npz(batch))
    if all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in _arrays_in(model)):
        write_atomically(place / "model.npz", _npz(_named(model)))
    write_atomically(place / "bundle.json", (json.dumps(about, indent=2) + "\n").encode())
    return place


@checked
def read_bundle(bundle: str | os.PathLike) -> dict[str, Any]:
    """What `save_bundle` wrote: `step`, `batch_indices`, `record`, `skipped`, `key` and `batch` (None if not known).

    Raises `FileNotFoundError` or `ValueError` if there is no whole bundle.
    """
    place = as_path(bundle)
    try:
        about = json.loads((place / "bundle.json").read_bytes())
        if about["format"] != FORMAT:
            raise ValueError(f"{place} has format {about['format']}, and this hamflow reads {FORMAT}.")
        data = jnp.asarray(np.asarray(about["key"]["data"], np.uint32))
        about["key"] = jax.random.wrap_key_data(data, impl=about["key"]["impl"])
        arrays = _arrays(place / "batch.npz") if about["batch"] is not None else {}
        about["batch"] = _unflatten(about["batch"], arrays)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{place} is no whole bundle: a bundle.json or a batch.npz is missing.") from None
    except (KeyError, TypeError, EOFError, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{place} cannot be read ({type(error).__name__}: {error}).") from None
    return about


@checked
def replay(
    bundle: str | os.PathLike,
    loss: Callable[..., Any],
    model: PyTree,
    *,
    trainable: PyTree = eqx.is_inexact_array,
    rows_together: int | None = None,
    batch: PyTree = None,
) -> NonFiniteOrigin | None:
    """Run the step of a bundle again, operation by operation, and say where its first number went wrong.

    - `loss`, `trainable`, `rows_together`: as given to `make_step`.
    - `model`: of the same structure as that of the run; its arrays are replaced by those of the bundle, if there are
      any in it.
    - `batch`: in place of that of the bundle; needed where there is none.

    Returns None if both the loss and its gradient are finite this time: then what happened depends on how XLA fused
    the step, or on the model having gone on since. It compiles each operation by itself, so a large network takes
    minutes. Raises `ValueError` if the bundle is of another model.

    ```python
    origin = replay(run / "nonfinite-12", loss, state.model)
    print(origin)    # The loss ... first non-finite number: log at model.py:31 ..., behind .layers[3].weight
    ```
    """
    about = read_bundle(bundle)
    batch = about["batch"] if batch is None else batch
    if batch is None:
        raise ValueError(f"{bundle} has no batch: give batch=, that of the indices {about['batch_indices']}.")
    loss = loss if rows_together is None else grouped(loss, rows_together)
    if (path := as_path(bundle) / "model.npz").exists():
        model = _replace(model, _arrays(path), bundle)
    return find_origin(loss, model, batch, jax.random.fold_in(about["key"], about["step"]), trainable=trainable)


def _arrays_in(model: PyTree) -> list[Any]:
    return jax.tree.leaves(eqx.filter(model, eqx.is_array))


def _named(model: PyTree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array))
    return {jax.tree_util.keystr(path): _bits(leaf) for path, leaf in leaves}


def _bits(leaf: Any) -> np.ndarray:
    """As NumPy can store it: a key as its data, a bfloat16 as the integer of its bits."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")


def _replace(model: PyTree, arrays: dict[str, np.ndarray], bundle: Any) -> PyTree:
    def replace(path: Any, leaf: Any) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        name = jax.tree_util.keystr(path)
        like = _bits(leaf)
        found = arrays.pop(name, None)
        if found is None or (found.shape, found.dtype) != (like.shape, like.dtype):
            there = "absent" if found is None else f"{found.dtype}{list(found.shape)}"
            raise ValueError(
                f"{bundle} is of another model: {name} is {there} there, {like.dtype}{list(like.shape)} here."
            )
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(found), impl=jax.random.key_impl(leaf))
        return jnp.asarray(found.view(leaf.dtype))

    model = jax.tree_util.tree_map_with_path(replace, model)
    if arrays:
        raise ValueError(f"{bundle} is of another model: {min(arrays)} is in the bundle only.")
    return model


def _flatten(batch: Any) -> tuple[dict[str, np.ndarray], Any]:
    """A tree of arrays in dicts, lists and tuples as arrays with names, and JSON in which the names stand for them."""
    arrays: dict[str, np.ndarray] = {}

    def flatten(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, dict):
            return {"dict": {str(name): flatten(item) for name, item in value.items()}}
        if isinstance(value, list | tuple):
            return {"tuple": [flatten(item) for item in value]}
        if not isinstance(value, np.ndarray | np.generic | jax.Array):
            return {"value": value if _is_json(value) else repr(value)}
        name = f"array{len(arrays)}"
        arrays[name] = _bits(value)
        return {"array": name, "dtype": str(value.dtype)}

    return arrays, flatten(batch)


def _unflatten(structure: Any, arrays: dict[str, np.ndarray]) -> Any:
    if structure is None:
        return None
    if "dict" in structure:
        return {name: _unflatten(item, arrays) for name, item in structure["dict"].items()}
    if "tuple" in structure:
        return tuple(_unflatten(item, arrays) for item in structure["tuple"])
    if "value" in structure:
        return structure["value"]
    return arrays[structure["array"]].view(jnp.dtype(structure["dtype"]))


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    # Under numbers: a name with a slash or a quotation mark in it is none for a file in a zip.
    content: dict[str, Any] = {f"{i}": array for i, array in enumerate(arrays.values())}
    np.savez(file, **content, names=np.asarray(list(arrays), dtype=np.str_))
    return file.getvalue()


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {str(name): stored[f"{i}"] for i, name in enumerate(stored["names"])}


def _is_json(value: Any) -> bool:
    return isinstance(value, bool | int | str) or (isinstance(value, float) and value - value == 0)
