"""Priors: the simple law a flow is meant to reach at its horizon, from which generation starts."""

import math
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike

from . import _linear as linear
from ._parameters import as_floating, as_parameter, cast, fit, require
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
        self.mean, self.scale = as_parameter(mean, "mean"), _as_scale(scale)

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """One example of shape `shape`, in jax's default float."""
        noise = jr.normal(key, shape)
        scale = _scale_of(self.scale, noise)
        return fit(self.mean, noise.shape, noise.dtype, "mean") + linear.apply(scale, noise)

    def log_prob(self, position: Float[Array | np.ndarray, "*event"] | ScalarLike) -> Scalar:
        """log N(x; mean, scale scale^T), in nats."""
        position = as_floating(position)
        white, log_det = _whitened(self.mean, self.scale, position)
        return -0.5 * jnp.sum(white**2) - log_det - 0.5 * position.size * math.log(2.0 * math.pi)


class StudentTPrior(eqx.Module):
    """The multivariate Student-t law: x = mean + S z, z = n sqrt(nu / chi2_nu) with n white and one chi2 an example.

    Its covariance is nu / (nu - 2) S S^T where nu > 2; for nu -> infinity it is `NormalPrior`.

    Args:
        degrees_of_freedom: nu, one positive number.
        mean: a number or an array of the position's shape; the centre, where there is no mean (nu <= 1).
        scale: S, as in `NormalPrior`.

    Raises:
        ValueError: degrees of freedom that are not positive; a scale that `NormalPrior` would not take.
    """

    degrees_of_freedom: float | Float[Array, ""]
    mean: float | Float[Array, "..."]
    scale: float | Float[Array, "..."]

    @checked
    def __init__(
        self,
        degrees_of_freedom: ScalarLike | Float[Array | np.ndarray, ""],
        mean: ArrayLike = 0.0,
        scale: ArrayLike = 1.0,
    ):
        self.degrees_of_freedom = as_degrees_of_freedom(degrees_of_freedom)
        self.mean, self.scale = as_parameter(mean, "mean"), _as_scale(scale)

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """One example of shape `shape`, in jax's default float."""
        noise = student_t(key, self.degrees_of_freedom, shape)
        scale = _scale_of(self.scale, noise)
        return fit(self.mean, noise.shape, noise.dtype, "mean") + linear.apply(scale, noise)

    def log_prob(self, position: Float[Array | np.ndarray, "*event"] | ScalarLike) -> Scalar:
        """The log density at one example, in nats."""
        position = as_floating(position)
        white, log_det = _whitened(self.mean, self.scale, position)
        nu = jnp.asarray(cast(self.degrees_of_freedom, position.dtype), position.dtype)
        constant = _log_gamma_ratio(nu / 2.0, position.size / 2.0) - 0.5 * position.size * math.log(2.0 * math.pi)
        return constant - log_det - 0.5 * (nu + position.size) * jnp.log1p(jnp.sum(white**2) / nu)


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
        require(self.factor, lambda c: c > 0, f"factor must be positive, got {self.factor}")

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """One example of shape `shape`, in jax's default float."""
        x = self.prior.sample(key, shape)
        return jnp.asarray(self.factor, x.dtype) * x

    def log_prob(self, position: Float[Array | np.ndarray, "*event"] | ScalarLike) -> Scalar:
        """log p(x / factor) - size log factor, in nats."""
        position = as_floating(position)
        factor = jnp.asarray(self.factor, position.dtype)
        return self.prior.log_prob(position / factor) - position.size * jnp.log(factor)


def student_t(key: PRNGKeyArray, degrees_of_freedom: float | Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """One draw of the multivariate Student-t law of unit scale: a normal one over the root of a chi2 of mean 1.

    Its derivative in the degrees of freedom is right on average, not draw by draw: the chi2 is drawn by rejection.
    """
    keys = jr.split(key)
    noise = jr.normal(keys[0], shape)
    half = jnp.asarray(cast(degrees_of_freedom, noise.dtype), noise.dtype) / 2.0
    # By its logarithm: of few degrees of freedom a chi2 is often too small for a number.
    return noise * jnp.exp(0.5 * (jnp.log(half) - jr.loggamma(keys[1], half)))


def as_degrees_of_freedom(value: ScalarLike | Float[Array | np.ndarray, ""]) -> float | Array:
    """A positive number."""
    value = as_parameter(value, "degrees_of_freedom")
    require(value, lambda nu: nu > 0, f"degrees_of_freedom must be positive, got {value}")
    return value


def _log_gamma_ratio(x: Array, a: float) -> Array:
    """log Gamma(x + a) - log Gamma(x) - a log x, which is 0 for x -> infinity.

    The difference of the two logarithms would leave no digits of it in single precision. By the recurrence up to
    y = x + 8 and Stirling's series there, 2e-13 off.
    """
    steps = jnp.arange(8, dtype=x.dtype)
    y = x + 8.0
    first = (y + (a - 0.5)) * jnp.log1p(a / y) - a + a * jnp.log1p(8.0 / x)
    return first + _stirling(y + a) - _stirling(y) - jnp.sum(jnp.log1p(a / (x + steps)))


def _stirling(y: Array) -> Array:
    """log Gamma(y) less (y - 1/2) log y - y + log(2 pi) / 2."""
    terms = (1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0)
    return sum((c / y ** (2 * k + 1) for k, c in enumerate(terms)), start=jnp.zeros_like(y))


def _as_scale(scale: ArrayLike) -> float | Array:
    """A positive number, positive deviations or an invertible matrix."""
    value = as_parameter(scale, "scale")
    if not linear.is_square(jnp.shape(value)):
        require(value, lambda s: s > 0, f"scale must be positive, got {value}")
    else:
        linear.require_matrix_or_positive(jnp.asarray(value), "scale")
    return value


def _scale_of(scale: float | Array, like: Array) -> linear.Operator:
    operator = linear.as_operator(scale, like.shape, like.dtype, "scale")
    linear.require_invertible(operator, "scale")
    return operator


def _whitened(mean: float | Array, scale: float | Array, position: Array) -> tuple[Array, Array | float]:
    """S^-1 (x - mean) and log |det S|."""
    operator = _scale_of(scale, position)
    offset = position - fit(mean, position.shape, position.dtype, "mean")
    return linear.apply(linear.inverse(operator), offset), linear.log_abs_det(operator, position.size)
