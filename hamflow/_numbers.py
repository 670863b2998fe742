"""The rule for whole numbers: an int of Python or NumPy, or a concrete integer array of one number, but no bool."""

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from ._errors import ArgumentError, ArgumentTypeError


def as_whole(value: Any, name: str, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return `value` as a Python int.

    Arguments:
        value: a Python int, a NumPy integer, or a concrete integer array of shape ().
        name: the argument's name, for the error.
        minimum, maximum: the smallest and the largest value that is accepted.

    Raises:
        ArgumentTypeError: `value` is a bool, a float, a traced number or no number.
        ArgumentError: `value` is below `minimum` or above `maximum`.
    """
    if isinstance(value, (bool, np.bool_)) or str(getattr(value, "dtype", "")) == "bool":
        raise ArgumentTypeError(f"{name} must be a whole number, got {value!r}, which is a bool", argument=name)
    try:
        number = operator.index(value)
    except TypeError:  # jax's error of a traced number is one
        kind = type(value).__name__
        raise ArgumentTypeError(f"{name} must be a whole number, got {value!r} of type {kind}", argument=name) from None
    if minimum is not None and number < minimum:
        raise ArgumentError(f"{name} must be at least {minimum}, got {number}", argument=name)
    if maximum is not None and number > maximum:
        raise ArgumentError(f"{name} must be at most {maximum}, got {number}", argument=name)
    return number


def as_shape(value: Any, name: str = "shape") -> tuple[int, ...]:
    """Return `value` as a tuple of Python ints of at least 0; one whole number is a shape of one axis.

    Raises:
        ArgumentTypeError: `value` is neither a whole number nor a sequence of them.
        ArgumentError: one of the numbers is negative.
    """
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and getattr(value, "ndim", 1):
        return tuple(as_whole(size, name, 0) for size in value)
    return (as_whole(value, name, 0),)
