"""Scalars, diagonals and dense matrices that act on an array of any shape.

Masses, frequencies, covariances and the coefficients of linear flows come in three structures: one number, one number
a coordinate, a matrix. An operator says which, once; every formula is then written for all three.
A dense matrix on positions of shape `shape` has shape `shape + shape`, and is `size x size` inside.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._parameters import cast, is_concrete
from ._types import Array

Value = float | Array
Shape = tuple[int, ...]


class Scaling(eqx.Module):
    """x -> value * x."""

    value: Value


class Diagonal(eqx.Module):
    """x -> value * x, one value a coordinate."""

    value: Any  # an array of the position's shape


class Dense(eqx.Module):
    """x -> matrix @ x, on positions of shape `shape`."""

    matrix: Array
    shape: Shape = eqx.field(static=True)

    @property
    def value(self) -> Array:
        return self.matrix.reshape(self.shape + self.shape)


Operator = Scaling | Diagonal | Dense


def require_invertible(operator: Operator, name: str) -> None:
    """`ValueError` for a matrix that has no inverse; a traced one is not looked into."""
    if isinstance(operator, Dense) and is_concrete(operator.matrix):
        sign, _ = np.linalg.slogdet(np.asarray(operator.matrix, float))
        if sign == 0:
            raise ValueError(f"{name} is a matrix of shape {operator.value.shape} that has no inverse")


def require_matrix_or_positive(value: Array, name: str) -> None:
    """`ValueError` for a square array that can be neither: some number is not positive, and it has no inverse."""
    if is_concrete(value) and not bool((np.asarray(value) > 0).all()):
        require_invertible(as_operator(value, None, value.dtype, name), name)


def is_square(shape: Shape) -> bool:
    """Whether an array of this shape can be a dense matrix: its two halves agree."""
    half, odd = divmod(len(shape), 2)
    return half > 0 and not odd and shape[:half] == shape[half:]


def as_operator(value: Any, shape: Shape | None, dtype, name: str = "value") -> Operator:
    """Read `value` as an operator on positions of shape `shape`.

    Without a shape, an array whose two halves agree is read as a matrix and any other as a diagonal.
    `ValueError` if the shape of `value` fits neither.
    """
    value = cast(value, dtype)
    value_shape = jnp.shape(value)
    if value_shape == ():
        return Scaling(value)
    if shape is None:
        if not is_square(value_shape):
            return Diagonal(value)
        shape = value_shape[: len(value_shape) // 2]
        return Dense(value.reshape(math.prod(shape), -1), shape)
    if value_shape == shape:
        return Diagonal(value)
    if value_shape == shape + shape:
        return Dense(value.reshape(math.prod(shape), -1), shape)
    raise ValueError(
        f"{name} has shape {value_shape}, but the position has shape {shape}: "
        f"give a number, an array of shape {shape} (one value a coordinate) or of shape {shape + shape} (a matrix)"
    )


def apply(operator: Operator, x: Array) -> Array:
    """The operator on one position, in the dtype of `x`."""
    match operator:
        case Scaling(value=value) | Diagonal(value=value):
            return cast(value, x.dtype) * x
        case Dense(matrix=matrix):
            return (matrix.astype(x.dtype) @ x.reshape(-1)).reshape(x.shape)


def compose(left: Operator, right: Operator) -> Operator:
    """left @ right."""
    match left, right:
        case (Dense(), Dense()):
            return Dense(left.matrix @ right.matrix, left.shape)
        case (Dense(), Diagonal(value=value)):
            return Dense(left.matrix * value.reshape(1, -1), left.shape)
        case (Diagonal(value=value), Dense()):
            return Dense(value.reshape(-1, 1) * right.matrix, right.shape)
        case (Dense(matrix=matrix, shape=shape), Scaling(value=value)) | (
            Scaling(value=value),
            Dense(matrix=matrix, shape=shape),
        ):
            return Dense(matrix * value, shape)
        case (Scaling(), Scaling()):
            return Scaling(left.value * right.value)
        case _:
            return Diagonal(left.value * right.value)


def add(left: Operator, right: Operator) -> Operator:
    """left + right."""
    match left, right:
        case (Scaling(), Scaling()):
            return Scaling(left.value + right.value)
        case (Dense(), _) | (_, Dense()):
            dense = left if isinstance(left, Dense) else right
            assert isinstance(dense, Dense)
            shape, dtype = dense.shape, dense.matrix.dtype
            return Dense(matrix_of(left, shape, dtype) + matrix_of(right, shape, dtype), shape)
        case _:
            return Diagonal(left.value + right.value)


def transpose(operator: Operator) -> Operator:
    """The adjoint."""
    return Dense(operator.matrix.T, operator.shape) if isinstance(operator, Dense) else operator


def inverse(operator: Operator) -> Operator:
    """The inverse, as an operator."""
    match operator:
        case Scaling(value=value):
            return Scaling(1.0 / value)
        case Diagonal(value=value):
            return Diagonal(1.0 / value)
        case Dense():
            return Dense(in_single(jnp.linalg.inv, operator.matrix), operator.shape)


def factor(operator: Operator) -> Operator:
    """L with L L^T = operator, for a symmetric positive operator: the square root, or Cholesky's lower triangle."""
    match operator:
        case Scaling(value=value):
            return Scaling(math.sqrt(value) if isinstance(value, float) else jnp.sqrt(value))
        case Diagonal(value=value):
            return Diagonal(jnp.sqrt(value))
        case Dense():
            return Dense(in_single(jnp.linalg.cholesky, operator.matrix), operator.shape)


def mean_square(operator: Operator) -> Value:
    """tr(O O^T) / size: the mean square of the operator's output for white input."""
    match operator:
        case Scaling(value=value):
            return value * value
        case Diagonal(value=value):
            return jnp.mean(value * value)
        case Dense():
            return jnp.sum(operator.matrix**2) / operator.matrix.shape[0]


def root_mean_square(operator: Operator, dtype: Any) -> Array:
    """The square root of `mean_square`, scaled so that no square overflows or vanishes, with a zero derivative at 0."""
    value = operator.matrix if isinstance(operator, Dense) else operator.value
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(jnp.asarray(value, dtype))))
    zero = largest == 0
    unit = jnp.where(zero, jnp.ones_like(largest), largest)
    square = jnp.asarray(mean_square(compose(Scaling(1.0 / unit), operator)), dtype)
    return jnp.where(zero, 0.0, unit * jnp.sqrt(jnp.where(zero, jnp.ones_like(square), square)))


def log_abs_det(operator: Operator, size: int) -> Value:
    """log |det O| on positions of `size` coordinates."""
    match operator:
        case Scaling(value=value):
            return size * (math.log(abs(value)) if isinstance(value, float) else jnp.log(jnp.abs(value)))
        case Diagonal(value=value):
            return jnp.sum(jnp.log(jnp.abs(value)))
        case Dense():
            return in_single(jnp.linalg.slogdet, operator.matrix)[1]


def square_root(operator: Operator) -> Operator:
    """The symmetric square root of a symmetric positive semi-definite operator."""
    if not isinstance(operator, Dense):
        return factor(operator)
    values, vectors = in_single(jnp.linalg.eigh, operator.matrix)
    return Dense((vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None, :]) @ vectors.T, operator.shape)


def matrix_of(operator: Operator, shape: Shape, dtype) -> Array:
    """The operator as a `size x size` matrix."""
    match operator:
        case Scaling(value=value):
            return jnp.eye(math.prod(shape), dtype=dtype) * value
        case Diagonal(value=value):
            return jnp.diag(value.reshape(-1))
        case Dense(matrix=matrix):
            return matrix


def in_single(function, matrix: Array):
    """Run a factorisation in at least single precision: LAPACK has no half."""
    if matrix.dtype not in (jnp.bfloat16, jnp.float16):
        return function(matrix)
    return jax.tree.map(lambda leaf: leaf.astype(matrix.dtype), function(matrix.astype(jnp.float32)))
