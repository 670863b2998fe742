"""Many steps as one loop: a list of moves whose first and last kicks merge between steps.

A `Program` says what one step in the middle of a run does: the stages after the first, the last kick carrying the
first kick of the next step. `take_steps` runs it forward; the reversible gradient and the lattice run the same program.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array
from ..state import PhaseState
from ..system import AbstractSystem
from .base import AbstractIntegrator
from .stages import Action, Stage, kick

# (action, time, share, carry) -> carry, time and share in units of the step: an action at t0 + time h takes share h
Apply = Callable[[Action, Any, Any, Any], Any]
_UNROLLED = 8  # stages of a step; longer ones loop, since every copy of a force must be compiled


class Program(eqx.Module):
    """`count` steps: `opening` once, `body` for every step but the last, `closing` for the last one."""

    opening: tuple[Stage, ...] = eqx.field(static=True)
    body: tuple[Stage, ...] = eqx.field(static=True)
    closing: tuple[Stage, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, integrator: AbstractIntegrator) -> "Program":
        """Merge the last kick of a step with the first of the next, where there are two."""
        stages = integrator.stages()
        first, last = stages[0], stages[-1]
        if len(stages) > 1 and first.action is kick and last.action is kick:
            merged = Stage(kick, last.coefficient + first.coefficient, last.time)
            return cls((first,), (*stages[1:-1], merged), stages[1:])
        return cls((), stages, stages)


def run_stages(stages: tuple[Stage, ...], apply: Apply, carry: Any, i: Array, reverse: bool) -> Any:
    """The stages of step `i` (a floating scalar), forward or from its end to its start."""
    alternate = all(stage.action == stages[j % 2].action for j, stage in enumerate(stages))
    if len(stages) <= _UNROLLED or len(stages) % 2 or not alternate:
        for stage in stages[:: -1 if reverse else 1]:
            carry = apply(stage.action, i + stage.time, jnp.asarray(stage.coefficient, i.dtype), carry)
        return carry
    first, second = stages[0].action, stages[1].action
    shares = jnp.asarray([stage.coefficient for stage in stages], i.dtype).reshape(-1, 2)
    times = jnp.asarray([stage.time for stage in stages], i.dtype).reshape(-1, 2)

    def pair(carry: Any, numbers: tuple[Array, Array]) -> tuple[Any, None]:
        shares, times = numbers
        for j in (1, 0) if reverse else (0, 1):
            carry = apply((first, second)[j], i + times[j], shares[j], carry)
        return carry, None

    return jax.lax.scan(pair, carry, (shares, times), reverse=reverse)[0]


def run(program: Program, apply: Apply, carry: Any, count: int, dtype: Any, reverse: bool = False) -> Any:
    """All steps, forward or from the end back to the start; not to be differentiated."""
    start, last = jnp.zeros((), dtype), jnp.asarray(count - 1, dtype)

    # A counter and no array of indices: memory must not grow with the number of steps.
    def step(j: Array, carry: Any) -> Any:
        i = count - 2 - j if reverse else j
        return run_stages(program.body, apply, carry, i.astype(dtype), reverse)

    def steps(carry: Any) -> Any:
        return jax.lax.fori_loop(0, count - 1, step, carry) if count > 1 else carry

    if reverse:
        carry = steps(run_stages(program.closing, apply, carry, last, reverse))
        return run_stages(program.opening, apply, carry, start, reverse)
    carry = steps(run_stages(program.opening, apply, carry, start, reverse))
    return run_stages(program.closing, apply, carry, last, reverse)


def take_steps(
    system: AbstractSystem, integrator: AbstractIntegrator, state: PhaseState, t0: Array, h: Array, count: int
) -> PhaseState:
    """`count` steps of h, whose gradient keeps about 2 sqrt(count) states."""
    program = Program.of(integrator)

    def apply(action: Action, time: Array, share: Array, state: PhaseState) -> PhaseState:
        return action(system, t0 + time * h, state, share * h)

    def step(state: PhaseState, i: Array) -> tuple[PhaseState, None]:
        return run_stages(program.body, apply, state, i.astype(h.dtype), reverse=False), None

    @jax.checkpoint
    def chunk(state: PhaseState, indices: Array) -> tuple[PhaseState, None]:
        return jax.lax.scan(step, state, indices)

    state = run_stages(program.opening, apply, state, jnp.zeros_like(h), reverse=False)
    size = max(1, math.isqrt(count - 1))
    whole = (count - 1) // size * size
    indices = jnp.arange(count - 1)
    if whole:
        state, _ = jax.lax.scan(chunk, state, indices[:whole].reshape(-1, size))
    if whole < count - 1:
        state, _ = jax.lax.scan(step, state, indices[whole:])
    return run_stages(program.closing, apply, state, jnp.full_like(h, count - 1), reverse=False)
