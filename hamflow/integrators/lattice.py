"""States on a lattice: whole numbers of a small spacing, so that the way back is the way there bit for bit.

Each stage changes position or momentum by a rounded amount that depends on the other alone, and whole numbers add and
subtract exactly (Levesque and Verlet 1993). The gradient is that of the unrounded stages at the lattice points.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array
from ..domains import Euclidean
from ..state import PhaseState
from ..system import AbstractSystem, ForcedSystem
from .base import AbstractIntegrator
from .composition import AbstractSplitting
from .reversible import no_cotangents, pull_back
from .stages import Action, kick
from .steps import Program, run


def require_lattice(system: AbstractSystem, integrator: AbstractIntegrator, adjoint: str, resolution: float) -> None:
    """A `ValueError` where states on a lattice do not exist."""
    if not (resolution > 0.0 and math.isfinite(resolution)):
        raise ValueError(f"resolution must be positive and finite, got {resolution}")
    if adjoint != "reversible":
        raise ValueError('resolution makes the walk back exact, so it needs adjoint="reversible"')
    if not isinstance(system.domain, Euclidean):
        raise ValueError(f"resolution needs a Euclidean domain, got {type(system.domain).__name__}")
    splitting = getattr(integrator, "integrator", integrator)
    if not isinstance(splitting, AbstractSplitting):
        raise ValueError(f"resolution needs kicks and drifts, got {type(integrator).__name__}: use a splitting")
    if isinstance(system, ForcedSystem) and not system.is_frictionless:
        raise ValueError("resolution needs a system without friction, which shrinks the lattice")


def lattice_steps(
    system: AbstractSystem,
    integrator: AbstractIntegrator,
    state: PhaseState,
    t0: Array,
    h: Array,
    count: int,
    resolution: float,
) -> PhaseState:
    """`count` steps of h on the lattice, whose gradient walks back over the same points."""
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    program, dtype = Program.of(integrator), state.position.dtype
    whole_number = jnp.int64 if jnp.finfo(dtype).bits == 64 else jnp.int32
    spacing = jnp.asarray(resolution, dtype)
    limit = float(jnp.iinfo(whole_number).max) * (1.0 - 1e-6)

    def rounded(value: Array) -> tuple[Array, Array]:
        number = jnp.round(value / spacing)
        fits = jnp.all(jnp.abs(number) < limit)  # false for a NaN
        return jnp.where(jnp.isfinite(number), number, 0.0).astype(whole_number), fits

    def value(number: Array) -> Array:
        return number.astype(dtype) * spacing

    def change(action: Action, whole: Any, t: Array, points: PhaseState, step: Array) -> tuple[Array, Array]:
        """The rounded change that a stage makes: the same bits whoever asks, hence the barriers against fusing."""
        moved = points.position if action is kick else points.momentum
        given, t, step = jax.lax.optimization_barrier((value(moved), t, step))
        zero = jnp.zeros_like(given)
        if action is kick:
            push = action(whole, t, PhaseState(given, zero), step).momentum
        else:
            push = action(whole, t, PhaseState(zero, given), step).position
        return jax.lax.optimization_barrier(rounded(push))

    def shifted(action: Action, points: PhaseState, by: Array) -> PhaseState:
        if action is kick:
            return PhaseState(points.position, points.momentum + by)
        return PhaseState(points.position + by, points.momentum)

    def room(points: PhaseState) -> Array:
        return jnp.all(jnp.abs(value(points.position)) < limit * spacing / 2.0) & jnp.all(
            jnp.abs(value(points.momentum)) < limit * spacing / 2.0
        )

    @jax.custom_vjp
    def steps(parameters: Any, state: PhaseState, t0: Array, h: Array) -> PhaseState:
        return forward(parameters, state, t0, h)[0]

    def forward(parameters: Any, state: PhaseState, t0: Array, h: Array) -> tuple[PhaseState, Any]:
        whole = eqx.combine(parameters, rest)

        def apply(action: Action, time: Array, share: Array, carry: Any) -> Any:
            points, fits = carry
            by, small = change(action, whole, t0 + time * h, points, share * h)
            points = shifted(action, points, by)
            return points, fits & small & room(points)

        (position, a), (momentum, b) = rounded(state.position), rounded(state.momentum)
        start = PhaseState(position, momentum)
        points, fits = run(program, apply, (start, a & b & room(start)), count, h.dtype)
        points = eqx.error_if(
            points,
            ~fits,
            f"a position or momentum left the range of the lattice, {limit * resolution / 2.0:.3g} for a resolution of "
            f"{resolution:.3g} in {dtype} (or is not finite): take a coarser resolution or smaller steps",
        )
        return jax.tree.map(value, points), (parameters, points, t0, h)

    def backward(residuals: Any, cotangent: PhaseState) -> tuple[Any, PhaseState, Array, Array]:
        parameters, points, t0, h = residuals
        whole = eqx.combine(parameters, rest)

        def apply(action: Action, time: Array, share: Array, carry: Any) -> Any:
            points, cotangents = carry
            by, _ = change(action, whole, t0 + time * h, points, share * h)
            points = shifted(action, points, -by)
            before = jax.tree.map(value, points)
            return points, pull_back(action, rest, parameters, t0, h, time, share, before, cotangents)

        start = (points, no_cotangents(parameters, t0, h, cotangent))
        _, cotangents = run(program, apply, start, count, h.dtype, reverse=True)
        return cotangents.parameters, cotangents.state, cotangents.t0, cotangents.h

    steps.defvjp(forward, backward)
    return steps(parameters, state, t0, h)
