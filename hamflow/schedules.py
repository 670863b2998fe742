"""Schedules: another clock and another unit of length for a flow, as x_t -> scale(t) x_{time(t)}.

`hamflow.reschedule` makes a flow of a flow and a schedule. Variance-exploding and variance-preserving diffusions are
`hf.diffusion()` by another clock (Song et al. 2021, written as sigma and scale by Karras et al. 2022, table 1).
"""

import abc
import math
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp

from ._module import AbstractModule
from ._parameters import is_concrete, require
from ._types import Array, checked
from .potentials.function import as_callable


class AbstractSchedule(AbstractModule):
    """An increasing clock time(t) with time(0) = 0, and a positive scale(t) with scale(0) = 1."""

    @abc.abstractmethod
    def time(self, t: Array) -> Array:
        """The time of the flow it is put on, at the new time t: scalars of one dtype."""

    @abc.abstractmethod
    def scale(self, t: Array) -> Array:
        """What positions are multiplied by at the new time t."""

    @abc.abstractmethod
    def inverse(self, time: Array) -> Array:
        """The new time at which the old one is `time`."""

    @abc.abstractmethod
    def keeps_scale(self) -> bool:
        """Whether scale(t) is 1 at all times, as walls ask."""

    @abc.abstractmethod
    def is_for_diffusion(self) -> bool:
        """Whether it takes the old time for a standard deviation of noise, as only x_t = x_0 + t e has it."""


@final
class Schedule(AbstractSchedule):
    """A clock and a scale of one's own.

    Args:
        time: the flow's time as an increasing function of the new one, with time(0) = 0; a callable of a scalar array.
        horizon: the new horizon, where `time` is the flow's own horizon.
        scale: what positions are multiplied by, 1 at t = 0 and positive; None for 1 throughout.

    Raises:
        TypeError: a time or scale that cannot be called.
        ValueError: a horizon that is not positive; a time or a scale that starts elsewhere, a time that does not
            increase or a scale that is not positive (at 129 times).
    """

    time_function: Callable[[Array], Array]
    horizon: float = eqx.field(static=True)
    scale_function: Callable[[Array], Array] | None

    @checked
    def __init__(self, time: Any, horizon: float, scale: Any = None):
        self.time_function = as_callable(time, "time")
        self.scale_function = None if scale is None else as_callable(scale, "scale")
        self.horizon = float(horizon)
        if not 0.0 < self.horizon < math.inf:
            raise ValueError(f"horizon must be positive, got {self.horizon}")
        with jax.ensure_compile_time_eval():
            zero = jnp.zeros(())
            start, factor = self.time(zero), self.scale(zero)
            grid = self.horizon * jnp.linspace(0.0, 1.0, 129)
            times, scales = jax.vmap(self.time)(grid), jax.vmap(self.scale)(grid)
        require(start, lambda t: t == 0.0, f"time(0) must be 0, where the data are, and is {start}")
        require(factor, lambda c: jnp.abs(c - 1.0) < 1e-6, f"scale(0) must be 1, that of the data, and is {factor}")
        require(times, lambda t: jnp.diff(t) > 0, "time must increase from 0 to the horizon, and does not everywhere")
        small = 1e-6 * float(jnp.max(scales)) if is_concrete(scales) else 0.0
        require(scales, lambda c: c > small, "scale must be positive from 0 to the horizon, and is not everywhere")

    def time(self, t: Array) -> Array:
        return jnp.asarray(self.time_function(t), t.dtype)

    def scale(self, t: Array) -> Array:
        return jnp.ones_like(t) if self.scale_function is None else jnp.asarray(self.scale_function(t), t.dtype)

    def inverse(self, time: Array) -> Array:
        """By halving log t between 1e-30 of the horizon and all of it, so that small times keep their digits."""
        last = jnp.asarray(self.horizon, time.dtype)
        where = jax.vmap(self.time)

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2.0
            early = where(last * jnp.exp(middle)) < flat
            return jnp.where(early, middle, low), jnp.where(early, high, middle)

        flat = time.reshape(-1)
        ends = (jnp.full_like(flat, -69.0), jnp.zeros_like(flat))
        low, high = jax.lax.fori_loop(0, 50, halve, ends)
        found = jnp.where(flat > 0, last * jnp.exp((low + high) / 2.0), jnp.zeros_like(flat))
        return found.reshape(time.shape)

    def keeps_scale(self) -> bool:
        return self.scale_function is None

    def is_for_diffusion(self) -> bool:
        return False


@final
class VarianceExploding(AbstractSchedule):
    """sigma = sqrt(t), no scale: x_t = x_0 + sqrt(t) e, noise of constant rate. For `hf.diffusion()`."""

    def time(self, t: Array) -> Array:
        return jnp.sqrt(t)

    def scale(self, t: Array) -> Array:
        return jnp.ones_like(t)

    def inverse(self, time: Array) -> Array:
        return time**2

    def keeps_scale(self) -> bool:
        return True

    def is_for_diffusion(self) -> bool:
        return True


@final
class VariancePreserving(AbstractSchedule):
    """beta(t) = beta_min + (beta_max - beta_min) t: x_t = sqrt(m) x_0 + sqrt(1 - m) e. For `hf.diffusion()`.

    m = exp(-B), B = int_0^t beta = beta_min t + (beta_max - beta_min) t^2 / 2, so sigma = sqrt(exp(B) - 1) and the
    scale is exp(-B / 2) (Song et al. 2021, equation 33). The horizon is where sigma is the diffusion's own: .934 for
    its 80, and 1 for 152.2.

    Args:
        beta_min: beta at t = 0, positive.
        beta_max: beta at t = 1, not below beta_min.

    Raises:
        ValueError: numbers out of that order.
    """

    beta_min: float
    beta_max: float

    @checked
    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        if not 0.0 < beta_min <= beta_max:
            raise ValueError(f"beta_min and beta_max must be positive and in order, got {beta_min} and {beta_max}")
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)

    def integral(self, t: Array) -> Array:
        """B(t)."""
        first, growth = self._rates(t)
        return first * t + growth / 2.0 * t**2

    def time(self, t: Array) -> Array:
        return jnp.sqrt(jnp.expm1(self.integral(t)))

    def scale(self, t: Array) -> Array:
        return jnp.exp(-self.integral(t) / 2.0)

    def inverse(self, time: Array) -> Array:
        total, (first, growth) = jnp.log1p(time**2), self._rates(time)
        # The root of B(t) = total without a difference of near numbers.
        return 2.0 * total / (first + jnp.sqrt(first**2 + 2.0 * growth * total))

    def keeps_scale(self) -> bool:
        return False

    def is_for_diffusion(self) -> bool:
        return True

    def _rates(self, t: Array) -> tuple[Array, Array]:
        first, last = jnp.asarray(self.beta_min, t.dtype), jnp.asarray(self.beta_max, t.dtype)
        return first, last - first
