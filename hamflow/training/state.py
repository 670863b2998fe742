"""Everything that training changes, in one tree."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hamflow._types import Array, PyTree, checked
from hamflow.training.trainable import split


class TrainState(eqx.Module):
    """The model in training and all that goes on with it.

    `step` counts the updates made (int32) and `images` the pictures seen (uint32, so up to 4.29e9). `finite` is false
    from the first step on whose loss or gradient was not finite: that update and all later ones are not applied, so
    the state stays the last good one until the host has noticed.

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
    optimizer: optax.GradientTransformation,
    *,
    trainable: PyTree = eqx.is_inexact_array,
    num_averages: int = 1,
) -> TrainState:
    """The state before the first step. The EMA starts as a copy of the model.

    - `model`: any tree; its arrays are copied, since each step reuses the memory of the state it is given. NumPy
      arrays become JAX arrays and weak types strong ones, as they would in the first step.
    - `trainable`: a function of a leaf or a tree of booleans; by default every floating-point array is trained.
      Give `make_step` the same.
    - `num_averages`: how many averages `make_step` is given.

    Raises `ValueError` if nothing is left to train, or for no average.
    """
    if num_averages < 1:
        raise ValueError(f"num_averages is {num_averages}: it must be 1 or more.")
    model = _copy(model)
    trained, _ = split(model, trainable)
    if not jax.tree.leaves(trained):
        raise ValueError("Nothing to train: no floating-point array of the model is chosen by `trainable`.")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
        opt_state = optimizer.init(trained)
    return TrainState(
        model=model,
        ema=_copy(model),
        opt_state=_copy(opt_state),
        step=jnp.zeros((), jnp.int32),
        images=jnp.zeros((), jnp.uint32),
        finite=jnp.ones((), bool),
        other_averages=tuple(_copy(model) for _ in range(num_averages - 1)),
    )


def _copy(tree: PyTree) -> PyTree:
    def copy(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.copy(leaf)
        return jnp.array(leaf, dtype=leaf.dtype) if isinstance(leaf, jax.Array | np.ndarray | np.generic) else leaf

    return jax.tree.map(copy, tree)
