"""One point of phase space."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._parameters import as_floating
from ._types import Array, Float


def _as_array(value: Any) -> Any:
    """Numbers, lists of them and numpy's arrays become jax arrays; what else a tree holds (axes, specs) stays."""
    if isinstance(value, list) and all(isinstance(leaf, (int, float)) for leaf in jax.tree.leaves(value)):
        return as_floating(np.asarray(value, float).astype(jnp.zeros(()).dtype))
    return as_floating(value) if isinstance(value, (float, np.ndarray, np.floating)) else value


class PhaseState(eqx.Module):
    """A position and its momentum, of one example.

    Args:
        position: x, of any shape: points `(d,)`, images `(channel, height, width)`.
        momentum: p, of the position's shape.

    A batch of states is the same tree with leading axes, as `jax.vmap` makes it. Momentum is what the equations of
    motion move; the velocity is what the kinetic energy makes of it (`kinetic.velocity(momentum)`).

    Raises:
        ValueError: arrays of two shapes.

    Example:
        `PhaseState(jnp.zeros(2), jnp.ones(2))`
    """

    position: Float[Array, "*event"] = eqx.field(converter=_as_array)
    momentum: Float[Array, "*event"] = eqx.field(converter=_as_array)

    def __check_init__(self):
        if eqx.is_array(self.position) and eqx.is_array(self.momentum) and self.position.shape != self.momentum.shape:
            raise ValueError(
                f"momentum has shape {self.momentum.shape} and position {self.position.shape}: they must have one shape"
            )
