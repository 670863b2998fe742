"""The arrays of a training state under their names, and back into a state."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from hamflow.training.state import TrainState


def named_arrays(state: TrainState, key: Any) -> dict[str, Any]:
    """All arrays of a state, but for `finite`, true in all that is restored, and empty ones, which orbax refuses."""
    arrays = eqx.filter(state, _is_array)
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves if leaf.size}
    del named[".finite"]
    return {**named, "key": key}


def refuse_local(arrays: dict[str, Any]) -> None:
    """Raise `ValueError` with the names of the arrays which, of several processes, this one alone has."""
    count = jax.process_count()
    local = [name for name, leaf in arrays.items() if count > 1 and leaf.sharding.is_fully_addressable]
    if not local:
        return
    more = f" and {len(local) - 3} more" if len(local) > 3 else ""
    lie = "lies" if len(local) == 1 else "lie"
    advice = "a state of init_state(..., mesh=mesh), or shard(state, ...) it"
    raise ValueError(
        f"{', '.join(local[:3])}{more} {lie} on devices of this process alone, and a checkpoint of {count} processes "
        f"is of what lies on all of them: save {'replicate(key, mesh)' if local == ['key'] else advice}."
    )


def replace_arrays(state: TrainState, leaves: dict[str, Any]) -> TrainState:
    """The state with these arrays in their places, named as by `named_arrays`; `finite` is true in it."""

    def replace(path: Any, leaf: Any) -> Any:
        return leaves.get(jax.tree_util.keystr(path), leaf) if _is_array(leaf) else leaf

    state = jax.tree_util.tree_map_with_path(replace, state)
    return eqx.tree_at(lambda s: s.finite, state, jax.device_put(jnp.ones((), bool), state.step.sharding))


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_stored(leaf: Any) -> Any:
    """An array as orbax can write it: of a key its numbers, uint32."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape, dtype and sharding that `as_stored(leaf)` has, and so has what is read back in its place."""
    data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)


def restored_as(like: Any, restored: Any) -> Any:
    """What was read in the place of `like`, as an array of its kind: keys are keys again."""
    if not _is_key(like):
        return restored
    return jax.random.wrap_key_data(restored, impl=jax.random.key_impl(like))
