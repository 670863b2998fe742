"""The scalings of `Preconditioned` where the flow or the data's deviation is a matrix.

With A = Var x, B = Cov(v, x) and G = Var v they are c_in = A^-1/2, c_skip = B A^-1 and c_out^2 = G - B A^-1 B^T, with
symmetric roots. In general each time needs its own eigendecompositions. Two cases need one for all times, because one
orthogonal basis makes everything diagonal: a and b are numbers; or the modes of the flow are orthogonal and the data
are uncorrelated in them, as with a whitened flow and one deviation, or with a frequency matrix and one mass.
"""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from . import _factorisations as factorisations, _linear as linear
from ._modes import Modal
from ._types import Array


class Symmetric(linear.AbstractFactored):
    """E diag(values) E^T with orthonormal columns in E."""

    basis: Array
    values: Array
    shape: linear.Shape = eqx.field(static=True)

    def event(self) -> linear.Shape:
        return self.shape

    @property
    def matrix(self) -> Array:
        return (self.basis * self.values[None, :]) @ self.basis.T

    def on(self, x: Array) -> Array:
        basis = self.basis.astype(x.dtype)
        return basis @ (self.values.astype(x.dtype) * (basis.T @ x))

    def scaled(self, value: linear.Value) -> "Symmetric":
        return Symmetric(self.basis, self.values * value, self.shape)

    def after(self, constant: Array) -> linear.Operator:
        return linear.Dense(self.matrix @ constant, self.shape)

    def transposed(self) -> "Symmetric":
        return self

    def inverted(self) -> "Symmetric":
        return Symmetric(self.basis, 1.0 / self.values, self.shape)

    def largest(self) -> Array:
        return jnp.max(jnp.abs(self.values))

    def mean_square(self) -> Array:
        return jnp.mean(self.values**2)

    def slope(self, tangent: "Symmetric") -> linear.Operator:
        return linear.Dense(jax.jvp(lambda one: one.matrix, (self,), (tangent,))[1], self.shape)


class Either(linear.AbstractFactored):
    """`fast` where `holds`, else the matrix made for this time: only one of them is worked out.

    `which` of the three scalings it is, `inverse` and `transpose` say what is made for this time.
    """

    holds: Array
    fast: Symmetric
    motion: tuple[linear.Operator, ...]  # a, b, a', b' and the data's deviation
    which: int = eqx.field(static=True)
    inverse: bool = eqx.field(static=True)
    transpose: bool = eqx.field(static=True)
    shape: linear.Shape = eqx.field(static=True)

    def event(self) -> linear.Shape:
        return self.shape

    @property
    def matrix(self) -> Array:
        return jax.lax.cond(self.holds, lambda: self.fast.matrix, self.made)

    def made(self) -> Array:
        """The matrix from a decomposition for this time."""
        operator = _by_time(*self.motion)[self.which]
        operator = linear.inverse(operator) if self.inverse else operator
        operator = linear.transpose(operator) if self.transpose else operator
        return linear.matrix_of(operator, self.shape, self.fast.values.dtype)

    def on(self, x: Array) -> Array:
        return _applied(self, x)

    def scaled(self, value: linear.Value) -> linear.Operator:
        return linear.Dense(self.matrix * value, self.shape)

    def after(self, constant: Array) -> linear.Operator:
        return linear.Dense(self.matrix @ constant, self.shape)

    def transposed(self) -> "Either":
        fast, motion = self.fast.transposed(), self.motion
        return Either(self.holds, fast, motion, self.which, self.inverse, not self.transpose, self.shape)

    def inverted(self) -> "Either":
        fast, motion = self.fast.inverted(), self.motion
        return Either(self.holds, fast, motion, self.which, not self.inverse, self.transpose, self.shape)

    def largest(self) -> Array:
        return jnp.max(jnp.abs(self.matrix))

    def mean_square(self) -> Array:
        return jnp.sum(self.matrix**2) / len(self.fast.values)

    def slope(self, tangent: "Either") -> linear.Operator:
        return linear.Dense(jax.jvp(lambda one: one.matrix, (self,), (tangent,))[1], self.shape)


@eqx.filter_custom_jvp
def _applied(operator: Either, x: Array) -> Array:
    """The operator on a vector.

    Written as a linear system, so that its transpose is the transposed operator. The transpose that jax finds of the
    `cond` keeps the matrix of every time from one pass to the other: n^2 numbers an example, from both branches.
    """

    return jax.lax.custom_linear_solve(
        lambda y: y, x, lambda _, b: _branch(operator, b), lambda _, b: _branch(operator.transposed(), b)
    )


def _branch(operator: Either, x: Array) -> Array:
    return jax.lax.cond(operator.holds, lambda: operator.fast.on(x), lambda: operator.made().astype(x.dtype) @ x)


@_applied.def_jvp
def _applied_jvp(primals: tuple[Either, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    """Linear in x; in time, that of the branch."""
    operator, x = primals
    d_operator, d_x = tangents
    value = _applied(operator, x)
    slope = jnp.zeros_like(value) if d_x is None else _applied(operator, d_x)
    if any(leaf is not None for leaf in jax.tree.leaves(d_operator)):
        slope = slope + eqx.filter_jvp(lambda operator: _branch(operator, x), (operator,), (d_operator,))[1]
    return value, slope


Three = tuple[linear.Operator, linear.Operator, linear.Operator]


def matrix_scalings(
    a: linear.Operator,
    b: linear.Operator,
    a_dot: linear.Operator,
    b_dot: linear.Operator,
    deviation: linear.Operator,
    shape: linear.Shape,
    *,
    differentiable: bool,
) -> Three:
    """c_in, c_skip and c_out of one time, where any of the operators is a matrix.

    `differentiable` asks for derivatives in the flow's matrices and the deviation, which the fast forms do not have.
    """
    if differentiable:
        return _by_time(a, b, a_dot, b_dot, deviation)
    if all(isinstance(o, linear.Scaling) for o in (a, b, a_dot, b_dot)) and isinstance(deviation, linear.Dense):
        wide = _at_least_single(deviation.matrix)
        values, basis = factorisations.eigh(wide @ wide.T)
        numbers = _wide(a, wide), _wide(b, wide), _wide(a_dot, wide), _wide(b_dot, wide)
        return _in_basis(basis, jnp.maximum(values, 0.0), *numbers, shape)
    if isinstance(a, Modal) and isinstance(b, Modal) and isinstance(a_dot, Modal) and isinstance(b_dot, Modal):
        return _in_modes(a, b, a_dot, b_dot, deviation, shape)
    noise, noise_dot = (o if isinstance(o, linear.Multiple) else None for o in (b, b_dot))
    if noise is not None and noise_dot is not None and isinstance(a, linear.Scaling):
        return _in_noise(a, noise, a_dot, noise_dot, deviation, shape)
    return _by_time(a, b, a_dot, b_dot, deviation)


def _in_noise(
    a: linear.Scaling,
    b: linear.Multiple,
    a_dot: linear.Operator,
    b_dot: linear.Multiple,
    deviation: linear.Operator,
    shape: linear.Shape,
) -> Three:
    """With x = a x_0 + f(t) N e: the eigenvectors of N N^T, if the data are uncorrelated along them."""
    wide = _at_least_single(b.constant)
    of_noise, basis = factorisations.eigh(wide @ wide.T)
    spread = basis.T @ linear.matrix_of(deviation, shape, wide.dtype).astype(wide.dtype)
    square = spread @ spread.T
    holds = _is_diagonal(square, jnp.max(jnp.diagonal(square)) / jnp.min(jnp.diagonal(square)))
    root = jnp.sqrt(jnp.maximum(of_noise, 0.0))
    fast = _in_basis(
        basis,
        jnp.diagonal(square),
        _wide(a, wide),
        b.factor.astype(wide.dtype) * root,
        _wide(a_dot, wide),
        b_dot.factor.astype(wide.dtype) * root,
        shape,
    )
    return _either(holds, fast, (a, b, a_dot, b_dot, deviation), shape)


def _either(holds: Array, fast: Iterable[Symmetric], motion: tuple[linear.Operator, ...], shape: linear.Shape) -> Three:
    return tuple(Either(holds, one, motion, i, False, False, shape) for i, one in enumerate(fast))  # pyright: ignore


def _in_modes(a: Modal, b: Modal, a_dot: Modal, b_dot: Modal, deviation: linear.Operator, shape: linear.Shape) -> Three:
    """With x = P q: q = diag(f_a) Q x_0 + diag(f_b) K e, where Q and K are the inner factors."""
    positions = a.outer
    spread = a.inner @ linear.matrix_of(deviation, shape, positions.dtype).astype(positions.dtype)
    squares = [m @ m.T for m in (positions.T, spread, b.inner)]
    length, of_data, of_noise = (jnp.diagonal(square) for square in squares)
    condition = jnp.max(length) / jnp.min(length)
    holds = jnp.all(jnp.stack([_is_diagonal(square, condition) for square in squares]))
    basis = positions / jnp.sqrt(length)[None, :]
    root = jnp.sqrt(length * of_noise)
    fast = _in_basis(
        basis,
        length * of_data,
        a.diagonal,
        b.diagonal * root,
        a_dot.diagonal,
        b_dot.diagonal * root,
        shape,
    )
    return _either(holds, fast, (a, b, a_dot, b_dot, deviation), shape)


def _is_diagonal(square: Array, condition: Array) -> Array:
    """Whether a symmetric matrix of correlations is diagonal, as far as rounding can tell.

    The roots of a covariance of this condition number, and its inverse, leave correlations of up to about 3 eps times
    the condition (measured from 1e1 to 1e6 in single precision, 256 coordinates).
    """
    eps = float(jnp.finfo(square.dtype).eps)
    root = jnp.sqrt(jnp.diagonal(square))
    correlations = square / root[:, None] / root[None, :] - jnp.eye(len(square), dtype=square.dtype)
    return jnp.max(jnp.abs(correlations)) <= 3.0 * eps**0.5 + jnp.minimum(4.0 * eps * condition, 0.3)


def _in_basis(
    basis: Array, variance: Array, a: Array, b: Array, a_dot: Array, b_dot: Array, shape: linear.Shape
) -> tuple[Symmetric, Symmetric, Symmetric]:
    """The formulas for numbers, one for each direction of the basis; `variance` is that of the data there."""
    total = a**2 * variance + b**2
    c_skip = (a * a_dot * variance + b * b_dot) / total
    c_out = jnp.abs(a * b_dot - a_dot * b) * jnp.sqrt(variance / total)
    return tuple(Symmetric(basis, v, shape) for v in (total**-0.5, c_skip, c_out))  # pyright: ignore


def _by_time(a, b, a_dot, b_dot, deviation) -> Three:
    """A decomposition for this time. G - B A^-1 B^T has few digits left where noise is large (1e-5 of G at sigma = 80;
    single precision has 1e-7). It is also the inverse of the (v, v) block of the precision of (x, v) = M (white data,
    noise), where nothing cancels.
    """
    a, b, a_dot, b_dot = (_formed(operator) for operator in (a, b, a_dot, b_dot))
    a, a_dot = linear.compose(a, deviation), linear.compose(a_dot, deviation)

    def covariance(left, left_noise, right, right_noise):
        data = linear.compose(left, linear.transpose(right))
        return linear.add(data, linear.compose(left_noise, linear.transpose(right_noise)))

    var, cov = covariance(a, b, a, b), covariance(a_dot, b_dot, a, b)
    assert isinstance(var, linear.Dense)
    size, zero = var.matrix.shape[0], linear.Dense(jnp.zeros_like(var.matrix), var.shape)

    def matrix(operator: linear.Operator) -> Array:
        full = linear.add(operator, zero)
        assert isinstance(full, linear.Dense)
        return full.matrix

    motion = jnp.block([[matrix(a), matrix(b)], [matrix(a_dot), matrix(b_dot)]])
    from_motion = linear.inverse(linear.Dense(motion, (2 * size,)))
    assert isinstance(from_motion, linear.Dense)
    from_velocity = from_motion.matrix[:, size:]
    precision = linear.Dense(from_velocity.T @ from_velocity, var.shape)
    c_in, c_out = (linear.inverse(linear.square_root(operator)) for operator in (var, precision))
    return c_in, linear.compose(cov, linear.inverse(var)), c_out


def _formed(operator: linear.Operator) -> linear.Operator:
    """A factored matrix as the matrix itself."""
    return (
        linear.Dense(operator.matrix, operator.event()) if isinstance(operator, linear.AbstractFactored) else operator
    )


def _wide(operator: linear.Operator, like: Array) -> Array:
    return jnp.asarray(operator.value, like.dtype)


def _at_least_single(x: Array) -> Array:
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
