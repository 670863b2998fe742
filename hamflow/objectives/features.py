"""Features: functions of the position that a velocity predictor is a linear combination of.

With them the best predictor is a ridge regression, in closed form. Any callable from one position to a vector of shape
`(m,)` is one.
"""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Float, PRNGKeyArray
from ..potentials.base import AbstractForce


def features_of(features: Callable[..., Any], pairs: Float[Array, "n 2 *event"]) -> Float[Array, "n 2 m"]:
    """At all positions, or a `ValueError` for features that are no vector."""
    values = jax.vmap(jax.vmap(features))(pairs)
    if values.ndim != 3:
        raise ValueError(f"features returned shape {values.shape[2:]} for one position; they must be one vector")
    return values


@final
class LinearFeatures(eqx.Module):
    """(1, x - centre): the best predictor for Gaussian data and a linear force.

    Args:
        centre: the mean of the data, which keeps the digits of data far from zero; None for zero.
    """

    centre: Array | None

    def __init__(self, centre: Array | None = None):
        self.centre = centre

    def __call__(self, position: Float[Array, "*event"]) -> Float[Array, "features"]:
        offset = position if self.centre is None else position - self.centre
        return jnp.concatenate([jnp.ones(1, position.dtype), offset.ravel()])


@final
class WaveFeatures(eqx.Module):
    """(1, z, F(x), cos(w_j . z), sin(w_j . z)), z the position centred and scaled, w_j random.

    The wavelengths are spread evenly in their logarithm, from `shortest` of the deviation of the data to four
    deviations (random Fourier features, Rahimi and Recht 2007). The force itself is among the features: where it is
    wrong by a factor, the velocity is a multiple of it.

    Args:
        data: to centre and scale by.
        force: F, or None to leave it out.
        key: for the waves.
        num_waves: how many, half of the features.
        shortest: the shortest wavelength, over 2 pi, in deviations.
    """

    mean: Array
    scale: Array
    waves: Array
    force: AbstractForce | None

    def __init__(
        self,
        data: Float[Array, "batch *event"],
        force: AbstractForce | None,
        key: PRNGKeyArray,
        num_waves: int = 128,
        shortest: float = 0.15,
    ):
        self.mean = jnp.mean(data, axis=0)
        std = jnp.std(data, axis=0)
        self.scale = jnp.where(std > 0, std, jnp.ones_like(std))
        size = self.mean.size
        keys = jr.split(key)
        # In many dimensions a difference of two data has a length of sqrt(2 size) deviations.
        length = jnp.exp(jnp.linspace(jnp.log(shortest), jnp.log(4.0), num_waves)) * max(1.0, size / 2.0) ** 0.5
        self.waves = (jr.normal(keys[0], (num_waves, size)) / length[:, None]).astype(data.dtype)
        self.force = force

    def __call__(self, position: Float[Array, "*event"]) -> Float[Array, "features"]:
        z = ((position - self.mean) / self.scale).ravel()
        angles = self.waves @ z
        parts: list[Any] = [jnp.ones(1, z.dtype), z]
        if self.force is not None:
            parts.append(self.force.force(jnp.zeros((), z.dtype), position).ravel() * self.scale.ravel())
        return jnp.concatenate([*parts, jnp.cos(angles), jnp.sin(angles)])

    @property
    def num_plain(self) -> int:
        """How many features come before the waves; a discrepancy does not penalise them."""
        return 1 + self.mean.size * (1 if self.force is None else 2)
