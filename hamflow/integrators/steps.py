"""Many steps as one loop: a list of moves whose first and last kicks merge between steps.

A `Program` says what one step of a run does: the stages after the first, the last kick carrying the first kick of the
next step. `take_steps` runs it forward; the reversible gradient runs the same program.
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
    """`opening` once, then `body` for every step; in the last step the last stage of `body` has the share `ending`.

    One body for all steps, the last one too: every copy of a force must be compiled.
    """

    opening: tuple[Stage, ...] = eqx.field(static=True)
    body: tuple[Stage, ...] = eqx.field(static=True)
    ending: float = eqx.field(static=True)

    @classmethod
    def of(cls, integrator: AbstractIntegrator) -> "Program":
        """Merge the last kick of a step with the first of the next, where there are two."""
        stages = integrator.stages()
        first, last = stages[0], stages[-1]
        if len(stages) > 1 and first.action is kick and last.action is kick:
            merged = Stage(kick, last.coefficient + first.coefficient, last.time)
            return cls((first,), (*stages[1:-1], merged), last.coefficient)
        return cls((), stages, last.coefficient)

    def begin(self, apply: Apply, carry: Any, dtype: Any, reverse: bool = False) -> Any:
        """The opening, forward or back."""
        for stage in self.opening[:: -1 if reverse else 1]:
            carry = apply(stage.action, jnp.asarray(stage.time, dtype), jnp.asarray(stage.coefficient, dtype), carry)
        return carry

    def last_shares(self, count: int, dtype: Any) -> Array:
        """Of the last stage of each step: a table, since to ask of each if it is the last costs 5% of short ones."""
        return jnp.full(count, self.body[-1].coefficient, dtype).at[-1].set(self.ending)

    def step(self, apply: Apply, carry: Any, i: Array, last_share: Array, dtype: Any, reverse: bool = False) -> Any:
        """Step `i`, a whole number, forward or from its end to its start."""
        stages, i = self.body, i.astype(dtype)
        shares = [*(jnp.asarray(stage.coefficient, dtype) for stage in stages[:-1]), last_share]
        alternate = all(stage.action == stages[j % 2].action for j, stage in enumerate(stages))
        if len(stages) <= _UNROLLED or len(stages) % 2 or not alternate:
            for stage, share in list(zip(stages, shares, strict=True))[:: -1 if reverse else 1]:
                carry = apply(stage.action, i + stage.time, share, carry)
            return carry
        first, second = stages[0].action, stages[1].action
        times = jnp.asarray([stage.time for stage in stages], dtype).reshape(-1, 2)

        def pair(carry: Any, numbers: tuple[Array, Array]) -> tuple[Any, None]:
            shares, times = numbers
            for j in (1, 0) if reverse else (0, 1):
                carry = apply((first, second)[j], i + times[j], shares[j], carry)
            return carry, None

        return jax.lax.scan(pair, carry, (jnp.stack(shares).reshape(-1, 2), times), reverse=reverse)[0]


def run(program: Program, apply: Apply, carry: Any, count: int, dtype: Any, reverse: bool = False) -> Any:
    """All steps, forward or from the end back to the start; not to be differentiated."""

    # A counter and no array of indices: memory must not grow with the number of steps.
    def step(j: Array, carry: Any) -> Any:
        i = count - 1 - j if reverse else j
        ending, middle = (jnp.asarray(share, dtype) for share in (program.ending, program.body[-1].coefficient))
        return program.step(apply, carry, i, jnp.where(i == count - 1, ending, middle), dtype, reverse)

    if reverse:
        return program.begin(apply, jax.lax.fori_loop(0, count, step, carry), dtype, reverse)
    return jax.lax.fori_loop(0, count, step, program.begin(apply, carry, dtype))


def take_steps(
    system: AbstractSystem, integrator: AbstractIntegrator, state: PhaseState, t0: Array, h: Array, count: int
) -> PhaseState:
    """`count` steps of h, whose gradient keeps about 2 sqrt(count) states."""
    program = Program.of(integrator)

    def apply(action: Action, time: Array, share: Array, state: PhaseState) -> PhaseState:
        return action(system, t0 + time * h, state, share * h)

    def step(state: PhaseState, numbers: tuple[Array, Array]) -> tuple[PhaseState, None]:
        return program.step(apply, state, *numbers, h.dtype), None

    @jax.checkpoint
    def chunk(state: PhaseState, numbers: tuple[Array, Array]) -> tuple[PhaseState, None]:
        return jax.lax.scan(step, state, numbers)

    state = program.begin(apply, state, h.dtype)
    size = _chunk_size(count)
    whole = count // size * size
    numbers = jnp.arange(count), program.last_shares(count, h.dtype)
    state, _ = jax.lax.scan(chunk, state, jax.tree.map(lambda each: each[:whole].reshape(-1, size), numbers))
    if whole < count:  # of a large prime, say: the step is compiled once more
        state, _ = jax.lax.scan(step, state, jax.tree.map(lambda each: each[whole:], numbers))
    return state


def _chunk_size(count: int) -> int:
    """The divisor of `count` nearest to its square root, if there is one within a factor of 2; else the root."""
    root = math.isqrt(count)
    near = [size for size in range(max(1, root // 2), 2 * root + 1) if count % size == 0]
    return min(near, key=lambda size: abs(math.log(size * size / count)), default=root)
