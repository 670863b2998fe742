"""A gradient in constant memory: keep the last state, walk the inverse stages back, and pull the cotangent along.

Every stage is undone by its negative, so the state before it can be had again from the state after it. What is stored
does not depend on the number of steps: the state, its cotangent, and the cotangents of the system's parameters.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array
from ..state import PhaseState
from ..system import AbstractSystem
from .base import AbstractIntegrator
from .stages import Action
from .steps import Program, run


def reversible_steps(
    system: AbstractSystem, integrator: AbstractIntegrator, state: PhaseState, t0: Array, h: Array, count: int
) -> PhaseState:
    """`count` steps of h from `t0`, whose gradient stores the last state only."""
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    program = Program.of(integrator)

    @jax.custom_vjp
    def steps(parameters: Any, state: PhaseState, t0: Array, h: Array) -> PhaseState:
        return forward(parameters, state, t0, h)[0]

    def forward(parameters: Any, state: PhaseState, t0: Array, h: Array) -> tuple[PhaseState, Any]:
        whole = eqx.combine(parameters, rest)

        def apply(action: Action, time: Array, share: Array, state: PhaseState) -> PhaseState:
            return action(whole, t0 + time * h, state, share * h)

        end = run(program, apply, state, count, h.dtype)
        return end, (parameters, end, t0, h)

    def backward(residuals: Any, cotangent: PhaseState) -> tuple[Any, PhaseState, Array, Array]:
        parameters, end, t0, h = residuals
        whole = eqx.combine(parameters, rest)

        def apply(action: Action, time: Array, share: Array, carry: Any) -> Any:
            state, cotangents = carry
            before = action(whole, t0 + time * h, state, -share * h)
            return before, pull_back(action, rest, parameters, t0, h, time, share, before, cotangents)

        carry = run(program, apply, (end, no_cotangents(parameters, t0, h, cotangent)), count, h.dtype, reverse=True)
        return carry[1].parameters, carry[1].state, carry[1].t0, carry[1].h

    steps.defvjp(forward, backward)
    return steps(parameters, state, t0, h)


class Cotangents(eqx.Module):
    """What walks back beside the state."""

    parameters: Any
    state: PhaseState
    t0: Array
    h: Array


def no_cotangents(parameters: Any, t0: Array, h: Array, state: PhaseState) -> Cotangents:
    """At the end of the run: that of the last state, and nothing yet for the rest."""
    return Cotangents(jax.tree.map(jnp.zeros_like, parameters), state, jnp.zeros_like(t0), jnp.zeros_like(h))


def pull_back(
    action: Action,
    rest: Any,
    parameters: Any,
    t0: Array,
    h: Array,
    time: Array,
    share: Array,
    before: PhaseState,
    cotangents: Cotangents,
) -> Cotangents:
    """Through one stage, from its end to its start `before`."""

    def stage(parameters: Any, state: PhaseState, t0: Array, h: Array) -> PhaseState:
        return action(eqx.combine(parameters, rest), t0 + time * h, state, share * h)

    _, pull = jax.vjp(stage, parameters, before, t0, h)
    d_parameters, d_state, d_t0, d_h = pull(cotangents.state)
    return Cotangents(
        jax.tree.map(jnp.add, cotangents.parameters, d_parameters), d_state, cotangents.t0 + d_t0, cotangents.h + d_h
    )
