"""Everything that training changes, in one tree."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from hamflow._types import Array, PyTree, checked
from hamflow.training.sharding import Rule, state_sharding
from hamflow.training.trainable import split
from hamflow.training.wide import init_wide, wide


class TrainState(eqx.Module):
    """The model in training and all that goes on with it.

    `step` counts the updates made (int32) and `images` the pictures seen (uint32, so up to 4.29e9). `finite` is false
    from the first step on whose loss or gradient was not finite: that update and all later ones are not applied, so
    the state stays the last good one until the host has noticed.

    Averages and the optimiser's moments are float32 at least, also those of a half-precision model, whose own arrays
    keep their dtype: an average or a moment of half precision would not move.

    `ema` is the average that `make_step` was given, or the first of several; `other_averages` are the others in their
    order, for `reconstruct_average`.
    """

    model: Any
    ema: Any
    opt_state: Any
    step: Array
    images: Array
    finite: Array
    other_averages: tuple[Any, ...] = ()


@checked
def init_state(
    model: PyTree,
    optimizer: Any,
    *,
    trainable: PyTree = eqx.is_inexact_array,
    num_averages: int = 1,
    mesh: Mesh | None = None,
    rule: Rule | None = None,
) -> TrainState:
    """Return the state before the first step. The average starts as a copy of the model, in float32 at least.

    - `model`: any tree; its arrays are copied, since each step reuses the memory of the state it is given. NumPy
      arrays become JAX arrays and weak types strong ones, as they would in the first step.
    - `optimizer`: any optax optimiser, as given to `make_step`.
    - `trainable`: a function of a leaf or a tree of booleans; by default every floating-point array is trained.
      Give `make_step` the same.
    - `num_averages`: how many averages `make_step` is given.
    - `mesh`: make it in its place on these devices, split as `state_sharding(state, mesh, rule)` says; no array but
      those that `model` itself holds is whole on a device on the way, unless the rule leaves it whole. Without a mesh
      all lies where jax puts new arrays.

    Raises `ValueError` if nothing is left to train, or for no average.

    ```python
    state = init_state(model, optimizer, mesh=mesh)
    step = make_step(loss, optimizer, sharding=state_sharding(state, mesh))
    ```
    """
    if num_averages < 1:
        raise ValueError(f"num_averages is {num_averages}: it must be 1 or more.")

    def state_of(model: PyTree) -> TrainState:
        trained, _ = split(model, trainable)
        if not jax.tree.leaves(trained):
            raise ValueError("Nothing to train: no floating-point array of the model is chosen by `trainable`.")
        return TrainState(
            model=model,
            ema=average_of(model),
            opt_state=_copy(init_wide(optimizer, trained)),
            step=jnp.zeros((), jnp.int32),
            images=jnp.zeros((), jnp.uint32),
            finite=jnp.ones((), bool),
            other_averages=tuple(average_of(model) for _ in range(num_averages - 1)),
        )

    def average_of(model: PyTree) -> PyTree:
        trained, rest = split(_copy(model), trainable)
        return eqx.combine(jax.tree.map(wide, trained), rest)

    return state_of(_copy(model)) if mesh is None else _in_its_place(state_of, model, mesh, rule)


def _in_its_place(state_of: Callable[[PyTree], TrainState], model: PyTree, mesh: Mesh, rule: Rule | None) -> TrainState:
    """`state_of` a model that is put in its place first; one program makes the rest, and gives each device its part."""
    abstract = eqx.filter_eval_shape(lambda model: state_of(_copy(model)), model)
    where = state_sharding(abstract, mesh, rule)
    model = jax.tree.map(_put, where.model, model, is_leaf=lambda leaf: leaf is None)
    arrays, constants = eqx.partition(model, eqx.is_array)

    def others(arrays: PyTree) -> PyTree:
        return eqx.filter(_without_model(state_of(eqx.combine(arrays, constants))), eqx.is_array)

    made = jax.jit(others, out_shardings=_without_model(where))(arrays)
    static = eqx.filter(abstract, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct), inverse=True)
    state = eqx.combine(made, _without_model(static))
    return eqx.tree_at(lambda s: s.model, state, model, is_leaf=lambda leaf: leaf is None)


def _without_model(state: PyTree) -> PyTree:
    return eqx.tree_at(lambda s: s.model, state, None)


def _put(where: NamedSharding | None, leaf: Any) -> Any:
    """A copy of an array, in its place, with a strong type."""
    if where is None:
        return leaf
    if not isinstance(leaf, jax.Array):
        leaf = np.array(leaf)
    elif getattr(leaf, "weak_type", False) or where.is_fully_replicated or len(leaf.sharding.device_set) > 1:
        # What lies in its place already is not copied by `device_put`, and a step overwrites it.
        leaf = _copy(leaf)
    return jax.device_put(leaf, where)


def _copy(tree: PyTree) -> PyTree:
    def copy(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.copy(leaf)
        return jnp.array(leaf, dtype=leaf.dtype) if isinstance(leaf, jax.Array | np.ndarray | np.generic) else leaf

    return jax.tree.map(copy, tree)
