"""One noise scale a flow: log sigma(t), how much noise there is against how much data, and its inverse.

From it come the network's time input c_noise = log_sigma / 4, the time law of training (log-normal in sigma) and the
grid of sampling (rho-spaced in sigma). Diffusion's is sigma = t; an oscillation's is tan(wt) / w.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import _linear as linear
from ._parameters import as_time, cast
from ._types import Array, Float, ScalarLike
from .propagators import AbstractLinearPropagator, HarmonicMotion, LinearFreeMotion

_SMALLEST = 1e-4  # below this there is no noise to speak of: the scale is held there
_LARGEST = 80.0  # where the data vanish altogether (sigma infinite at the horizon) the scale is held here
_INFINITE = 1e5  # what rounding makes of infinity: 1 / cos(pi / 2) is 2e7 in single precision
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


class RatioNoiseScale(AbstractNoiseScale):
    """sigma = b / a of x_t = a x_0 + b e (root mean squares over the coordinates where they are not numbers).

    a = A + B alpha and b = B beta, from the blocks of the propagator and the coupling p_0 = alpha x_0 + beta e.
    The inverse is a formula for numbers. For diagonals and matrices it is a table, whose log sigma is off by less than
    1e-4, and by .01 next to the two ends.
    """

    propagator: AbstractLinearPropagator
    alpha: linear.Operator
    beta: linear.Operator
    horizon: float | Array

    def log_sigma(self, t: ScalarLike | Float[Array | np.ndarray, "*times"]) -> Float[Array, "*times"]:
        t = as_time(t)
        values = jax.vmap(self._square)(t.reshape(-1)).reshape(t.shape)
        last = self._square(jnp.asarray(self.horizon, t.dtype))
        top = jnp.where(last < _INFINITE**2, last, _LARGEST**2)
        return 0.5 * jnp.log(jnp.clip(values, _SMALLEST**2, jnp.broadcast_to(top, t.shape)))

    def time(self, log_sigma: ScalarLike | Float[Array | np.ndarray, "*times"]) -> Float[Array, "*times"]:
        log_sigma = as_time(log_sigma)
        log_sigma = jnp.clip(log_sigma, -60.0, 60.0)  # all finite after the exponential, in single precision too
        t = self._closed_form(jnp.exp(log_sigma))
        horizon = cast(self.horizon, log_sigma.dtype)
        return jnp.clip(self._tabulated(log_sigma) if t is None else t, 0.0, horizon)

    def _square(self, t: Array) -> Array:
        a_block, b_block, _, _ = self.propagator.operators(jnp.zeros_like(t), t, None)
        alpha, beta = jax.tree.map(lambda value: cast(value, t.dtype), (self.alpha, self.beta))
        a = linear.add(a_block, linear.compose(b_block, alpha))
        b = linear.compose(b_block, beta)
        tiny = float(jnp.finfo(t.dtype).tiny)
        return jnp.asarray(linear.mean_square(b) / jnp.maximum(linear.mean_square(a), tiny), t.dtype)

    def _closed_form(self, sigma: Array) -> Array | None:
        """sigma = r beta / (1 + r alpha) with r = B / A, and r is t / m or tan(wt) / (m w)."""
        if not (isinstance(self.alpha, linear.Scaling) and isinstance(self.beta, linear.Scaling)):
            return None
        ratio = sigma / (cast(self.beta.value, sigma.dtype) - cast(self.alpha.value, sigma.dtype) * sigma)
        match self.propagator:
            case LinearFreeMotion(kinetic=kinetic) if jnp.shape(kinetic.mass) == ():
                return cast(kinetic.mass, sigma.dtype) * ratio
            case HarmonicMotion(frequency=f, mass=m) if jnp.shape(f) == () and jnp.shape(m) == ():
                w = self.propagator.angular_frequency((), sigma.dtype)
                return jnp.arctan(cast(m, sigma.dtype) * w * ratio) / w
        return None

    def _tabulated(self, log_sigma: Array) -> Array:
        horizon = cast(self.horizon, log_sigma.dtype)
        logit = jnp.linspace(-16.0, 16.0, _TABLE, dtype=log_sigma.dtype)
        table = jax.lax.stop_gradient(self.log_sigma(horizon * jax.nn.sigmoid(logit)))
        return horizon * jax.nn.sigmoid(jnp.interp(log_sigma, table, logit))


class AffineNoiseScale(AbstractNoiseScale):
    """For flows without a ratio: log sigma runs from -3.6 to 1.2, linearly in t / horizon.

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
