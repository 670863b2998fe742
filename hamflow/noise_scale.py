"""One noise scale a flow: log sigma(t), how much noise there is against how much data, and its inverse.

From it come the network's time input c_noise = log_sigma / 4, the time law of training (log-normal in sigma) and the
grid of sampling (rho-spaced in sigma). Diffusion's is sigma = t; an oscillation's is tan(wt) / w.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import _linear as linear
from ._parameters import as_time, at_once, cast, is_concrete
from ._types import Array, Float, ScalarLike
from .propagators import AbstractLinearPropagator, HarmonicMotion, LinearFreeMotion
from .rescheduled import RescheduledLinearMotion

# EDM's range of sampling (Karras et al. 2022, table 1), for data of a standard deviation about one half. A flow in
# other units (pixels from 0 to 255, metres) moves it: the flow's own largest noise says what its units are.
_SIGMA_MIN, _SIGMA_MAX = 0.002, 80.0
_NO_DATA = 1e-5  # a(T) below this is 0, and sigma infinite there: cos(pi / 2) is 4e-8 in single precision
_BELOW = 0.05  # of the smallest sigma of sampling: no noise to speak of, and the scale is held there
_TABLE = 1024


class AbstractNoiseScale(eqx.Module):
    """log sigma as an increasing function of time, finite on [0, horizon]."""

    horizon: eqx.AbstractVar[float | Array]

    @abc.abstractmethod
    def log_sigma(self, t: ScalarLike | Float[Array | np.ndarray, "*times"]) -> Float[Array, "*times"]:
        """log sigma at times of any shape."""

    @abc.abstractmethod
    def time(self, log_sigma: ScalarLike | Float[Array | np.ndarray, "*times"]) -> Float[Array, "*times"]:
        """The times at which log sigma has these values, clipped to [0, horizon]."""

    @abc.abstractmethod
    def span(self, dtype: Any = float) -> tuple[ScalarLike, ScalarLike]:
        """(sigma_min, sigma_max), the range that a grid of sampling should cover."""

    @abc.abstractmethod
    def for_data(self, data_std: float | Array | None) -> "AbstractNoiseScale":
        """The same scale for data of this standard deviation, one number; None where it is not known."""

    @abc.abstractmethod
    def log_unit(self, dtype: Any = float) -> Array:
        """log(2 data_std), the unit of sigma in which the data have EDM's deviation of one half; 0 if not known."""


class RatioNoiseScale(AbstractNoiseScale):
    """sigma = b / a of x_t = a x_0 + b e (root mean squares over the coordinates where they are not numbers).

    a = A + B alpha and b = B beta, from the blocks of the propagator and the coupling p_0 = alpha x_0 + beta e.
    The inverse is a formula for numbers. For diagonals and matrices it is a table and a step of Newton's method.

    Where data are left at the horizon, sigma ends at its value there. Where none are left (a quarter period,
    flow matching), sigma is infinite and held at 80, or between 16 and 1,600 times the noise b(T) where 80 is outside.
    """

    propagator: AbstractLinearPropagator
    alpha: linear.Operator
    beta: linear.Operator
    horizon: float | Array
    data_std: float | Array | None = None

    def for_data(self, data_std: float | Array | None) -> "RatioNoiseScale":
        return eqx.tree_at(lambda s: s.data_std, self, data_std, is_leaf=lambda leaf: leaf is None)

    def log_unit(self, dtype: Any = float) -> Array:
        if self.data_std is None:
            return jnp.zeros((), dtype)
        return jnp.log(2.0 * jnp.asarray(self.data_std, dtype))

    def log_sigma(self, t: ScalarLike | Float[Array | np.ndarray, "*times"]) -> Float[Array, "*times"]:
        return _log_sigma(self, as_time(t))

    def time(self, log_sigma: ScalarLike | Float[Array | np.ndarray, "*times"]) -> Float[Array, "*times"]:
        return _time(self, as_time(log_sigma))

    def span(self, dtype: Any = float) -> tuple[Array, Array]:
        a, b = self._root_mean_squares(jnp.asarray(self.horizon, dtype))
        without_data = a < _NO_DATA
        last = b / jnp.where(without_data, jnp.ones_like(a), a)
        if self.data_std is not None:
            half = 2.0 * jnp.asarray(self.data_std, a.dtype)  # where the data have a deviation of one half
            largest = jnp.where(without_data, _SIGMA_MAX * half, last)
            return jnp.minimum(_SIGMA_MIN * half, 7e-4 * largest), largest
        smallest = jnp.where(
            without_data, jnp.clip(_SIGMA_MIN, 2e-4 * b, 0.02 * b), jnp.clip(_SIGMA_MIN, 2.5e-6 * last, 7e-4 * last)
        )
        return smallest, jnp.where(without_data, jnp.clip(_SIGMA_MAX, 16.0 * b, 1600.0 * b), last)

    def unclipped(self, t: Array) -> Array:
        """log(b / a) at one time, a scalar."""
        a, b = self._root_mean_squares(t)
        tiny = float(jnp.finfo(t.dtype).tiny)
        return jnp.log(jnp.maximum(b, tiny)) - jnp.log(jnp.maximum(a, tiny))

    def increases(self) -> bool:
        """Whether sigma grows on all of [0, horizon], at 128 times; taken to be so where a parameter is traced."""
        if not is_concrete(self):
            return True
        with at_once():
            t = jnp.asarray(self.horizon, float) * (jnp.arange(128, dtype=float) + 0.5) / 128
            values = np.asarray(_unclipped(self, t))
        return bool(np.all(np.diff(values) > 0))

    def before(self, motion: RescheduledLinearMotion) -> "RatioNoiseScale":
        """The noise scale of the flow that was rescheduled."""
        horizon = motion.schedule.time(jnp.asarray(self.horizon, float))
        return eqx.tree_at(lambda s: (s.propagator, s.horizon), self, (motion.motion, horizon))

    def _root_mean_squares(self, t: Array) -> tuple[Array, Array]:
        a_block, b_block, _, _ = self.propagator.operators(jnp.zeros_like(t), t, None)
        alpha, beta = jax.tree.map(lambda value: cast(value, t.dtype), (self.alpha, self.beta))
        a = linear.add(a_block, linear.compose(b_block, alpha))
        b = linear.compose(b_block, beta)
        return linear.root_mean_square(a, t.dtype), linear.root_mean_square(b, t.dtype)

    def closed_form(self, sigma: Array) -> Array | None:
        """sigma = r beta / (1 + r alpha) with r = B / A, and r is t / m or tan(wt) / (m w)."""
        if not (isinstance(self.alpha, linear.Scaling) and isinstance(self.beta, linear.Scaling)):
            return None
        ratio = sigma / (cast(self.beta.value, sigma.dtype) - cast(self.alpha.value, sigma.dtype) * sigma)
        match self.propagator:
            case LinearFreeMotion(kinetic=kinetic) if jnp.shape(kinetic.mass) == ():
                return cast(kinetic.mass, sigma.dtype) * ratio
            case HarmonicMotion(frequency=f, mass=m) if jnp.shape(f) == () and jnp.shape(m) == ():
                w = jnp.asarray(self.propagator.angular_frequency((), sigma.dtype), sigma.dtype)
                free = w == 0.0  # no spring: the limit of arctan(m w r) / w
                w = jnp.where(free, jnp.ones_like(w), w)
                straight = cast(m, sigma.dtype) * ratio
                return jnp.where(free, straight, jnp.arctan(w * straight) / w)
        return None

    def tabulated(self, log_sigma: Array) -> Array:
        horizon = cast(self.horizon, log_sigma.dtype)
        logit = jnp.linspace(-16.0, 16.0, _TABLE, dtype=log_sigma.dtype)
        table = self.log_sigma(horizon * jax.nn.sigmoid(logit))
        t = jax.lax.stop_gradient(horizon * jax.nn.sigmoid(jnp.interp(log_sigma, table, logit)))
        # A step of Newton's method: the table's error goes, and the time gets its derivatives.
        value, slope = jax.jvp(self.log_sigma, (t,), (jnp.ones_like(t),))
        slope = jax.lax.stop_gradient(slope)
        rising = slope > 0  # not where log sigma is held
        return t + jnp.where(rising, (log_sigma - value) / jnp.where(rising, slope, jnp.ones_like(slope)), 0.0)


# Each is one program where a person asks outside jit, and not one for every operation in it: seconds for matrices.
@eqx.filter_jit
def _unclipped(scale: RatioNoiseScale, t: Array) -> Array:
    return jax.vmap(scale.unclipped)(t)


@eqx.filter_jit
def _log_sigma(scale: RatioNoiseScale, t: Array) -> Array:
    wide = _at_least_single(t)
    values = jax.vmap(scale.unclipped)(wide.reshape(-1)).reshape(t.shape)
    smallest, largest = scale.span(wide.dtype)
    return jnp.clip(values, jnp.log(_BELOW * smallest), jnp.log(largest)).astype(t.dtype)


@eqx.filter_jit
def _time(scale: RatioNoiseScale, given: Array) -> Array:
    if isinstance(scale.propagator, RescheduledLinearMotion):  # the same sigma, by another clock
        t = scale.propagator.schedule.inverse(scale.before(scale.propagator).time(given))
        return jnp.minimum(t, cast(scale.horizon, t.dtype))
    # All finite after the exponential, in single precision too.
    log_sigma = jnp.clip(_at_least_single(given), -60.0, 60.0)
    t = scale.closed_form(jnp.exp(log_sigma))
    horizon = cast(scale.horizon, log_sigma.dtype)
    return jnp.clip(scale.tabulated(log_sigma) if t is None else t, 0.0, horizon).astype(given.dtype)


class AffineNoiseScale(AbstractNoiseScale):
    """For flows without a ratio that grows: log sigma runs from -3.6 to 1.2, linearly in t / horizon.

    The range is two standard deviations about the mean of EDM's training law (Karras et al. 2022, table 1: ln sigma of
    mean -1.2 and deviation 1.2), so that law and its sampling grid spread over the whole of [0, horizon].
    """

    horizon: float | Array

    def log_sigma(self, t: ScalarLike | Float[Array | np.ndarray, "*times"]) -> Float[Array, "*times"]:
        t = as_time(t)
        return -3.6 + 4.8 * t / cast(self.horizon, t.dtype)

    def time(self, log_sigma: ScalarLike | Float[Array | np.ndarray, "*times"]) -> Float[Array, "*times"]:
        log_sigma = as_time(log_sigma)
        horizon = cast(self.horizon, log_sigma.dtype)
        return jnp.clip((log_sigma + 3.6) / 4.8 * horizon, 0.0, horizon)

    def span(self, dtype: Any = float) -> tuple[float, float]:
        return _SIGMA_MIN, _SIGMA_MAX

    def for_data(self, data_std: float | Array | None) -> "AffineNoiseScale":
        return self  # it counts in horizons, whatever the unit of the data

    def log_unit(self, dtype: Any = float) -> Array:
        return jnp.zeros((), dtype)


def _at_least_single(x: Array) -> Array:
    """Half precision cannot hold the squares of small noise."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
