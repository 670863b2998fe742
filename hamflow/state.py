"""One point of phase space."""

import equinox as eqx

from ._types import Array, Float


class PhaseState(eqx.Module):
    """A position and its momentum, of one example.

    Args:
        position: x, of any shape: points `(d,)`, images `(channel, height, width)`.
        momentum: p, of the position's shape.

    A batch of states is the same tree with leading axes, as `jax.vmap` makes it. Momentum is what the equations of
    motion move; the velocity is what the kinetic energy makes of it (`kinetic.velocity(momentum)`).

    Example:
        `PhaseState(jnp.zeros(2), jnp.ones(2))`
    """

    position: Float[Array, "*event"]
    momentum: Float[Array, "*event"]
