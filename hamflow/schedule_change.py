"""A change of schedule, after training or before: a flow and its predictor by another clock, in another unit."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp

from ._parameters import at_once, is_concrete
from ._types import Array, Float, ScalarLike, checked
from .domains import Euclidean
from .flow import Flow
from .priors import ScaledPrior
from .rescheduled import RescheduledCoupling, RescheduledSystem
from .schedules import AbstractSchedule, Schedule

_LEAST = 1e-7  # of the horizon: less noise than any flow is asked about


@checked
def reschedule(flow: Flow, schedule: AbstractSchedule) -> Flow:
    """The flow x~_t = scale(t) x_{time(t)}: the same paths at another pace and in another unit.

    A linear flow stays one, with its coefficients, scalings, samplers and likelihood; `RescheduledVelocity` carries a
    trained predictor over. Where time and scale leave sigma = b / a alone, so do DDIM and the other samplers for linear
    flows on `rho_grid`; Euler and Heun follow other chords.

    Args:
        flow: in closed form.
        schedule: `VariancePreserving()` or `VarianceExploding()` for a diffusion, or a `Schedule` for any flow.

    Returns:
        A flow whose horizon is where the old one's is, and whose prior is the old one's times the scale there.

    Raises:
        TypeError: a traced horizon or schedule.
        ValueError: a flow with an integrator; walls or periods with a scale; a schedule of noise for another flow than
            a diffusion; a schedule that does not end at the flow's horizon.

    Example:
        ```python
        vp = hf.reschedule(hf.diffusion(), hf.VariancePreserving())
        samples = hf.generate(hf.RescheduledVelocity(model, vp), vp, key, (64, 2))
        ```
    """
    if flow.integrator is not None:
        raise ValueError(
            f"reschedule needs a flow in closed form, and this one follows {type(flow.integrator).__name__}: put the "
            "clock into its system, or leave out the integrator where there is a closed form"
        )
    if not (schedule.keeps_scale() or isinstance(flow.system.domain, Euclidean)):
        raise ValueError(
            f"{type(schedule).__name__} changes the unit of length, and a {type(flow.system.domain).__name__} keeps "
            "its size: use a Schedule without a scale"
        )
    if schedule.is_for_diffusion():
        _require_diffusion(flow, type(schedule).__name__)
    if not is_concrete(flow.horizon, schedule):
        raise TypeError(
            "reschedule asks the schedule for the new horizon, and something is traced: call it outside jit"
        )
    with at_once():
        horizon, least, factor = _ends(float(flow.horizon), schedule)
    return Flow(
        RescheduledSystem(system=flow.system, schedule=schedule, least=least),  # pyright: ignore[reportCallIssue]
        RescheduledCoupling(flow.coupling),
        horizon,
        flow.prior if schedule.keeps_scale() else ScaledPrior(flow.prior, factor),
    )


@final
class RescheduledVelocity(eqx.Module):
    """The velocity predictor of a rescheduled flow, made of that of the flow it was.

    V~(t, x) = time'(t) scale(t) V(time(t), x / scale(t)) + (scale' / scale) x.

    Args:
        predictor: `predictor(t, x, condition, key) -> velocity` of the old flow, on one example.
        flow: what `reschedule` returned.

    Raises:
        ValueError: a flow that was not rescheduled.
    """

    predictor: Callable[..., Any]
    flow: Flow

    @checked
    def __init__(self, predictor: Callable[..., Any], flow: Flow):
        if not isinstance(flow.system, RescheduledSystem):
            raise ValueError(
                f"flow must be one that hamflow.reschedule returned, and its system is a {type(flow.system).__name__}"
            )
        self.predictor, self.flow = predictor, flow

    def __call__(self, t: ScalarLike, x: Float[Array, "*event"], condition: Any = None, key: Any = None) -> Array:
        system = self.flow.system
        assert isinstance(system, RescheduledSystem)  # refused when it was built
        time, rate, c, growth = system.clock(jnp.asarray(t, x.dtype))
        return rate * c * self.predictor(time, x / c, condition, key) + growth * x


def _require_diffusion(flow: Flow, name: str) -> None:
    advice = f"{name} is a schedule of the noise of x_t = x_0 + t e (hf.diffusion): for another flow use hf.Schedule"
    if not flow.is_linear:
        raise ValueError(f"{advice}; this one is not linear")
    times = jnp.asarray(flow.horizon, float) * jnp.linspace(0.1, 1.0, 4)
    a, b = _data_and_noise(flow, times)
    if is_concrete(a, b) and not (a.ndim == 1 and bool(jnp.allclose(a, 1.0)) and bool(jnp.allclose(b, times))):
        raise ValueError(advice)


@eqx.filter_jit
def _data_and_noise(flow: Flow, times: Array) -> tuple[Array, ...]:
    return flow.coefficients(times)[:2]


def _ends(old: float, schedule: AbstractSchedule) -> tuple[float, float, float]:
    """The new horizon, a time near 0 where clock and scale have slopes, and the scale at the horizon."""
    horizon, reached, least, factor = (float(v) for v in _measured_ends(jnp.asarray(old, float), schedule))
    if not abs(reached - old) <= 1e-4 * old:
        raise ValueError(
            f"the schedule's clock reaches {reached:g} at its horizon, and the flow's horizon is {old:g}: "
            "time(horizon) must be that"
        )
    # As it was given, to the last digit.
    return schedule.horizon if isinstance(schedule, Schedule) else horizon, least, factor


@eqx.filter_jit  # one program, and not one an operation
def _measured_ends(old: Array, schedule: AbstractSchedule) -> tuple[Array, Array, Array, Array]:
    """The new horizon, the old time there, the time near 0 and the scale."""
    horizon = jnp.full_like(old, schedule.horizon) if isinstance(schedule, Schedule) else schedule.inverse(old)
    zero = jnp.zeros_like(old)
    slopes = [jax.jvp(f, (zero,), (jnp.ones_like(zero),))[1] for f in (schedule.time, schedule.scale)]
    steady = jnp.isfinite(slopes[0]) & jnp.isfinite(slopes[1])
    least = jnp.where(steady, zero, schedule.inverse(_LEAST * old))
    return horizon, schedule.time(horizon), least, schedule.scale(horizon)
