"""What a flow is made of, by another clock and in another unit of length: a canonical transformation.

x~ = c(t) x and p~ = p / c(t) at the old time r(t). With H~ = r' H(r, x~ / c, c p~) + (c' / c) x~ . p~ the equations of
motion are those of the old system seen through the change (derived here), so a rescheduled system is one like others.
"""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp

from . import _linear as linear
from ._types import Array, Float, PRNGKeyArray, ScalarLike
from .couplings import AbstractAffineCoupling, AbstractConditionalCoupling, AbstractCoupling
from .domains import AbstractDomain
from .priors import NormalPrior, Prior, ScaledPrior
from .propagators import AbstractLinearPropagator, AbstractPropagator
from .schedules import AbstractSchedule
from .state import PhaseState
from .system import AbstractSystem


@final
class RescheduledSystem(AbstractSystem):
    """A system in another clock and unit of length. `hamflow.reschedule` makes it.

    `least` is a time near 0, or 0: a clock such as sqrt(t) has no slope at 0, and is asked for it there.
    """

    system: AbstractSystem
    schedule: AbstractSchedule
    least: float = eqx.field(static=True)

    @property
    def domain(self) -> AbstractDomain:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the system."""
        return self.system.domain

    def vector_field(self, t: ScalarLike, state: PhaseState, args: Any = None) -> PhaseState:
        time, rate, c, growth = self.clock(jnp.asarray(t, state.position.dtype))
        old = self.system.vector_field(time, PhaseState(state.position / c, c * state.momentum))
        return PhaseState(
            rate * c * old.position + growth * state.position, rate / c * old.momentum - growth * state.momentum
        )

    def velocity(self, t: ScalarLike, state: PhaseState) -> Float[Array, "*event"]:
        time, rate, c, growth = self.clock(jnp.asarray(t, state.position.dtype))
        old = self.system.velocity(time, PhaseState(state.position / c, c * state.momentum))
        return rate * c * old + growth * state.position

    def propagator(self) -> AbstractPropagator | None:
        motion = self.system.propagator()
        if isinstance(motion, AbstractLinearPropagator):
            return RescheduledLinearMotion(motion, self.schedule, self.least)
        return None if motion is None else RescheduledMotion(motion, self.schedule)

    def away_from_zero(self, t: Array) -> Array:
        """t, or `least` where that is nearer to 0."""
        return _away_from_zero(t, self.least)

    def clock(self, t: Array) -> tuple[Array, Array, Array, Array]:
        """r, r', c and c' / c."""
        t = _away_from_zero(t, self.least)
        time, rate = jax.jvp(lambda t: _time(self.schedule, t), (t,), (jnp.ones_like(t),))
        scale, growth = jax.jvp(lambda t: _scale(self.schedule, t), (t,), (jnp.ones_like(t),))
        return time, rate, scale, growth / scale


@final
class RescheduledMotion(AbstractPropagator):
    """Back to the old state, along its motion, and forth."""

    motion: AbstractPropagator
    schedule: AbstractSchedule

    def __call__(self, t0: Array, t: Array, state: PhaseState) -> PhaseState:
        first, last = _scale(self.schedule, t0), _scale(self.schedule, t)
        old = self.motion(
            _time(self.schedule, t0),
            _time(self.schedule, t),
            PhaseState(state.position / first, first * state.momentum),
        )
        return PhaseState(last * old.position, old.momentum / last)


@final
class RescheduledLinearMotion(AbstractLinearPropagator):
    """The same of a linear motion, which stays linear."""

    motion: AbstractLinearPropagator
    schedule: AbstractSchedule
    least: float = eqx.field(static=True)

    def blocks(self, t0: Array, t: Array, shape: tuple[int, ...] | None) -> tuple[Any, Any, Any, Any]:
        (start, first), end, last = _start(self.schedule, t0), self._steady(_time, t), self._steady(_scale, t)
        a, b, c, d = self.motion.operators(start, end, shape)
        factors = (last / first, last * first, 1.0 / (last * first), first / last)
        return tuple(  # pyright: ignore[reportReturnType]
            linear.compose(linear.Scaling(factor), block) for factor, block in zip(factors, (a, b, c, d), strict=True)
        )

    def _steady(self, f: Any, t: Array) -> Array:
        """f(t), with the slope that f has a little later where t is 0: sqrt(t) has none there."""
        held = jax.lax.stop_gradient(t)
        slope_only = f(self.schedule, _away_from_zero(held, self.least) + (t - held))
        value = jax.lax.stop_gradient(f(self.schedule, held))
        return value + (slope_only - jax.lax.stop_gradient(slope_only))


@final
class RescheduledCoupling(AbstractAffineCoupling, AbstractConditionalCoupling):
    """The first states of the flow that was rescheduled: that of its coupling, in its own system, horizon and prior."""

    coupling: AbstractCoupling

    def noise_is_normal(self) -> bool:
        return isinstance(self.coupling, AbstractAffineCoupling) and self.coupling.noise_is_normal()

    def sample(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "batch *event"],
        system: AbstractSystem,
        prior: Prior,
        horizon: float | Array,
    ) -> PhaseState:
        return self.coupling.sample(key, data, *_before(system, prior, horizon))

    def sample_given(
        self,
        condition: Any,
        key: PRNGKeyArray,
        data: Float[Array, "batch *event"],
        system: AbstractSystem,
        prior: Prior,
        horizon: float | Array,
    ) -> PhaseState:
        if not isinstance(self.coupling, AbstractConditionalCoupling):
            return self.sample(key, data, system, prior, horizon)
        return self.coupling.sample_given(condition, key, data, *_before(system, prior, horizon))

    def require_system(self, system: AbstractSystem) -> None:
        if not isinstance(system, RescheduledSystem):
            raise ValueError("RescheduledCoupling is for a RescheduledSystem: use hamflow.reschedule, which makes both")
        self.coupling.require_system(system.system)

    def momentum_coefficients(
        self, system: AbstractSystem, prior: Prior, horizon: float | Array, shape: tuple[int, ...] | None, dtype
    ) -> tuple[linear.Operator, linear.Operator] | None:
        if not isinstance(self.coupling, AbstractAffineCoupling):
            return None
        return self.coupling.momentum_coefficients(*_before(system, prior, horizon), shape, dtype)


def _before(system: AbstractSystem, prior: Prior, horizon: float | Array) -> tuple[AbstractSystem, Prior, Array]:
    """System, prior and horizon as they were: each is kept in one place, the new flow."""
    assert isinstance(system, RescheduledSystem)  # refused when the flow was built
    return (
        system.system,
        _unscaled(prior, system.schedule, horizon),
        _time(system.schedule, jnp.asarray(horizon, float)),
    )


def _unscaled(prior: Prior, schedule: AbstractSchedule, horizon: float | Array) -> Prior:
    """The prior in the old unit of length."""
    if schedule.keeps_scale():
        return prior
    if isinstance(prior, ScaledPrior):  # as `reschedule` made it
        return prior.prior
    factor = 1.0 / _scale(schedule, jnp.asarray(horizon, float))
    if isinstance(prior, NormalPrior):  # still normal, which closed forms ask for
        mean = prior.mean if isinstance(prior.mean, float) and prior.mean == 0.0 else factor * prior.mean
        return NormalPrior(mean, factor * prior.scale)
    return ScaledPrior(prior, factor)


def _time(schedule: AbstractSchedule, t: Array) -> Array:
    """The clock, odd in t: a schedule knows no times before the data."""
    return jnp.where(t < 0, -1.0, 1.0).astype(t.dtype) * schedule.time(jnp.abs(t))


def _scale(schedule: AbstractSchedule, t: Array) -> Array:
    """The scale, even in t."""
    return schedule.scale(jnp.abs(t))


def _start(schedule: AbstractSchedule, t0: Array) -> tuple[Array, Array]:
    """Clock and scale where a motion starts: 0 and 1 at 0, without asking the slope of sqrt there."""
    zero = t0 == 0
    safe = jnp.where(zero, jnp.ones_like(t0), t0)
    time = jnp.where(zero, jnp.zeros_like(t0), _time(schedule, safe))
    return time, jnp.where(zero, jnp.ones_like(t0), _scale(schedule, safe))


def _away_from_zero(t: Array, least: float | Array) -> Array:
    least = jnp.asarray(least, t.dtype)
    return jnp.where(t < 0, jnp.minimum(t, -least), jnp.maximum(t, least))
