"""The direct path: many steps in one call, with half-kicks merged, gradients, and what is asked for saved."""

from collections.abc import Callable
from typing import Any, Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._errors import ArgumentError
from .._numbers import as_whole
from .._parameters import is_concrete
from .._times import elapsed, require_resolved
from .._types import Array, Float, PyTree, ScalarLike, checked
from ..state import PhaseState
from ..system import AbstractSystem
from .base import AbstractIntegrator
from .composition import Leapfrog
from .guards import require_finite, require_start
from .lattice import lattice_steps, require_lattice
from .reversible import reversible_steps
from .steps import take_steps

Observables = Callable[[Array, PhaseState], PyTree]


class Trajectory(eqx.Module):
    """What `integrate` saved: the start and every `save_every`-th state, the last one included.

    Args:
        times: of shape `(saves,)`.
        states: a `PhaseState` with a leading axis of `saves`, or None where only observables were asked for.
        observables: what the observables returned, with a leading axis of `saves`, or None.
    """

    times: Float[Array, "saves"]
    states: PhaseState | None
    observables: PyTree


@overload
def integrate(
    system: AbstractSystem,
    state: PhaseState,
    t0: ScalarLike,
    t1: ScalarLike,
    num_steps: int,
    integrator: AbstractIntegrator = ...,
    adjoint: Literal["checkpoint", "reversible"] = ...,
    *,
    save_every: None = None,
    observables: None = None,
    save_states: bool = ...,
    resolution: float | None = ...,
) -> PhaseState: ...


@overload
def integrate(
    system: AbstractSystem,
    state: PhaseState,
    t0: ScalarLike,
    t1: ScalarLike,
    num_steps: int,
    integrator: AbstractIntegrator = ...,
    adjoint: Literal["checkpoint", "reversible"] = ...,
    *,
    save_every: int,
    observables: Observables | None = None,
    save_states: bool = ...,
    resolution: float | None = ...,
) -> Trajectory: ...


@checked
def integrate(
    system: AbstractSystem,
    state: PhaseState,
    t0: ScalarLike,
    t1: ScalarLike,
    num_steps: int | np.integer,
    integrator: AbstractIntegrator = Leapfrog(),  # noqa: B008
    adjoint: Literal["checkpoint", "reversible"] = "checkpoint",
    *,
    save_every: int | np.integer | None = None,
    observables: Observables | None = None,
    save_states: bool = True,
    resolution: float | None = None,
) -> PhaseState | Trajectory:
    """Follow a system from `t0` to `t1` in `num_steps` equal steps.

    Half-kicks of neighbouring steps merge, so leapfrog costs one force a step and one more.

    Args:
        system: any system that the integrator fits.
        state: one phase state, without a batch axis (`vmap` for more).
        t0: the time of `state`.
        t1: the time to reach, before or after `t0`. Known times are subtracted in double precision.
        num_steps: how many steps, at least 1.
        integrator: the method, without a `step_size` of its own.
        adjoint: how gradients go back. "checkpoint" stores about 2 sqrt(num_steps) states and is exact for the steps
            that were taken; forward differentiation works too. "reversible" stores the last state alone and walks the
            inverse steps back: memory does not grow with `num_steps`, and it is the faster one. Walking back rounds: in
            double precision to about 1e-13, in single precision the walk returns to the start to about 1e-5 over
            thousands of steps of a regular motion, and to nothing useful on a chaotic one (see `resolution`).
        save_every: save the start and every so many-th state, and return a `Trajectory`; must divide `num_steps`.
            Saved steps are whole, so their half-kicks are not merged.
        observables: with `save_every`, a function `(t, state) -> tree of arrays` to save as well.
        save_states: with observables, False leaves the states out.
        resolution: round every change of position and momentum to a multiple of this spacing, held as whole numbers.
            The way back is then the way there bit for bit, in single precision too, over any number of steps, for
            positions and momenta below 2^31 spacings (2^63 in double precision). A spacing of 2^-20, 9.5e-7, has a
            range of 2,048; a single precision state can express all of it up to 16. Rounding acts as noise of a third
            of the spacing a stage. With adjoint="reversible", Euclidean domains and splittings without friction.

    Returns:
        The last state; a `Trajectory` with `save_every`.

    Raises:
        TypeError: an integrator that does not fit the system; arguments of another shape or dtype, by name.
        ValueError: times that the state's precision cannot tell apart, where the force depends on them or states are
            saved by them; fewer than one step, a `save_every` that does not divide the steps, an integrator with a step
            size, a resolution that is not positive.
        RuntimeError: a start outside the domain or not finite; a state that becomes non-finite on the way.
    """
    integrator.require_system(system)
    num_steps = as_whole(num_steps, "num_steps", 1)
    save_every = None if save_every is None else as_whole(save_every, "save_every")
    _check_static(num_steps, integrator, save_every, observables, save_states)
    if resolution is not None:
        require_lattice(system, integrator, adjoint, resolution)
    if state.position.dtype != state.momentum.dtype:
        raise TypeError(f"momentum is {state.momentum.dtype} and position {state.position.dtype}: cast one of them")
    if not jnp.issubdtype(state.position.dtype, jnp.floating):
        raise TypeError(f"state must be floating point, got {state.position.dtype}: use x.astype(float)")
    for name, time in (("t0", t0), ("t1", t1)):
        if is_concrete(time) and not np.isfinite(np.asarray(time)):
            raise ValueError(f"{name} must be finite, got {time}")
    dtype = state.position.dtype
    duration, start = elapsed(t0, t1, dtype), jnp.asarray(t0, dtype)  # arrays: other times, the same program
    step = np.asarray(t1, float) - np.asarray(t0, float) if is_concrete(t0, t1) else 0.0
    if require_resolved(system, state, step / num_steps, t0, t1) and save_every is not None:
        raise ArgumentError(
            f"t0 is {t0} and the times to save are {step / num_steps * save_every:.3g} apart, which "
            f"{jnp.dtype(dtype).name} cannot tell apart: integrate from t0 = 0 and add it to the times afterwards",
            argument="t0",
        )
    return _integrate(
        system, state, start, duration, num_steps, integrator, adjoint, save_every, observables, save_states, resolution
    )


@eqx.filter_jit
def _integrate(
    system, state, t0, duration, num_steps, integrator, adjoint, save_every, observables, save_states, resolution
) -> PhaseState | Trajectory:
    dtype = state.position.dtype
    state = require_start(system, state)
    h = duration / num_steps

    def steps(state: PhaseState, first: Array, count: int) -> PhaseState:
        """`count` steps from the `first`-th on."""
        start = t0 + first * h
        if resolution is not None:
            return lattice_steps(system, integrator, state, start, h, count, resolution)
        function = reversible_steps if adjoint == "reversible" else take_steps
        return function(system, integrator, state, start, h, count)

    if save_every is None:
        return require_finite(steps(state, jnp.zeros((), dtype), num_steps))

    def record(t: Array, state: PhaseState) -> tuple[PhaseState | None, PyTree]:
        return state if save_states else None, None if observables is None else observables(t, state)

    def block(state: PhaseState, first: Array) -> tuple[PhaseState, tuple[PhaseState | None, PyTree]]:
        state = steps(state, first, save_every)
        return state, record(t0 + (first + save_every) * h, state)

    firsts = jnp.arange(0, num_steps, save_every).astype(dtype)
    end, saved = jax.lax.scan(block, state, firsts)
    saved = jax.tree.map(lambda one, rest: jnp.concatenate([jnp.asarray(one)[None], rest]), record(t0, state), saved)
    times = jnp.concatenate([t0[None], t0 + (firsts + save_every) * h])
    times = require_finite(PhaseState(times, times), end).position
    return Trajectory(times, *saved)


def _check_static(
    num_steps: int,
    integrator: AbstractIntegrator,
    save_every: int | None,
    observables: Any,
    save_states: bool,
) -> None:
    if integrator.step_size is not None:
        name = type(integrator).__name__
        raise ValueError(
            f"{name}(step_size={integrator.step_size}) is for a Flow; integrate takes its steps from t0, t1 and "
            f"num_steps: use {name}()"
        )
    if save_every is None and (observables is not None or not save_states):
        raise ValueError("observables and save_states need save_every: give save_every=num_steps for the last alone")
    if save_every is not None and (save_every < 1 or num_steps % save_every):
        raise ValueError(f"save_every must divide num_steps, got {save_every} and {num_steps}")
    if not save_states and observables is None:
        raise ValueError("save_states=False without observables saves nothing: give observables")
