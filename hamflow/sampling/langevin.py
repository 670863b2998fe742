"""The underdamped Langevin thermostat, through diffrax: a system in a bath of temperature T.

    dx = v dt,   dp = (F(t, x) - friction p) dt + sqrt(2 friction m k T) dW,   v = p / m

It draws, so it lives with the samplers: with F = -grad U and time to settle, states follow exp(-H / kT). No step is
accepted or rejected, so no energy is asked for and any force will do, a learned one too; what the steps get wrong stays
in the law, of second order in the step. For an exact law of an energy use `to_blackjax`.

diffrax's solvers for this equation (ALIGN, ShOULD, QUICSORT) solve friction and noise of a step exactly. Without
friction ALIGN is the leapfrog, so weak friction is no trouble; a general solver of stochastic equations gains energy
there faster than the bath takes it.
"""

import dataclasses
from typing import Any, final

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._parameters import as_parameter, cast, fit, is_concrete, require
from .._times import elapsed, require_resolved
from .._types import Array, PRNGKeyArray, ScalarLike, checked
from ..domains import Euclidean
from ..integrators.guards import require_finite
from ..kinetics import GaussianKinetic
from ..potentials.base import AbstractForce
from ..state import PhaseState
from ..system import AbstractSystem, ForcedSystem, Hamiltonian

LangevinState = tuple[tuple[Array, Array], tuple[Array, Array]]
SOLVERS = (diffrax.ALIGN, diffrax.ShOULD, diffrax.QUICSORT)


@checked
def langevin(
    system: AbstractSystem,
    state: PhaseState,
    t1: ScalarLike,
    num_steps: int,
    key: PRNGKeyArray,
    *,
    friction: Any,
    temperature: Any = 1.0,
    t0: ScalarLike = 0.0,
    solver: Any = None,
) -> PhaseState:
    """Follow a system in a heat bath from `t0` to `t1` in `num_steps` equal steps.

    Args:
        system: a `Hamiltonian` or a `ForcedSystem` in Euclidean space, its mass a number or diagonal.
        state: one phase state at `t0`, without a batch axis (`vmap` over states and keys for more).
        t1: the time to reach, after `t0`.
        num_steps: how many steps, at least 1, one force each with ALIGN.
        key: of the noise.
        friction: the rate at which momentum is forgotten, per unit of time, not negative: a number, or an array of the
            position's shape. With 0 nothing of the bath is left, and ALIGN takes the steps of the leapfrog.
        temperature: k T > 0 in the system's unit of energy, a number.
        t0: the time of `state`.
        solver: `diffrax.ALIGN()` if None; or `diffrax.ShOULD()`, `diffrax.QUICSORT()`: order 3 in smooth forces, for
            more forces a step.

    Returns:
        The state at `t1`. It can be differentiated forward (`jax.jvp`, `jax.jacfwd`); for a gradient backward, solve
        `langevin_terms` with a `diffrax.VirtualBrownianTree`, which knows its noise again.

    Raises:
        TypeError: a system without kicks, a kinetic energy that is no `GaussianKinetic`, another kind of solver.
        ValueError: a domain that folds, a dense mass, a friction in the system as well, parameters out of range, times
            that do not grow.
        RuntimeError: a state that becomes non-finite on the way.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if solver is not None and not isinstance(solver, SOLVERS):
        raise TypeError(f"solver must be diffrax.ALIGN(), diffrax.ShOULD() or diffrax.QUICSORT(), got {solver!r}")
    if is_concrete(t0, t1) and not np.asarray(t1) > np.asarray(t0):
        raise ValueError(f"t1 must be after t0, got {t1} and {t0}: heat does not flow back")
    _parts(system, friction, temperature)
    duration = elapsed(t0, t1, state.position.dtype)
    step = (np.asarray(t1, float) - np.asarray(t0, float)) / num_steps if is_concrete(t0, t1) else 0.0
    start = 0.0 if require_resolved(system, state, step, t0, t1) else t0
    return _langevin(
        system,
        state,
        jnp.asarray(start, state.position.dtype),
        duration,
        num_steps,
        key,
        friction,
        temperature,
        solver or diffrax.ALIGN(),
    )


@eqx.filter_jit
def _langevin(system, state, t0, duration, num_steps, key, friction, temperature, solver) -> PhaseState:
    dtype = state.position.dtype
    duration = eqx.error_if(duration, ~(duration > 0), "langevin: t1 must be after t0")
    fit(jnp.asarray(friction), state.position.shape, dtype, "friction")
    area = diffrax.SpaceTimeLevyArea if isinstance(solver, diffrax.ALIGN) else diffrax.SpaceTimeTimeLevyArea
    # Equal steps, each asked for once: fresh noise a step is the whole path.
    path = diffrax.UnsafeBrownianPath(jax.ShapeDtypeStruct(state.position.shape, dtype), key, area)
    grid = t0 + duration * jnp.linspace(0.0, 1.0, num_steps + 1, dtype=dtype)
    solution = diffrax.diffeqsolve(
        langevin_terms(system, friction, temperature, path),
        solver,
        t0=grid[0],
        t1=grid[-1],
        dt0=None,
        y0=langevin_state(system, state, t0),
        stepsize_controller=diffrax.StepTo(grid),
        max_steps=num_steps + 1,
        adjoint=diffrax.ForwardMode(),  # the one that fresh noise works with
    )
    assert solution.ys is not None
    (position, _), (velocity, _) = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
    return require_finite(PhaseState(position, system.kinetic.momentum(velocity)))


@checked
def langevin_terms(
    system: AbstractSystem,
    friction: Any,
    temperature: Any,
    brownian_path: diffrax.AbstractBrownianPath,
) -> diffrax.MultiTerm:
    """The thermostat as terms for diffrax's ALIGN, ShOULD and QUICSORT, with all of `diffeqsolve`'s options.

    diffrax's state is ((x, t), (v, 1)): its Langevin equation has velocities for momenta, and knows no time, so the
    clock is one more position, of velocity 1, which no bath touches. `langevin_state` makes it; back again,
    `PhaseState(x, system.kinetic.momentum(v))`.

    Args:
        system: as in `langevin`.
        friction: as in `langevin`.
        temperature: as in `langevin`.
        brownian_path: a path of the position's shape, with the Lévy area that the solver wants:
            `diffrax.SpaceTimeLevyArea` for ALIGN, `diffrax.SpaceTimeTimeLevyArea` for the others.

    Raises:
        TypeError: as in `langevin`.
        ValueError: as in `langevin`.

    Example:
        ```python
        path = diffrax.VirtualBrownianTree(0.0, 9.0, 1e-3, (2,), key, diffrax.SpaceTimeLevyArea)
        terms, start = hf.langevin_terms(system, 1.0, 1.0, path), hf.langevin_state(system, state)
        diffrax.diffeqsolve(terms, diffrax.ALIGN(), 0.0, 9.0, 0.1, start, saveat=diffrax.SaveAt(ts=jnp.arange(10.0)))
        ```
    """
    force, mass, friction, temperature = _parts(system, friction, temperature)
    rate = (friction, 0.0)
    # dv = -friction v dt - u grad f dt + sqrt(2 friction u) dW is ours with u = kT / m and grad f = -F / kT.
    u = (temperature / mass, 0.0)

    def gradient(place: tuple[Array, Array], args: Any) -> tuple[Array, Array]:
        position, clock = place
        return -force.force(clock, position) / cast(temperature, position.dtype), jnp.zeros_like(clock)

    return diffrax.MultiTerm(
        diffrax.UnderdampedLangevinDriftTerm(rate, u, gradient),
        diffrax.UnderdampedLangevinDiffusionTerm(rate, u, WithClock(brownian_path)),
    )


@checked
def langevin_state(system: AbstractSystem, state: PhaseState, t0: ScalarLike = 0.0) -> LangevinState:
    """`state` at `t0` as diffrax's Langevin solvers want it: ((x, t), (v, 1)).

    Args:
        system: gives the velocity of a momentum.
        state: one phase state.
        t0: its time.
    """
    clock = jnp.asarray(t0, state.position.dtype)
    return (state.position, clock), (system.velocity(t0, state), jnp.ones_like(clock))


@final
class WithClock(diffrax.AbstractBrownianPath):
    """A Brownian path of positions, and none of the clock."""

    path: diffrax.AbstractBrownianPath
    t0: Any
    t1: Any
    levy_area: Any = eqx.field(static=True)

    def __init__(self, path: diffrax.AbstractBrownianPath):
        self.path, self.t0, self.t1, self.levy_area = path, path.t0, path.t1, path.levy_area

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:
        """The increment, the clock's being 0."""
        value = self.path.evaluate(t0, t1, left, use_levy)

        def pair(part: Array) -> tuple[Array, Array]:
            return part, jnp.zeros((), part.dtype)

        if not use_levy:
            return pair(value)
        names = [field.name for field in dataclasses.fields(value)]
        return type(value)(**{name: pair(getattr(value, name)) for name in names})


def _parts(system: AbstractSystem, friction: Any, temperature: Any) -> tuple[AbstractForce, Any, Any, Any]:
    """Force, mass, friction and temperature."""
    if not isinstance(system, (Hamiltonian, ForcedSystem)):
        raise TypeError(
            f"the thermostat acts on p = m v, and {type(system).__name__} has no kinetic energy of its own: use a "
            "Hamiltonian or a ForcedSystem"
        )
    if not isinstance(system.domain, Euclidean):
        raise ValueError(
            f"diffrax takes the steps, and cannot fold one at the ends of {type(system.domain).__name__}: use a "
            "Euclidean domain, with a force that keeps positions where they belong (or a periodic one, folding the end)"
        )
    if isinstance(system, ForcedSystem) and not system.is_frictionless:
        raise ValueError("this ForcedSystem has a friction of its own, without noise: pass it as `friction` instead")
    if not isinstance(system.kinetic, GaussianKinetic):
        raise TypeError(f"the thermostat needs p = m v, a GaussianKinetic, got {type(system.kinetic).__name__}")
    if not system.kinetic.is_even_in_each():
        raise ValueError(
            "diffrax's Langevin solvers take a mass that is a number or diagonal, and this one is a matrix: rotate the "
            "positions to its axes"
        )
    friction, temperature = as_parameter(friction, "friction"), as_parameter(temperature, "temperature")
    require(friction, lambda value: value >= 0, f"friction must not be negative, got {friction}")
    if jnp.shape(temperature) != ():
        raise ValueError(f"temperature must be one number, got shape {jnp.shape(temperature)}")
    require(temperature, lambda value: value > 0, f"temperature must be positive, got {temperature}")
    force = system.potential if isinstance(system, Hamiltonian) else system.force
    return force, system.kinetic.mass, friction, temperature
