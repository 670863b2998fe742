"""Numbers that a module is built from: Python numbers stay Python numbers, the rest become inexact arrays.

A Python float in a module is a constant that no optimiser can see; an array is a leaf with a gradient. Constructors
use these functions so that both kinds get the same checks, and traced values (a module built inside `jit` or `grad`)
pass through, since their values are not known yet.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._types import Array


def as_parameter(value: Any, name: str) -> float | Array:
    """`value` as a Python float, or as a floating array; `TypeError` if it is neither a number nor an array."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        raise TypeError(f"{name} must be a number or an array, got {value!r}")
    if isinstance(value, (int, float, np.integer, np.floating)):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")
        return number
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real, got an array of {array.dtype}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(float)
    if is_concrete(array) and not bool(jnp.all(jnp.isfinite(array))):
        raise ValueError(f"{name} must be finite, got {array}")
    return array


def require(value: Any, holds: Callable[[Any], Any], message: str) -> None:
    """Raise `ValueError(message)` unless `holds(value)` everywhere; a traced value is not looked into."""
    if is_concrete(value) and not bool(jnp.all(jnp.asarray(holds(value)))):
        raise ValueError(message)


def is_concrete(value: Any) -> bool:
    """Whether the numbers of `value` can be read now."""
    return not isinstance(value, Tracer)


def cast(value: float | Array, dtype: Any) -> Any:
    """`value` in `dtype`; a Python number is left alone, it takes the dtype of whatever it meets."""
    return value if isinstance(value, (int, float)) else value.astype(dtype)
