"""Scalars, diagonals and dense matrices that act on an array of any shape.

Masses, frequencies, covariances and the coefficients of linear flows come in three structures: one number, one number
a coordinate, a matrix. An operator says which, once; every formula is then written for all three.
A dense matrix on positions of shape `shape` has shape `shape + shape`, and is `size x size` inside. A `Factored` matrix
is known by its factors, and is applied without being formed (`_modes.py`).
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import _factorisations as factorisations
from ._factorisations import in_single
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


class AbstractFactored(eqx.Module):
    """A matrix that is applied by its factors, on positions of shape `shape`.

    A batch over times shares the factors that do not depend on time, so that no matrix is formed for every time.
    """

    @abc.abstractmethod
    def event(self) -> Shape:
        """The shape of one position."""

    @property
    @abc.abstractmethod
    def matrix(self) -> Array:
        """The matrix itself, `size x size`."""

    @abc.abstractmethod
    def on(self, x: Array) -> Array:
        """The matrix times one vector of `size` numbers."""

    @abc.abstractmethod
    def scaled(self, value: Value) -> "Operator":
        """The matrix times a number."""

    @abc.abstractmethod
    def after(self, constant: Array) -> "Operator":
        """The matrix times a constant matrix: one that does not depend on time."""

    @abc.abstractmethod
    def transposed(self) -> "Operator":
        """The transpose."""

    @abc.abstractmethod
    def inverted(self) -> "Operator":
        """The inverse."""

    @abc.abstractmethod
    def largest(self) -> Array:
        """A positive number of about the size of the matrix's largest factor, or 0."""

    @abc.abstractmethod
    def mean_square(self) -> Array:
        """tr(O O^T) / size."""

    @abc.abstractmethod
    def slope(self, tangent: Any) -> "Operator":
        """The derivative in t, from the tangent that jax gives of this operator."""

    @property
    def value(self) -> Array:
        return self.matrix.reshape(self.event() + self.event())


class Multiple(AbstractFactored):
    """A number that may depend on time, times a matrix that does not."""

    constant: Array
    factor: Array
    shape: Shape = eqx.field(static=True)

    def event(self) -> Shape:
        return self.shape

    @property
    def matrix(self) -> Array:
        return self.constant * self.factor

    def on(self, x: Array) -> Array:
        return self.factor.astype(x.dtype) * (self.constant.astype(x.dtype) @ x)

    def scaled(self, value: Value) -> "Multiple":
        return Multiple(self.constant, self.factor * value, self.shape)

    def after(self, constant: Array) -> "Multiple":
        return Multiple(self.constant @ constant, self.factor, self.shape)

    def transposed(self) -> "Multiple":
        return Multiple(self.constant.T, self.factor, self.shape)

    def inverted(self) -> "Multiple":
        return Multiple(in_single(factorisations.inv, self.constant), 1.0 / self.factor, self.shape)

    def largest(self) -> Array:
        return jnp.abs(self.factor) * jnp.max(jnp.abs(self.constant))

    def mean_square(self) -> Array:
        return self.factor**2 * (jnp.sum(self.constant**2) / len(self.constant))

    def slope(self, tangent: "Multiple") -> "Multiple":
        return Multiple(self.constant, tangent.factor, self.shape)


Operator = Scaling | Diagonal | Dense | AbstractFactored


def is_matrix(operator: Operator) -> bool:
    """Whether the operator mixes coordinates."""
    return isinstance(operator, (Dense, AbstractFactored))


def is_zero(operator: Operator) -> bool:
    """Whether the operator is the number 0, known when the program is written."""
    return isinstance(operator, Scaling) and isinstance(operator.value, float) and operator.value == 0.0


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

    An operator stays what it is. Without a shape, an array whose two halves agree is read as a matrix and any other as
    a diagonal.
    `ValueError` if the shape of `value` fits neither.
    """
    if isinstance(value, (Scaling, Diagonal, Dense, AbstractFactored)):
        return value
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
        case AbstractFactored():
            return operator.on(x.reshape(-1)).reshape(x.shape)


def compose(left: Operator, right: Operator) -> Operator:
    """left @ right; where one is a number or a factored matrix, a right that does not depend on time."""
    match left, right:
        case (AbstractFactored(), Scaling(value=value)):
            return right if is_zero(right) else left.scaled(value)
        case (Scaling(value=value), AbstractFactored()):
            return right.scaled(value)
        case (AbstractFactored(), _):
            return left.after(matrix_of(right, left.event(), jnp.result_type(right.value)))
        case (_, AbstractFactored()):
            return compose(left, Dense(right.matrix, right.event()))
        case (Dense(), Dense()):
            return Dense(left.matrix @ right.matrix, left.shape)
        case (Dense(), Diagonal(value=value)):
            return Dense(left.matrix * value.reshape(1, -1), left.shape)
        case (Diagonal(value=value), Dense()):
            return Dense(value.reshape(-1, 1) * right.matrix, right.shape)
        case (Dense(matrix=matrix, shape=shape), Scaling(value=value)):
            return Dense(matrix * value, shape)
        case (Scaling(value=value), Dense(matrix=matrix, shape=shape)):
            return Multiple(matrix, jnp.asarray(value, matrix.dtype), shape)
        case (Scaling(), Scaling()):
            return Scaling(left.value * right.value)
        case _:
            return Diagonal(left.value * right.value)


def add(left: Operator, right: Operator) -> Operator:
    """left + right."""
    if isinstance(left, AbstractFactored) or isinstance(right, AbstractFactored):
        if is_zero(left) or is_zero(right):
            return right if is_zero(left) else left
        left, right = (Dense(o.matrix, o.event()) if isinstance(o, AbstractFactored) else o for o in (left, right))
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
    if isinstance(operator, AbstractFactored):
        return operator.transposed()
    return Dense(operator.matrix.T, operator.shape) if isinstance(operator, Dense) else operator


def slope(operator: Operator, tangent: Operator) -> Operator:
    """The derivative of an operator in t, from the tangent that `jax.jvp` gives of it."""
    return operator.slope(tangent) if isinstance(operator, AbstractFactored) else tangent


def inverse(operator: Operator) -> Operator:
    """The inverse, as an operator."""
    match operator:
        case Scaling(value=value):
            return Scaling(1.0 / value)
        case Diagonal(value=value):
            return Diagonal(1.0 / value)
        case Dense():
            return Dense(in_single(factorisations.inv, operator.matrix), operator.shape)
        case AbstractFactored():
            return operator.inverted()


def inverse_of_positive(operator: Operator) -> Operator:
    """The inverse of a symmetric positive operator: that of its Cholesky factor, twice."""
    if not isinstance(operator, Dense):
        return inverse(operator)

    def by_factor(matrix: Array) -> Array:
        root = factorisations.solve_lower(factorisations.cholesky(matrix), jnp.eye(len(matrix), dtype=matrix.dtype))
        return root.T @ root

    return Dense(in_single(by_factor, operator.matrix), operator.shape)


def factor(operator: Operator) -> Operator:
    """L with L L^T = operator, for a symmetric positive operator: the square root, or Cholesky's lower triangle."""
    match operator:
        case Scaling(value=value):
            return Scaling(math.sqrt(value) if isinstance(value, float) else jnp.sqrt(value))
        case Diagonal(value=value):
            return Diagonal(jnp.sqrt(value))
        case Dense():
            return Dense(in_single(factorisations.cholesky, operator.matrix), operator.shape)
        case AbstractFactored():
            return factor(Dense(operator.matrix, operator.event()))


def mean_square(operator: Operator) -> Value:
    """tr(O O^T) / size: the mean square of the operator's output for white input."""
    match operator:
        case Scaling(value=value):
            return value * value
        case Diagonal(value=value):
            return jnp.mean(value * value)
        case Dense():
            return jnp.sum(operator.matrix**2) / operator.matrix.shape[0]
        case AbstractFactored():
            return operator.mean_square()


def root_mean_square(operator: Operator, dtype: Any) -> Array:
    """The square root of `mean_square`, scaled so that no square overflows or vanishes, with a zero derivative at 0."""
    if isinstance(operator, AbstractFactored):
        largest = jax.lax.stop_gradient(operator.largest().astype(dtype))
    else:
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
            return in_single(factorisations.log_abs_det, operator.matrix)
        case AbstractFactored():
            return in_single(factorisations.log_abs_det, operator.matrix)


def square_root(operator: Operator) -> Operator:
    """The symmetric square root of a symmetric positive semi-definite operator."""
    if not isinstance(operator, (Dense, AbstractFactored)):
        return factor(operator)
    shape = operator.shape if isinstance(operator, Dense) else operator.event()
    values, vectors = in_single(factorisations.eigh, operator.matrix)
    return Dense((vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None, :]) @ vectors.T, shape)


def matrix_of(operator: Operator, shape: Shape, dtype) -> Array:
    """The operator as a `size x size` matrix."""
    match operator:
        case Scaling(value=value):
            return jnp.eye(math.prod(shape), dtype=dtype) * value
        case Diagonal(value=value):
            return jnp.diag(value.reshape(-1))
        case Dense(matrix=matrix):
            return matrix
        case AbstractFactored():
            return operator.matrix
