"""A mixture of Gaussians, whose score, samples and density are exact."""

import math
from typing import final

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike

from .._parameters import as_floating, as_parameter, cast, require
from .._types import Array, Float, PRNGKeyArray, Scalar, ScalarLike, checked
from .base import AbstractPotential


@final
class GaussianMixturePotential(AbstractPotential):
    """U(x) = -log sum_k weights_k N(x; means_k, diag(stds_k^2)): the force is the exact score.

    Args:
        means: of shape `(k, *event)`.
        stds: positive, of shape `(k,)`, or `(k, *event)` for one a coordinate.
        weights: positive, of shape `(k,)`; they are divided by their sum.

    Raises:
        ValueError: shapes that disagree, a standard deviation or a weight that is not positive.

    It can stand as data, as a prior (`sample`, `log_prob`) and as the potential of an exact sampler.
    """

    means: Float[Array, "k *event"]
    stds: Float[Array, "k ..."]
    weights: Float[Array, "k"]

    @checked
    def __init__(self, means: ArrayLike, stds: ArrayLike, weights: ArrayLike):
        means, stds, weights = (
            jnp.asarray(as_parameter(value, name))
            for value, name in ((means, "means"), (stds, "stds"), (weights, "weights"))
        )
        if means.ndim == 0 or weights.shape != means.shape[:1] or stds.shape not in (means.shape[:1], means.shape):
            raise ValueError(
                "means must have shape (k, *event), stds (k,) or (k, *event) and weights (k,); "
                f"got {means.shape}, {stds.shape} and {weights.shape}"
            )
        require(stds, lambda s: s > 0, f"stds must be positive, got {stds}")
        require(weights, lambda w: w > 0, f"weights must be positive, got {weights}")
        self.means, self.stds, self.weights = means, stds, weights

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        return -self.log_prob(position)

    def log_prob(self, position: Float[Array | np.ndarray, "*event"] | ScalarLike) -> Scalar:
        """The log density at one position, in nats."""
        return jax.nn.logsumexp(self.component_log_probs(position))

    def component_log_probs(self, position: Float[Array | np.ndarray, "*event"] | ScalarLike) -> Float[Array, "k"]:
        """log(weights_k N(x; means_k, stds_k^2)) of every component."""
        position = as_floating(position)
        if position.shape != self.means.shape[1:]:
            raise ValueError(f"position has shape {position.shape}, the mixture lives on {self.means.shape[1:]}")
        means, stds = cast(self.means, position.dtype), self.stds_of(position.dtype)
        axes = tuple(range(1, means.ndim))
        z = (position[None] - means) / stds
        log_weights = jnp.log(cast(self.weights, position.dtype))
        log_weights = log_weights - jax.nn.logsumexp(log_weights)
        normaliser = jnp.sum(jnp.log(stds) + 0.5 * math.log(2.0 * math.pi), axis=axes)
        return log_weights - 0.5 * jnp.sum(z**2, axis=axes) - normaliser

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """One exact sample; `shape` must be the shape of one position."""
        if tuple(shape) != self.means.shape[1:]:
            raise ValueError(f"shape must be that of one position, {self.means.shape[1:]}, got {tuple(shape)}")
        key_component, key_noise = jr.split(key)
        k = jr.categorical(key_component, jnp.log(self.weights))
        noise = jr.normal(key_noise, shape, self.means.dtype)
        return self.means[k] + self.stds_of(self.means.dtype)[k] * noise

    def stds_of(self, dtype) -> Array:
        """The standard deviations in `dtype`, broadcast to `(k, *event)`."""
        stds = cast(self.stds, dtype)
        if stds.shape != self.means.shape:
            stds = jnp.broadcast_to(stds.reshape(stds.shape + (1,) * (self.means.ndim - 1)), self.means.shape)
        return stds
