"""The normal modes of a linear oscillator, and the matrices that are diagonal in them.

K = L^-1 O^T O L^-T is the stiffness in the coordinates y = L^T x, in which the mass M = L L^T is 1. Its eigenvectors V
and frequencies w make every block of the motion a product (outer V-part) diag(f(w, t)) (inner V-part), with f one of
cos wt, sin(wt)/w and w sin wt. They are found once a call, whatever the number of times and positions: a batch shares
them, and no matrix is formed for a time.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from . import _factorisations as factorisations, _linear as linear
from ._types import Array

Weights = tuple[Any, Any, Any]  # of cos wt, sin(wt)/w and w sin wt: numbers, or None where a function is absent


class Modes(NamedTuple):
    """What one oscillator's blocks share, none of it a function of time."""

    lower: Array  # L, with L L^T the mass
    lower_inverse: Array
    stiffness: Array  # K
    positions: Array  # P = L^-T V: x = P q
    momenta: Array  # P^-1: q = P^-1 x
    vectors: Array  # V
    frequencies: Array  # w


def modes_of(frequency: linear.Operator, mass: linear.Operator, shape: tuple[int, ...], dtype: Any) -> Modes:
    """The modes of U = |frequency x|^2 / 2 with this mass, in at least single precision."""
    wide = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
    mass_matrix = linear.matrix_of(mass, shape, dtype).astype(wide)
    if linear.is_matrix(mass):
        lower = factorisations.cholesky(mass_matrix)
        lower_inverse = factorisations.solve_lower(lower, jnp.eye(len(lower), dtype=wide))
    else:
        root = jnp.sqrt(jnp.diagonal(mass_matrix))
        lower, lower_inverse = jnp.diag(root), jnp.diag(1.0 / root)
    reduced = linear.matrix_of(frequency, shape, dtype).astype(wide) @ lower_inverse.T
    stiffness = reduced.T @ reduced
    frozen = (jax.lax.stop_gradient(m) for m in (mass_matrix, lower, lower_inverse, stiffness))
    return Modes(lower, lower_inverse, stiffness, *_frozen_modes(*frozen))


def _frozen_modes(mass: Array, lower: Array, lower_inverse: Array, stiffness: Array) -> tuple[Array, ...]:
    """P, P^-1, V and w.

    Where all frequencies are equal, as whitening makes them, every basis is one of modes. The eigenvectors of the mass
    are taken there, so that P^T P is diagonal too, and one eigendecomposition is enough in both cases. Equal means as
    far as the rounding of the stiffness can tell: the unit of rounding times the condition of the mass, of which the
    diagonal of L gives a lower bound.
    """
    diagonal = jnp.abs(jnp.diagonal(lower))
    rounding = (
        4.0 * len(lower) ** 0.5 * float(jnp.finfo(lower.dtype).eps) * (jnp.max(diagonal) / jnp.min(diagonal)) ** 2
    )
    mean = jnp.mean(jnp.diagonal(stiffness))
    equal = jnp.max(jnp.abs(stiffness - mean * jnp.eye(len(lower), dtype=lower.dtype))) <= rounding * mean
    values, vectors = factorisations.eigh(jnp.where(equal, mass, stiffness))
    root = jnp.sqrt(jnp.where(equal, jnp.maximum(values, 0.0), jnp.ones_like(values)))
    positions = jnp.where(equal, vectors / root[None, :], lower_inverse.T @ vectors)
    momenta = jnp.where(equal, root[:, None] * vectors.T, vectors.T @ lower.T)
    squared = jnp.where(equal, mean, jnp.maximum(values, 0.0))
    return positions, momenta, jnp.where(equal, lower.T @ positions, vectors), jnp.sqrt(squared)


def functions_of(frequencies: Array, t: Array, weights: Weights) -> Array:
    """The weighted sum of cos wt, sin(wt)/w and w sin wt, one number a mode."""
    angle = frequencies * t
    cosine, sine, squared = weights
    total = jnp.zeros_like(angle)
    if cosine is not None:
        total = total + cosine * jnp.cos(angle)
    if sine is not None:
        total = total + sine * t * jnp.sinc(angle / jnp.pi)
    if squared is not None:
        total = total + squared * frequencies * jnp.sin(angle)
    return total


class Modal(linear.AbstractFactored):
    """left f(K, t) right, with f a weighted sum of the three functions, in the modes of K.

    `outer` = left V and `inner` = V^T right are what the matrix is applied by. They carry no gradient: that goes
    through `left`, `right` and the stiffness, by Daleckii and Krein's divided differences, which are finite where
    eigenvalues coincide and the derivative of eigenvectors is not.
    """

    left: Array
    right: Array
    stiffness: Array
    outer: Array
    inner: Array
    vectors: Array
    frequencies: Array
    t: Array
    weights: Weights
    shape: linear.Shape = eqx.field(static=True)

    def event(self) -> linear.Shape:
        return self.shape

    @property
    def diagonal(self) -> Array:
        """f(w, t), one number a mode."""
        return functions_of(self.frequencies, self.t.astype(self.frequencies.dtype), self._wide_weights())

    @property
    def matrix(self) -> Array:
        columns = jax.vmap(self._on_wide)(jnp.eye(len(self.left), dtype=self.left.dtype))
        return columns.T.astype(self.t.dtype)

    def on(self, x: Array) -> Array:
        return self._on_wide(x.astype(self.left.dtype)).astype(x.dtype)

    def scaled(self, value: linear.Value) -> "Modal":
        weights = tuple(None if w is None else w * value for w in self.weights)
        return eqx.tree_at(lambda m: m.weights, self, weights, is_leaf=lambda leaf: leaf is None)

    def after(self, constant: Array) -> "Modal":
        constant = constant.astype(self.left.dtype)
        factors = (self.right @ constant, self.inner @ jax.lax.stop_gradient(constant))
        return eqx.tree_at(lambda m: (m.right, m.inner), self, factors)

    def transposed(self) -> "Modal":
        sides = (self.right.T, self.left.T, self.inner.T, self.outer.T)
        return eqx.tree_at(lambda m: (m.left, m.right, m.outer, m.inner), self, sides)

    def inverted(self) -> "Inverse":
        return Inverse(self)

    def largest(self) -> Array:
        return jnp.max(jnp.abs(self.diagonal))

    def mean_square(self) -> Array:
        # sum_ij f_i f_j (outer^T outer)_ij (inner inner^T)_ij, and most often the modes are orthogonal.
        products = jax.lax.stop_gradient((self.outer.T @ self.outer) * (self.inner @ self.inner.T))
        own = jnp.diagonal(products)
        mixed = jnp.max(jnp.abs(products - jnp.diag(own))) > float(jnp.finfo(own.dtype).eps) * jnp.min(own)
        f = self.diagonal
        return jax.lax.cond(mixed, lambda: f @ (products @ f), lambda: own @ (f * f)) / len(self.left)

    def slope(self, tangent: "Modal") -> linear.Operator:
        """The derivative in t, from the tangent that jax gives of this operator."""
        cosine, sine, squared = self.weights
        if squared is not None:
            matrix = jax.jvp(lambda one: one.matrix, (self,), (tangent,))[1]
            return linear.Dense(matrix, self.shape)
        rate, (d_cosine, d_sine, _) = tangent.t, tangent.weights
        weights = (
            _sum(d_cosine, None if sine is None else sine * rate),
            d_sine,
            None if cosine is None else -cosine * rate,
        )
        return eqx.tree_at(lambda m: m.weights, self, weights, is_leaf=lambda leaf: leaf is None)

    def _wide_weights(self) -> Weights:
        dtype = self.left.dtype
        return tuple(None if w is None else jnp.asarray(w, dtype) for w in self.weights)  # pyright: ignore

    def _on_wide(self, x: Array) -> Array:
        frozen = jax.lax.stop_gradient((self.outer, self.inner, self.vectors, self.frequencies))
        t = self.t.astype(self.left.dtype)
        return _applied(self.left, self.right, self.stiffness, frozen, t, self._wide_weights(), x)


class Inverse(linear.AbstractFactored):
    """The inverse of a `Modal`, by its factors; derivatives are those of a linear system."""

    of: Modal

    def event(self) -> linear.Shape:
        return self.of.shape

    @property
    def matrix(self) -> Array:
        return jax.vmap(self.on)(jnp.eye(len(self.of.left), dtype=self.of.t.dtype)).T

    def on(self, x: Array) -> Array:
        wide = x.astype(self.of.left.dtype)
        inner, outer = (factorisations.inv(jax.lax.stop_gradient(m)) for m in (self.of.inner, self.of.outer))
        f = jax.lax.stop_gradient(self.of.diagonal)
        solution = jax.lax.custom_linear_solve(
            self.of._on_wide,
            wide,
            lambda _, b: inner @ ((outer @ b) / f),
            lambda _, b: outer.T @ ((inner.T @ b) / f),
        )
        return solution.astype(x.dtype)

    def scaled(self, value: linear.Value) -> "Inverse":
        return Inverse(self.of.scaled(1.0 / value))

    def after(self, constant: Array) -> linear.Operator:
        return linear.Dense(self.matrix @ constant, self.of.shape)

    def transposed(self) -> "Inverse":
        return Inverse(self.of.transposed())

    def inverted(self) -> Modal:
        return self.of

    def largest(self) -> Array:
        return 1.0 / jnp.min(jnp.abs(self.of.diagonal))

    def mean_square(self) -> Array:
        return jnp.sum(self.matrix**2) / len(self.of.left)

    def slope(self, tangent: "Inverse") -> linear.Operator:
        return linear.Dense(jax.jvp(lambda one: one.matrix, (self,), (tangent,))[1], self.of.shape)


def solve_modes(a: Modal, b: Modal, a_dot: Modal, b_dot: Modal, x: Array, v: Array) -> tuple[Array, Array]:
    """(D, N) with a D + b N = x and a' D + b' N = v, by two inverses for all times.

    In the modes these are two equations a mode. The derivatives are those of a linear system.
    """
    dtype, size = a.left.dtype, x.size
    outer, of_data, of_noise = (factorisations.inv(jax.lax.stop_gradient(m)) for m in (a.outer, a.inner, b.inner))
    rows = jax.lax.stop_gradient([[o.diagonal for o in row] for row in ((a, b), (a_dot, b_dot))])
    determinant = rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]

    def motion(both: Array) -> Array:
        d, n = both[:size], both[size:]
        return jnp.concatenate([a._on_wide(d) + b._on_wide(n), a_dot._on_wide(d) + b_dot._on_wide(n)])

    def solve(_: Any, both: Array) -> Array:
        q, q_dot = outer @ both[:size], outer @ both[size:]
        d = of_data @ ((rows[1][1] * q - rows[0][1] * q_dot) / determinant)
        n = of_noise @ ((rows[0][0] * q_dot - rows[1][0] * q) / determinant)
        return jnp.concatenate([d, n])

    def solve_transposed(_: Any, both: Array) -> Array:
        d, n = of_data.T @ both[:size] / determinant, of_noise.T @ both[size:] / determinant
        q, q_dot = rows[1][1] * d - rows[1][0] * n, rows[0][0] * n - rows[0][1] * d
        return jnp.concatenate([outer.T @ q, outer.T @ q_dot])

    given = jnp.concatenate([x.reshape(-1), v.reshape(-1)]).astype(dtype)
    both = jax.lax.custom_linear_solve(motion, given, solve, solve_transposed).astype(x.dtype)
    return both[:size].reshape(x.shape), both[size:].reshape(x.shape)


def apply_both(left: linear.Operator, x: Array, right: linear.Operator, p: Array) -> Array:
    """left x + right p; two blocks of one motion end in the same modes, and meet there."""
    if not (isinstance(left, Modal) and isinstance(right, Modal)):
        return linear.apply(left, x) + linear.apply(right, p)
    flat = (x.reshape(-1).astype(left.left.dtype), p.reshape(-1).astype(left.left.dtype))
    return _meet(left, flat[0], right, flat[1]).astype(x.dtype).reshape(x.shape)


@eqx.filter_custom_jvp
def _meet(left: Modal, x: Array, right: Modal, p: Array) -> Array:
    return left.outer @ (left.diagonal * (left.inner @ x) + right.diagonal * (right.inner @ p))


@_meet.def_jvp
def _meet_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    def apart(left: Modal, x: Array, right: Modal, p: Array) -> Array:
        return left._on_wide(x) + right._on_wide(p)

    return _meet(*primals), eqx.filter_jvp(apart, primals, tangents)[1]


def _sum(first: Any, second: Any) -> Any:
    return second if first is None else first if second is None else first + second


@jax.custom_jvp
def _applied(
    left: Array, right: Array, stiffness: Array, frozen: tuple[Array, ...], t: Array, weights: Weights, x: Array
) -> Array:
    outer, inner, _, frequencies = frozen
    return outer @ (functions_of(frequencies, t, weights) * (inner @ x))


@partial(_applied.defjvp, symbolic_zeros=True)
def _applied_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """In t the equations of motion; in K divided differences; linear in the rest."""
    left, right, stiffness, frozen, t, weights, x = primals
    d_left, d_right, d_stiffness, _, d_t, d_weights, d_x = tangents
    outer, inner, vectors, frequencies = frozen
    value = _applied(*primals)
    slope = jnp.zeros_like(value)
    f = functions_of(frequencies, t, weights)
    if not isinstance(d_x, SymbolicZero):
        slope = slope + _applied(left, right, stiffness, frozen, t, weights, d_x)
    if any(w is not None and not isinstance(w, SymbolicZero) for w in d_weights):
        along = tuple(None if isinstance(w, SymbolicZero) else w for w in d_weights)
        slope = slope + _applied(left, right, stiffness, frozen, t, along, x)
    if not isinstance(d_t, SymbolicZero):
        cosine, sine, squared = weights
        along = (sine, None, None if cosine is None else -cosine)
        slope = slope + d_t * _applied(left, right, stiffness, frozen, t, along, x)
        if squared is not None:  # d/dt of w sin wt is w^2 cos wt
            spring = outer @ (squared * frequencies**2 * jnp.cos(frequencies * t) * (inner @ x))
            slope = slope + d_t * spring
    if not isinstance(d_left, SymbolicZero):
        slope = slope + d_left @ (vectors @ (f * (inner @ x)))
    if not isinstance(d_right, SymbolicZero):
        slope = slope + outer @ (f * (vectors.T @ (d_right @ x)))
    if not isinstance(d_stiffness, SymbolicZero):
        differences = _divided_differences(frequencies, t, weights)
        slope = slope + outer @ ((differences * (vectors.T @ d_stiffness @ vectors)) @ (inner @ x))
    return value, slope


def _divided_differences(w: Array, t: Array, weights: Weights) -> Array:
    """(f(wi) - f(wj)) / (wi^2 - wj^2) of the weighted sum, finite where eigenvalues coincide."""
    wi, wj = w[:, None], w[None, :]
    half_sum, half_difference = (wi + wj) * t / 2.0, (wi - wj) * t / 2.0
    sum_sinc, difference_sinc = jnp.sinc(half_sum / jnp.pi), jnp.sinc(half_difference / jnp.pi)
    # Sums become products, so that nothing cancels.
    d_cosine = -(t**2) / 2.0 * sum_sinc * difference_sinc
    s = t * jnp.sinc(w * t / jnp.pi)
    si, sj = s[:, None], s[None, :]
    # Near a coincidence the slope at the middle is better than the quotient: errors of gap^2 against eps / gap.
    gap, total = wi**2 - wj**2, wi**2 + wj**2
    near = (24.0 * float(jnp.finfo(t.dtype).eps)) ** (1.0 / 3.0)
    close = jnp.abs(gap) <= near * jnp.maximum(total, 1.0 / jnp.maximum(t**2, 1e-12))
    safe_gap = jnp.where(close, jnp.ones_like(gap), gap)
    d_sine = jnp.where(close, _sine_slope(total / 2.0, t), (si - sj) / safe_gap)
    d_squared = (si + sj) / 2.0 + total / 2.0 * d_sine  # of the product w sin wt = w^2 s
    parts = zip(weights, (d_cosine, d_sine, d_squared), strict=True)
    return sum((weight * d for weight, d in parts if weight is not None), start=jnp.zeros_like(gap))


def _sine_slope(square: Array, t: Array) -> Array:
    """d/d(w^2) of sin(wt)/w = (t cos wt - sin(wt)/w) / (2 w^2), by its series near w = 0."""
    angle_square = square * t**2
    small = angle_square < 0.1
    safe = jnp.where(small, jnp.ones_like(square), square)
    w = jnp.sqrt(safe)
    exact = (t * jnp.cos(w * t) - jnp.sin(w * t) / w) / (2.0 * safe)
    y = angle_square
    series = -(t**3) / 6.0 * (1.0 - y / 10.0 + y**2 / 280.0 - y**3 / 15120.0 + y**4 / 1330560.0)
    return jnp.where(small, series, exact)
