"""Velocity predictors for short times from Boltzmann-Gibbs starts, where V is odd in t: V = t U."""

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, Float, ScalarLike
from ..potentials.base import AbstractForce
from .boltzmann import Score, as_force, freeze


@final
class ShortTimeVelocity(eqx.Module):
    """V(t, x) = t U(x): the network sees a target of one scale, whatever the time.

    Args:
        network: U, a callable from one position to an array of its shape.
    """

    network: Any

    def __call__(self, t: ScalarLike, x: Float[Array, "*event"], condition: Any = None, key: Any = None) -> Array:
        return jnp.asarray(t, x.dtype) * self.network(x)


@final
class GapVelocity(eqx.Module):
    """V(t, x) = t (F(x) - S(x)): S learns the score itself, and V follows F at once, however fast F learns.

    No gradient reaches F from here. Build it where the loss is, so that F is the force of the moment:

    ```python
    predictor = GapVelocity(model.force, model.score)
    hf.hamiltonian_score_matching_loss(model.force, x, key, times=.1, inner="network", predictor=predictor)
    ```

    Args:
        force: F, the force that is learned, as in the loss.
        network: S, a callable from one position to an array of its shape.
    """

    force: AbstractForce
    network: Any

    def __init__(self, force: Score, network: Any):
        self.force, self.network = as_force(force), network

    def __call__(self, t: ScalarLike, x: Float[Array, "*event"], condition: Any = None, key: Any = None) -> Array:
        t = jnp.asarray(t, x.dtype)
        return t * (freeze(self.force).force(jnp.zeros_like(t), x) - self.network(x))
