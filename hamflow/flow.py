"""The flow: a system that starts at the data and runs to a simple law. The only place that knows the arrow of time.

**Data at t = 0, prior at t = horizon, everywhere.** Training runs forward: take a datum x_0, draw its first momentum
p_0 from the coupling, follow the system to a time t, and learn the velocity there from the position alone,
V*(t, x) = E[v_t | x_t = x]. Generation runs backward: draw x_T from the prior and follow dx/dt = V*(t, x) from the
horizon down to 0. Since q_t, the law of x_t, satisfies d q_t / dt + div(q_t V*) = 0, the end is distributed as the data
(Holderrieth, Xu, Jaakkola, "Hamiltonian Score Matching and Generative Flows", NeurIPS 2024).

Nothing else in hamflow asks where time starts. A converter from a library whose noise is at 0 says so in its name.

Known models as one object:

- diffusion: `Flow(Hamiltonian(ZeroPotential(), GaussianKinetic()), IndependentCoupling(), 80.0, NormalPrior(...))`;
- PFGM and PFGM++: the same with momenta that have heavy tails, `StudentTCoupling(D)`, and a `StudentTPrior`;
- flow matching: the same system with `CondOTCoupling()` and horizon 1;
- oscillation: `HarmonicPotential(w)`, independent, horizon a quarter of the period, pi / (2 w);
- reflection: `ZeroPotential()` in a `Box`;
- anything else: its potential, and `integrator=Leapfrog(step_size=...)`.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import _linear as linear
from ._parameters import as_parameter, as_time, is_concrete, require
from ._times import elapsed, require_resolved
from ._types import Array, Float, PRNGKeyArray, ScalarLike, checked
from .couplings import AbstractAffineCoupling, AbstractConditionalCoupling, AbstractCoupling
from .domains import Euclidean
from .integrators.base import AbstractIntegrator
from .integrators.guards import require_finite
from .integrators.steps import take_steps
from .noise_scale import AbstractNoiseScale, AffineNoiseScale, RatioNoiseScale
from .priors import Prior
from .propagators import AbstractLinearPropagator, AbstractPropagator, FreeMotion, free_motion
from .rescheduled import RescheduledSystem
from .state import PhaseState
from .system import AbstractSeparableSystem, AbstractSystem


class Flow(eqx.Module):
    """A system, how it starts, how long it runs and the law it reaches.

    Args:
        system: the physics.
        coupling: the law of the first momentum given the data.
        horizon: T > 0, in the system's unit of time.
        prior: the law of x_T that generation starts from; anything with `sample(key, shape)` and `log_prob(x)`.
        integrator: None where the motion is known in closed form; else an integrator with a step size, such as
            `hf.Leapfrog(step_size=0.01)`. Every `evolve` then takes n = ceil(horizon / step_size) equal steps, whatever
            its times, so that its length is known to the compiler; backward it retraces them. A system with a closed
            form follows the integrator too if it gets one, and is not linear then.

    Only types are checked: whether the prior is the law that the system reaches is for a person to know.

    Raises:
        TypeError: an argument of another kind, by name; an integrator that does not fit the system.
        ValueError: a horizon that is not positive, a system without a closed form and without an integrator, an
            integrator without a step size, a coupling that cannot draw momenta for the system.
    """

    system: AbstractSystem
    coupling: AbstractCoupling
    horizon: float | Float[Array, ""]
    prior: Prior
    integrator: AbstractIntegrator | None
    _built_horizon: float | None = eqx.field(static=True, repr=False)
    _sigma_increases: bool = eqx.field(static=True, repr=False)

    @checked
    def __init__(
        self,
        system: AbstractSystem,
        coupling: AbstractCoupling,
        horizon: ScalarLike | Float[Array | np.ndarray, ""],
        prior: Any,  # asked for its methods below, in words
        integrator: Any = None,
    ):
        self.system, self.coupling, self.prior = system, coupling, prior
        self.horizon = as_parameter(horizon, "horizon")
        require(self.horizon, lambda t: t > 0, f"horizon must be positive, got {self.horizon}")
        self.integrator = integrator
        _num_steps(integrator, self.horizon)
        self._built_horizon = None if integrator is None else float(self.horizon)
        if isinstance(prior, type):
            raise TypeError(f"prior is the class {prior.__name__}: give an object, as in {prior.__name__}(...)")
        for name, use in (("sample", "sample(key, shape), to start from"), ("log_prob", "log_prob(x), a density")):
            if not callable(getattr(prior, name, None)):
                raise TypeError(f"prior is a {type(prior).__name__}, which has no {name}: a prior needs {use}")
        propagator = system.propagator()
        if propagator is not None and not isinstance(propagator, AbstractPropagator):
            raise TypeError(
                f"{_describe(system)}: propagator must return a hamflow.AbstractPropagator or None, "
                f"got {type(propagator).__name__}"
            )
        if integrator is not None:
            integrator.require_system(system)
        elif propagator is None:
            fitting = "Leapfrog" if isinstance(system, AbstractSeparableSystem) else "ImplicitMidpoint"
            raise ValueError(
                f"{_describe(system)} has no closed form: give an integrator, as in "
                f"Flow(..., integrator=hamflow.{fitting}(step_size=...)), or give your potential a closed form "
                "(inherit from hamflow.AbstractSolvable and return a propagator)"
            )
        coupling.require_system(system)
        # Decided here, where parameters are known, so that traced and concrete code have one noise scale.
        scale = self._ratio()
        self._sigma_increases = scale is not None and scale.increases()

    @classmethod
    def _from_saved(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of a file: those of hamflow before the number of steps was derived had it as a field."""
        if "num_steps" in fields:
            num_steps = fields.pop("num_steps")
            fields["_built_horizon"] = None if num_steps is None else float(fields["horizon"])
        return fields

    @property
    def num_steps(self) -> int | None:
        """How many steps an integrator takes, ceil(horizon / step_size); None without one."""
        horizon = self.horizon if is_concrete(self.horizon) else self._built_horizon
        return _num_steps(self.integrator, horizon)  # pyright: ignore[reportArgumentType]

    # -- motion ------------------------------------------------------------------------------------------------------

    @checked
    def evolve(self, state: PhaseState, t: ScalarLike, t0: ScalarLike = 0.0) -> PhaseState:
        """The state at `t` of the trajectory that is `state` at `t0`.

        Args:
            state: one phase state, without a batch axis (`vmap` for more); floating, both parts of one shape and dtype.
            t: the time asked for, a scalar, before or after `t0`; cast to the position's dtype.
            t0: the time of `state`. Known times are subtracted in double precision first.

        Raises:
            ValueError: times that the position's dtype cannot tell apart, where the motion depends on them.
            TypeError: a state or a time of another shape or dtype, by name.
            RuntimeError: a position outside the domain (its boundary is inside); with an integrator, a state that
                becomes non-finite on the way.
        """
        x, p = _as_state(state.position, state.momentum)
        if not isinstance(self.system.domain, Euclidean):
            x = eqx.error_if(
                x,
                ~self.system.domain.contains(x),
                f"the position is outside the {type(self.system.domain).__name__} of this flow (or not a number): "
                "rescale the data into it, or widen its bounds",
            )
        state, duration = PhaseState(x, p), elapsed(t0, t, x.dtype)
        known = np.asarray(t, float) - np.asarray(t0, float) if is_concrete(t0, t) else 0.0
        near = is_concrete(t0) and np.asarray(t0, float) == 0.0
        if not near and require_resolved(self.system, state, known / (self.num_steps or 1), t0, t):
            t0, t = 0.0, duration  # the motion does not ask for the times themselves
        start, end = jnp.asarray(t0, x.dtype), jnp.asarray(t, x.dtype)
        if self.integrator is None:
            return self._propagator()(start, end, state)
        return require_finite(self._step(start, duration, state))

    @checked
    def trajectory(self, state: PhaseState, ts: Float[Array | np.ndarray, "times"], t0: ScalarLike = 0.0) -> PhaseState:
        """The states at the times `ts` of the trajectory that is `state` at `t0`.

        Args:
            state: one phase state.
            ts: monotone times, of shape `(times,)`.
            t0: the time of `state`; 0, where the data are, unless said otherwise.

        Returns:
            One `PhaseState` with a leading time axis.

        Raises:
            ValueError: times that go back and forth.
        """
        if is_concrete(ts, t0):
            known = np.asarray(ts, np.float64)
            from_start = known - np.asarray(t0, np.float64)
            apart = np.append(np.diff(known), from_start)
            if require_resolved(self.system, state, apart[apart != 0.0] if np.any(apart) else 0.0, t0, known):
                ts, t0 = from_start, 0.0
        ts = jnp.asarray(ts).astype(state.position.dtype)
        steps = jnp.diff(ts)
        monotone = jnp.all(steps >= 0) | jnp.all(steps <= 0)
        message = "ts must be monotone: sort the times"
        if is_concrete(monotone):
            require(monotone, lambda m: m, f"{message}, got {ts}" if is_concrete(ts) else message)
        else:
            ts = eqx.error_if(ts, ~monotone, message)
        return jax.vmap(lambda t: self.evolve(state, t, t0))(ts)

    @checked
    def sample_state(
        self,
        key: PRNGKeyArray,
        data: Float[Array | np.ndarray, "batch *event"],
        t: Float[Array | np.ndarray, "batch"],
        *,
        condition: Any = None,
    ) -> PhaseState:
        """Draw the first momenta from the coupling and evolve each example to its time.

        Args:
            key: a jax key.
            data: floating, of shape `(batch, *event)`; it decides the dtype of the states.
            t: one time an example, of shape `(batch,)`.
            condition: None, or one condition a row, for a coupling that looks at more than the row itself: a
                `MinibatchOTCoupling` pairs rows of one label.

        Returns:
            A batch of phase states at `t`.

        Raises:
            TypeError: arguments of another shape or dtype, by name.
            RuntimeError: a datum outside the domain.
        """
        data = jnp.asarray(data)
        rest = (key, data, self.system, self.prior, self.horizon)
        if condition is not None and isinstance(self.coupling, AbstractConditionalCoupling):
            first = self.coupling.sample_given(condition, *rest)
        else:
            first = self.coupling.sample(*rest)
        if jnp.shape(first.position) != data.shape:
            raise ValueError(
                f"{type(self.coupling).__name__}.sample returned positions of shape {jnp.shape(first.position)} for "
                f"data of shape {data.shape}: row i must have position data[i]"
            )
        return jax.vmap(self.evolve)(first, jnp.asarray(t).astype(data.dtype))

    def velocity(self, state: PhaseState, t: ScalarLike = 0.0) -> Float[Array, "*event"]:
        """dx/dt at one state. The time matters only for an energy in which t, x and p mix."""
        return self.system.velocity(jnp.asarray(t, state.position.dtype), state)

    # -- closed forms ------------------------------------------------------------------------------------------------

    @property
    def is_linear(self) -> bool:
        """Whether x_t = a(t) x_0 + b(t) e, in closed form, with e white and independent of x_0.

        e need not be normal: `has_normal_noise` says whether it is.
        """
        if self.integrator is not None:
            return False
        return isinstance(self._propagator(), AbstractLinearPropagator) and self._affine(None, float) is not None

    @property
    def has_normal_noise(self) -> bool:
        """Whether the flow is linear with a normal e.

        Then x_t given x_0 is normal, the velocity tells the score of x_t, and the laws on the way are also those of a
        process with normal noise. Denoisers, `Preconditioned` and the samplers without noise ask for `is_linear` only.
        """
        coupling = self.coupling
        return isinstance(coupling, AbstractAffineCoupling) and coupling.noise_is_normal() and self.is_linear

    @checked
    def coefficients(
        self, t: Float[Array | np.ndarray, "*times"] | ScalarLike, shape: tuple[int, ...] | None = None
    ) -> tuple[Array, Array, Array, Array]:
        """(a, b, da/dt, db/dt) of a linear flow: x_t = a x_0 + b e, v_t = a' x_0 + b' e, e of unit variance.

        Args:
            t: a time, or times of any shape, whose axes come first in every coefficient then.
            shape: of one position. It is needed only to tell one value a coordinate from a matrix where the
                position is square itself, `(d, d)`; without it such an array is read as a matrix.

        Returns:
            Each coefficient as a number, an array of the position's shape, or of `shape + shape`.

        Raises:
            ValueError: a flow that is not linear.
        """
        time = as_time(t)
        if time.ndim:  # a propagator could not tell an axis of times from one of positions
            values = jax.vmap(lambda one: self.coefficients(one, shape))(time.reshape(-1))
            return tuple(value.reshape(time.shape + value.shape[1:]) for value in values)  # pyright: ignore
        a, b, a_dot, b_dot = self.coefficient_operators(time, shape)
        return tuple(jnp.asarray(operator.value, time.dtype) for operator in (a, b, a_dot, b_dot))  # pyright: ignore

    def coefficient_operators(self, t: Array, shape: tuple[int, ...] | None) -> tuple[linear.Operator, ...]:
        """The same at one time, a scalar, as operators that act on positions."""
        propagator = None if self.integrator is not None else self._propagator()
        affine = self._affine(shape, t.dtype)
        if not isinstance(propagator, AbstractLinearPropagator) or affine is None:
            raise ValueError(
                f"{_describe(self.system)} with {type(self.coupling).__name__} and {type(self.prior).__name__} is not "
                "a linear flow x_t = a x_0 + b e, so it has no coefficients: use Preconditioned.from_data instead of "
                "formulas, and sample_state for its law (CondOTCoupling is linear with a NormalPrior whose mean is the "
                "number 0.0: centre the data)"
            )
        alpha, beta = affine

        def a_and_b(time: Array) -> tuple[linear.Operator, linear.Operator]:
            a_block, b_block, _, _ = propagator.operators(jnp.zeros_like(time), time, shape)
            a = linear.add(a_block, linear.compose(b_block, alpha))
            b = linear.compose(b_block, beta)
            # A constant block (A = 1) must carry a zero derivative of t's shape.
            return _like(a, time), _like(b, time)

        a, b = a_and_b(t)
        _, (a_tangent, b_tangent) = jax.jvp(a_and_b, (t,), (jnp.ones_like(t),))
        return a, b, linear.slope(a, a_tangent), linear.slope(b, b_tangent)

    def steady_time(self, t: Array) -> Array:
        """The time at which a predictor asks for a, b and their slopes: `t`, or a moment later.

        A flow by a clock such as sqrt(t) has no slope of b at t = 0, and b b' is the limit of its value next to it.
        """
        return self.system.away_from_zero(t) if isinstance(self.system, RescheduledSystem) else t

    @property
    def noise_scale(self) -> AbstractNoiseScale:
        """log sigma(t) of this flow and its inverse.

        sigma = b / a where the flow is linear (walls or not) and that grows up to the horizon; that of free motion
        where there is no closed form and the kinetic energy is Gaussian; else affine in t / T, as for an oscillation
        that runs past a quarter of its period.
        """
        scale = self._ratio()
        if scale is None:
            return AffineNoiseScale(self.horizon)
        # Parts may have been replaced since the flow was built.
        increases = scale.increases() if is_concrete(scale) else self._sigma_increases
        return scale if increases else AffineNoiseScale(self.horizon)

    def require_event(self, shape: tuple[int, ...]) -> None:
        """`ValueError` for positions so square that the noise scale would take a diagonal of theirs for a matrix."""
        parts = jax.tree.leaves((self.system, self.prior))
        if linear.is_square(shape) and any(jnp.shape(part) == shape for part in parts):
            raise ValueError(
                f"positions of shape {shape} with parameters of that shape: the noise scale cannot tell one value a "
                f"coordinate from a matrix there; flatten positions and parameters to ({math.prod(shape)},)"
            )

    def _ratio(self) -> RatioNoiseScale | None:
        propagator, affine = self.system.propagator(), self._affine(None, float)
        if propagator is None and isinstance(self.system, AbstractSeparableSystem):
            propagator = free_motion(self.system.kinetic, Euclidean())
        if isinstance(propagator, FreeMotion):
            propagator = propagator.unfolded()
        if not isinstance(propagator, AbstractLinearPropagator) or affine is None:
            return None
        alpha, beta = affine
        return RatioNoiseScale(propagator=propagator, alpha=alpha, beta=beta, horizon=self.horizon)

    def _propagator(self) -> AbstractPropagator:
        propagator = self.system.propagator()
        assert propagator is not None  # refused when the flow was built
        return propagator

    def _step(self, start: Array, duration: Array, state: PhaseState) -> PhaseState:
        """n equal steps; backward the adjoint method retraces them."""
        integrator, n = self.integrator, self.num_steps
        assert integrator is not None
        assert n is not None
        if not is_concrete(self.horizon):  # the number of steps is that of the horizon at which the flow was built
            built = jnp.asarray(self._built_horizon, float)
            duration = eqx.error_if(
                duration,
                jnp.abs(jnp.asarray(self.horizon, float) - built) > 1e-3 * built,  # else steps are as long as asked for
                f"horizon is not {self._built_horizon}, for which this flow counted its {n} steps, and it is traced: "
                "build the flow anew with Flow(...) outside jit, or keep the horizon a Python number",
            )
        return _stepped(self.system, integrator, state, start, duration / n, n)

    def _affine(self, shape: tuple[int, ...] | None, dtype) -> tuple[linear.Operator, linear.Operator] | None:
        if not isinstance(self.coupling, AbstractAffineCoupling):
            return None
        return self.coupling.momentum_coefficients(self.system, self.prior, self.horizon, shape, dtype)


@checked
def _as_state(position: Float[Array | np.ndarray, "*event"], momentum: Float[Array | np.ndarray, "*event"]):
    """The two as arrays; a `TypeError` names the one whose shape or dtype does not fit."""
    x, p = jnp.asarray(position), jnp.asarray(momentum)
    if x.dtype != p.dtype:
        raise TypeError(f"momentum is {p.dtype} and position {x.dtype}: cast one to the dtype of the other")
    return x, p


@eqx.filter_jit  # compiled once, and not at every call outside jit
def _stepped(
    system: AbstractSystem, integrator: AbstractIntegrator, state: PhaseState, start: Array, h: Array, n: int
) -> PhaseState:
    """n steps of h; backward by the adjoint method, which retraces those forward."""

    def steps(method: AbstractIntegrator) -> PhaseState:
        return take_steps(system, method, state, start, h, n)

    retraced = integrator.inverse()
    if retraced is integrator:
        return steps(integrator)
    return jax.lax.cond(h < 0, lambda: steps(retraced), lambda: steps(integrator))


def _num_steps(integrator: Any, horizon: float | Array) -> int | None:
    """ceil(horizon / step_size), or None without an integrator."""
    if integrator is None:
        return None
    if not isinstance(integrator, AbstractIntegrator):
        raise TypeError(
            f"integrator must be a hamflow integrator such as hamflow.Leapfrog(step_size=0.01), got {integrator!r}"
        )
    name = type(integrator).__name__
    if integrator.step_size is None:
        raise ValueError(f"integrator {name}() needs a step size in a Flow: {name}(step_size=...)")
    if not is_concrete(horizon):
        raise TypeError(
            "horizon must be a known number with an integrator, which counts its steps, and it is traced: build the "
            "flow outside jit and grad"
        )
    # A horizon of ten steps is ten steps, whatever the last digit of the quotient.
    return max(1, math.ceil(float(horizon) / integrator.step_size * (1.0 - 1e-6)))


def _like(operator: linear.Operator, time: Array) -> linear.Operator:
    """A constant block (A = 1) becomes an array of t's shape and dtype, so that it carries a derivative, zero."""
    if isinstance(operator, linear.Scaling):
        return linear.Scaling(operator.value + jnp.zeros_like(time))
    return operator


def _describe(system: AbstractSystem) -> str:
    parts = (getattr(system, name, None) for name in ("potential", "force", "energy_function", "kinetic", "domain"))
    names = [getattr(part, "__name__", type(part).__name__) for part in parts if part is not None]
    return f"{type(system).__name__}({', '.join(names)})"
