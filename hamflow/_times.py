"""The time between two times, to all its digits, and whether a precision can tell the times of a motion apart.

float32 has 24 bits: 1.7e9 and 1.7e9 + 5 are one number in it. A difference of known times is taken in double precision
before it is rounded. The times themselves matter only to a system whose motion depends on them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from ._errors import ArgumentError
from ._parameters import is_concrete
from ._types import Array, ScalarLike
from .state import PhaseState
from .system import AbstractSystem

_DIGITS = 32.0  # of a step that a precision must keep, in units of its last place


def elapsed(t0: ScalarLike, t: Any, dtype: Any) -> Array:
    """t - t0 in `dtype`: exact up to one rounding where both are known."""
    if is_concrete(t0, t):
        return jnp.asarray(np.asarray(t, np.float64) - np.asarray(t0, np.float64), dtype)
    first, last = (jnp.asarray(time) for time in (t0, t))
    floating = [jnp.dtype(dtype), *(time.dtype for time in (first, last) if jnp.issubdtype(time.dtype, jnp.floating))]
    wide = max(floating, key=lambda each: jnp.finfo(each).bits)
    return (last.astype(wide) - first.astype(wide)).astype(dtype)


def are_resolved(step: Any, t0: ScalarLike, t: Any, dtype: Any) -> bool:
    """Whether known times of this size, a step apart, are different numbers in `dtype`; true for times not known."""
    if not is_concrete(step, t0, t):
        return True
    largest = max(float(np.max(np.abs(np.asarray(time, np.float64)), initial=0.0)) for time in (t0, t))
    smallest = float(np.min(np.abs(np.asarray(step, np.float64)), initial=np.inf))
    return smallest == 0.0 or smallest >= _DIGITS * float(jnp.finfo(dtype).eps) * largest


def require_resolved(
    system: AbstractSystem, state: PhaseState, step: Any, t0: ScalarLike, t: Any, argument: str = "t0"
) -> bool:
    """Whether times can be counted from `t0` on, because `state`'s dtype cannot tell them apart and nothing asks.

    Raises:
        ArgumentError: the system's motion depends on such times.
    """
    dtype = state.position.dtype
    if are_resolved(step, t0, t, dtype):
        return False
    if depends_on_time(system, state):
        raise ArgumentError(
            f"{argument} and the times after it are up to {np.max(np.abs(np.asarray([t0, np.max(t)], float))):.10g}, "
            f"and {jnp.dtype(dtype).name} cannot tell them apart in steps of "
            f"{np.min(np.abs(np.asarray(step, float))):.3g}; the force of this system depends on the time. Count the "
            "time from a nearer origin inside the force, or use float64 (jax.config.update('jax_enable_x64', True))",
            argument=argument,
        )
    return True


def depends_on_time(system: AbstractSystem, state: PhaseState) -> bool:
    """Whether the vector field looks at the time, as a program."""
    shape = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype), state)
    time = jax.ShapeDtypeStruct((), state.position.dtype)
    program = jax.make_jaxpr(lambda t, state: system.vector_field(t, state))(time, shape).jaxpr
    touched = {program.invars[0]}
    for equation in program.eqns:
        if any(not isinstance(v, Literal) and v in touched for v in equation.invars):
            touched |= set(equation.outvars)
    return any(not isinstance(v, Literal) and v in touched for v in program.outvars)
