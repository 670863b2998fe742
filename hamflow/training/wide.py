"""Running sums in float32 at least: averages of the weights, and what an optimiser remembers.

A step of an average adds a part of about 1e-4, and bfloat16 has 8 bits: the average of a half-precision model would
stay where it started. The model itself keeps its dtype.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from hamflow._types import PyTree
from hamflow.training.optimizers import as_optimizer


def wide(leaf: Any) -> Any:
    """An array of half precision as float32; anything else as it is."""
    if eqx.is_inexact_array(leaf) and jnp.finfo(leaf.dtype).bits < 32:
        return leaf.astype(jnp.float32)
    return leaf


def init_wide(optimizer: Any, trained: PyTree) -> PyTree:
    """The optimiser's first state, with moments of float32 at least."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
        return as_optimizer(optimizer).init(jax.tree.map(wide, trained))
