"""Priors: the simple law a flow is meant to reach at its horizon, from which generation starts."""

import math
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike

from . import _linear as linear
from ._parameters import as_floating, as_parameter, fit, require
from ._types import Array, Float, PRNGKeyArray, Scalar, ScalarLike, checked
from .domains import Box


@runtime_checkable
class Prior(Protocol):
    """Anything with these two methods can be a prior; a mixture potential is one."""

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """One example of shape `shape`."""
        ...

    def log_prob(self, position: Float[Array, "*event"], /) -> Scalar:
        """The log density at one example, summed over its coordinates, in nats."""
        ...


class NormalPrior(eqx.Module):
    """N(mean, scale scale^T).

    Args:
        mean: a number or an array of the position's shape.
        scale: a positive number, a positive array of the position's shape (one standard deviation a coordinate), or
            an invertible matrix S of `shape + shape`, x = mean + S e with e white.

    Raises:
        ValueError: a number or a diagonal scale that is not positive, a matrix that has no inverse.
    """

    mean: float | Float[Array, "..."]
    scale: float | Float[Array, "..."]

    @checked
    def __init__(self, mean: ArrayLike = 0.0, scale: ArrayLike = 1.0):
        self.mean = as_parameter(mean, "mean")
        self.scale = as_parameter(scale, "scale")
        if not linear.is_square(jnp.shape(self.scale)):
            require(self.scale, lambda s: jnp.asarray(s) > 0, f"scale must be positive, got {self.scale}")
        else:
            linear.require_matrix_or_positive(jnp.asarray(self.scale), "scale")

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """One example of shape `shape`, in jax's default float."""
        noise = jr.normal(key, shape)
        scale = self._scale(noise)
        return fit(self.mean, noise.shape, noise.dtype, "mean") + linear.apply(scale, noise)

    def log_prob(self, position: Float[Array | np.ndarray, "*event"] | ScalarLike) -> Scalar:
        """log N(x; mean, scale scale^T), in nats."""
        position = as_floating(position)
        scale = self._scale(position)
        mean = fit(self.mean, position.shape, position.dtype, "mean")
        white = linear.apply(linear.inverse(scale), position - mean)
        log_det = linear.log_abs_det(scale, position.size)
        return -0.5 * jnp.sum(white**2) - log_det - 0.5 * position.size * math.log(2.0 * math.pi)

    def _scale(self, like: Array) -> linear.Operator:
        scale = linear.as_operator(self.scale, like.shape, like.dtype, "scale")
        linear.require_invertible(scale, "scale")
        return scale


class UniformPrior(eqx.Module):
    """The uniform law on the box lower <= x <= upper.

    Args:
        lower: a number or an array of the position's shape.
        upper: likewise, above `lower` in every coordinate.

    Raises:
        ValueError: a lower end that is not below the upper one.
    """

    lower: float | Float[Array, "..."]
    upper: float | Float[Array, "..."]

    @checked
    def __init__(self, lower: ArrayLike = -1.0, upper: ArrayLike = 1.0):
        box = Box(lower, upper)  # the same checks
        self.lower, self.upper = box.lower, box.upper

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """One example of shape `shape`, in jax's default float."""
        u = jr.uniform(key, shape)
        lower, upper = fit(self.lower, u.shape, u.dtype, "lower"), fit(self.upper, u.shape, u.dtype, "upper")
        return jnp.minimum(lower + (upper - lower) * u, jnp.broadcast_to(jnp.asarray(upper, u.dtype), shape))

    def log_prob(self, position: Float[Array | np.ndarray, "*event"] | ScalarLike) -> Scalar:
        """-log volume inside, minus infinity outside."""
        position = as_floating(position)
        lower = fit(self.lower, position.shape, position.dtype, "lower")
        upper = fit(self.upper, position.shape, position.dtype, "upper")
        length = jnp.broadcast_to(jnp.asarray(upper - lower, position.dtype), position.shape)
        inside = jnp.all((position >= lower) & (position <= upper))
        return jnp.where(inside, -jnp.sum(jnp.log(length)), -jnp.inf)


class ScaledPrior(eqx.Module):
    """The law of factor x, x from another prior.

    Args:
        prior: with `sample` and `log_prob`.
        factor: a positive number.

    Raises:
        ValueError: a factor that is not positive.
    """

    prior: Prior
    factor: float | Float[Array, ""]

    @checked
    def __init__(self, prior: Prior, factor: ScalarLike):
        self.prior, self.factor = prior, as_parameter(factor, "factor")
        require(self.factor, lambda c: jnp.asarray(c) > 0, f"factor must be positive, got {self.factor}")

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """One example of shape `shape`, in jax's default float."""
        x = self.prior.sample(key, shape)
        return jnp.asarray(self.factor, x.dtype) * x

    def log_prob(self, position: Float[Array | np.ndarray, "*event"] | ScalarLike) -> Scalar:
        """log p(x / factor) - size log factor, in nats."""
        position = as_floating(position)
        factor = jnp.asarray(self.factor, position.dtype)
        return self.prior.log_prob(position / factor) - position.size * jnp.log(factor)
