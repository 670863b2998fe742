"""Numbers that a module is built from: Python numbers stay Python numbers, the rest become inexact arrays.

A Python float in a module is a constant that no optimiser can see; an array is a leaf with a gradient. Constructors
use these functions so that both kinds get the same checks, and traced values (a module built inside `jit` or `grad`)
pass through, since their values are not known yet.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._errors import ArgumentError, ArgumentTypeError
from ._types import Array


def as_parameter(value: Any, name: str) -> float | Array:
    """`value` as a Python float, or as a floating array; `TypeError` if it is neither a number nor an array."""
    if value is None or isinstance(value, (bool, np.bool_, str, bytes)):
        raise ArgumentTypeError(f"{name} must be a number or an array, got {value!r}", argument=name)
    if isinstance(value, (int, float, np.integer, np.floating)):
        number = float(value)
        if not math.isfinite(number):
            raise ArgumentError(f"{name} must be finite, got {number}", argument=name)
        return number
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        kind = type(value).__name__
        raise ArgumentTypeError(f"{name} must be a number or an array, got {kind}: {error}", argument=name) from None
    if jnp.issubdtype(array.dtype, jnp.complexfloating) or array.dtype == bool:
        raise ArgumentTypeError(f"{name} must be real numbers, got an array of {array.dtype}", argument=name)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(float)
    require(value, lambda v: jnp.isfinite(jnp.asarray(v)), f"{name} must be finite, got {value}", name)
    return array


def require(value: Any, holds: Callable[[Any], Any], message: str, argument: str | None = None) -> None:
    """Raise `ArgumentError(message)` unless `holds(value)` everywhere; a traced value is not looked into.

    `argument` is the name in the error's field; by default it is the first word of the message.
    """
    if not is_concrete(value):
        return
    with jax.ensure_compile_time_eval():  # inside `jit` even a constant is traced otherwise
        found = holds(value)
        # A Python number is judged without jax: an object built at import must not start the devices.
        if not (found if isinstance(found, bool) else bool(jnp.all(jnp.asarray(found)))):
            raise ArgumentError(message, argument=argument or message.split(" ", 1)[0])


def at_once() -> AbstractContextManager[None]:
    """A context in which compiled functions of known numbers have values, inside `jit` too.

    `jax.ensure_compile_time_eval` alone would run every constant operation within such a function by itself, compiled
    by itself, and outside `jit` there is nothing to ensure.
    """
    traced = isinstance(jnp.zeros(()), Tracer)
    return jax.ensure_compile_time_eval() if traced else nullcontext()


def is_concrete(*values: Any) -> bool:
    """Whether the numbers of all `values` can be read now."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def as_time(t: Any) -> Array:
    """Times as a floating array: a jax array keeps its dtype, anything else takes jax's default float."""
    floating = isinstance(t, jax.Array) and jnp.issubdtype(t.dtype, jnp.floating)
    return t if floating else jnp.asarray(t, float)


def fit(value: Any, shape: tuple[int, ...], dtype: Any, name: str) -> Any:
    """`value` in `dtype` where it is one number or has the position's shape, else `ValueError`.

    Broadcasting would accept more shapes, and give back positions of another one.
    """
    if jnp.shape(value) not in ((), shape):
        raise ArgumentError(
            f"{name} has shape {jnp.shape(value)}, but the position has shape {shape}: give it that shape",
            argument=name,
        )
    return cast(value, dtype)


def as_floating(value: Any) -> Array:
    """Numbers, lists and numpy's arrays as a jax array; numpy double becomes jax's default float, without a warning."""
    return value if isinstance(value, jax.Array) else jnp.asarray(value, None if np.ndim(value) else float)


def cast(value: float | Array, dtype: Any) -> Any:
    """`value` in `dtype`; a Python number is left alone, it takes the dtype of whatever it meets.

    The parameters of a formula meet the dtype of a position here, so this is where integers are found: they would
    round every parameter to a whole number.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"positions, momenta and times must be floating point, got {dtype}: use x.astype(float)")
    return value if isinstance(value, (int, float)) else value.astype(dtype)
