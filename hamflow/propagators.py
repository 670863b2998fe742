"""Closed forms: the whole motion from t0 to t in one step.

A propagator is the exact flow map of a system. Three known motions expressed as one:

- free motion: x_t = x_0 + (t - t0) v, folded at walls (`FreeMotion`), for any kinetic energy;
- free motion of a Gaussian momentum in all of space, which is linear in (x_0, p_0) (`LinearFreeMotion`);
- the harmonic oscillator, linear as well (`HarmonicMotion`).

To give a potential a closed form of its own, inherit from `AbstractSolvable` beside `AbstractPotential` and return a
propagator from `propagator(kinetic, domain)`, or None where it has none. A linear motion subclasses
`AbstractLinearPropagator` and writes its four blocks: `evolve` and `coefficients` both read them.
"""

import abc
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from . import _linear as linear
from ._module import AbstractModule
from ._types import Array
from .domains import AbstractDomain, Euclidean
from .kinetics import AbstractKinetic, GaussianKinetic
from .state import PhaseState


class AbstractPropagator(AbstractModule):
    """The exact flow map of a system, in closed form."""

    @abc.abstractmethod
    def __call__(self, t0: Array, t: Array, state: PhaseState) -> PhaseState:
        """The state at `t` of the trajectory that is `state` at `t0`; scalars in the dtype of the state."""


class AbstractSolvable(AbstractModule):
    """A force or a potential that can bring a closed form."""

    @abc.abstractmethod
    def propagator(self, kinetic: AbstractKinetic, domain: AbstractDomain) -> AbstractPropagator | None:
        """The motion under this force with this kinetic energy in this domain, or None if there is no closed form."""


class AbstractLinearPropagator(AbstractPropagator):
    """A motion that is linear in phase space: x_t = A x_0 + B p_0, p_t = C x_0 + D p_0."""

    @abc.abstractmethod
    def blocks(self, t0: Array, t: Array, shape: tuple[int, ...] | None) -> tuple[Any, Any, Any, Any]:
        """A, B, C, D, each a number, an array of the position's shape (diagonal) or of `shape + shape` (a matrix).

        `shape` is the shape of one position, or None where it is not known (`Flow.coefficients` without a shape).
        The blocks must be differentiable in `t`.
        """

    def operators(self, t0: Array, t: Array, shape: tuple[int, ...] | None) -> tuple[linear.Operator, ...]:
        """The four blocks as operators on positions."""
        names = ("A", "B", "C", "D")
        blocks = self.blocks(t0, t, shape)
        if not isinstance(blocks, tuple) or len(blocks) != 4:
            raise ValueError(f"{type(self).__name__}.blocks must return the four blocks (A, B, C, D), got {blocks!r}")
        return tuple(linear.as_operator(v, shape, t.dtype, n) for v, n in zip(blocks, names, strict=True))

    def __call__(self, t0: Array, t: Array, state: PhaseState) -> PhaseState:
        x, p = state.position, state.momentum
        a, b, c, d = self.operators(t0, t, x.shape)
        return PhaseState(
            linear.apply(a, x) + linear.apply(b, p),
            linear.apply(c, x) + linear.apply(d, p),
        )


@final
class FreeMotion(AbstractPropagator):
    """No force: the momentum stays, the domain takes the step (t - t0) v."""

    kinetic: AbstractKinetic
    domain: AbstractDomain

    def __call__(self, t0: Array, t: Array, state: PhaseState) -> PhaseState:
        if self.domain.flips_momentum and not self.kinetic.is_even_in_each(state.position.shape):
            raise ValueError(
                f"mass of shape {jnp.shape(getattr(self.kinetic, 'mass', 1.0))} is a matrix on positions of shape "
                f"{state.position.shape}, which mixes momenta: the walls of {type(self.domain).__name__} need a number "
                "or a diagonal mass"
            )
        displacement = (t - t0) * self.kinetic.velocity(state.momentum)
        return PhaseState(*self.domain.step(state.position, state.momentum, displacement))

    def unfolded(self) -> "LinearFreeMotion | None":
        """The same motion without walls where that is linear; it sets the noise scale of a reflection."""
        return LinearFreeMotion(self.kinetic) if isinstance(self.kinetic, GaussianKinetic) else None


@final
class LinearFreeMotion(AbstractLinearPropagator):
    """x_t = x_0 + (t - t0) M^-1 p_0, in all of space."""

    kinetic: GaussianKinetic

    def blocks(self, t0: Array, t: Array, shape: tuple[int, ...] | None) -> tuple[Any, Any, Any, Any]:
        mass = linear.as_operator(self.kinetic.mass, shape, t.dtype, "mass")
        drift = linear.compose(linear.Scaling(t - t0), linear.inverse(mass))
        return 1.0, drift.value, 0.0, 1.0


@final
class HarmonicMotion(AbstractLinearPropagator):
    """The oscillator U = |O x|^2 / 2 with mass M: x'' = -M^-1 O^T O x.

    With numbers and diagonals, w = O / sqrt(M): A = D = cos wt, B = sin(wt) / (M w), C = -M w sin wt. With matrices,
    M = L L^T and W2 = L^-1 O^T O L^-T: A = L^-T cos(W t) L^T and so on (the normal modes).
    """

    frequency: float | Array
    mass: float | Array

    def blocks(self, t0: Array, t: Array, shape: tuple[int, ...] | None) -> tuple[Any, Any, Any, Any]:
        mass = linear.as_operator(self.mass, shape, t.dtype, "mass")
        frequency = linear.as_operator(self.frequency, shape, t.dtype, "frequency")
        elapsed = t - t0
        if isinstance(mass, linear.Dense) or isinstance(frequency, linear.Dense):
            return _normal_modes(frequency, mass, elapsed)
        m, w = mass.value, self.angular_frequency(shape, t.dtype)
        angle = w * elapsed
        # sin(wt)/w through sinc: right, with its derivative, at w = 0 as well, where a mode is free.
        sine_over_w = elapsed * jnp.sinc(angle / jnp.pi)
        cosine = jnp.cos(angle)
        return cosine, sine_over_w / m, -m * w * jnp.sin(angle), cosine

    def angular_frequency(self, shape: tuple[int, ...] | None, dtype: Any) -> float | Array:
        """w = frequency / sqrt(mass), for numbers and diagonals."""
        mass = linear.as_operator(self.mass, shape, dtype, "mass")
        frequency = linear.as_operator(self.frequency, shape, dtype, "frequency")
        return linear.compose(frequency, linear.inverse(linear.factor(mass))).value


def _normal_modes(frequency: linear.Operator, mass: linear.Operator, elapsed: Array) -> tuple[Any, Any, Any, Any]:
    shape = next(op.shape for op in (frequency, mass) if isinstance(op, linear.Dense))
    lower = linear.factor(mass)  # M = L L^T, y = L^T x has unit mass
    lower_inverse = linear.inverse(lower)
    lower_t, lower_inverse_t = linear.transpose(lower), linear.transpose(lower_inverse)
    reduced = linear.compose(frequency, lower_inverse_t)
    stiffness = linear.compose(linear.transpose(reduced), reduced)
    assert isinstance(stiffness, linear.Dense)
    cosine, sine, squared = _oscillate(stiffness.matrix, elapsed)
    cosine, sine, squared = (linear.Dense(m, shape) for m in (cosine, sine, squared))
    a = linear.compose(linear.compose(lower_inverse_t, cosine), lower_t)
    b = linear.compose(linear.compose(lower_inverse_t, sine), lower_inverse)
    c = linear.compose(linear.compose(lower, squared), lower_t)
    d = linear.compose(linear.compose(lower, cosine), lower_inverse)
    return a.value, b.value, -c.value, d.value


@jax.custom_jvp
def _oscillate(stiffness: Array, t: Array) -> tuple[Array, Array, Array]:
    """cos(W t), W^-1 sin(W t) and W sin(W t) of the symmetric matrix W^2 = `stiffness`."""
    values, vectors = linear.in_single(jnp.linalg.eigh, stiffness)
    w = jnp.sqrt(jnp.maximum(values, 0.0))
    functions = (jnp.cos(w * t), t * jnp.sinc(w * t / jnp.pi), w * jnp.sin(w * t))
    cosine, sine, squared = ((vectors * f[None, :]) @ vectors.T for f in functions)
    return cosine, sine, squared


@partial(_oscillate.defjvp, symbolic_zeros=True)
def _oscillate_jvp(primals, tangents):
    """In t, the equations of motion; in the matrix, Daleckii and Krein's divided differences.

    They are kept apart: the matrix's own derivative goes through `eigh`, whose derivative is not finite where
    eigenvalues coincide. So the velocity (along t) has a gradient in the matrix, and a whitened oscillation, whose
    eigenvalues all coincide, can learn. A second derivative in the matrix is finite for distinct eigenvalues only.
    """
    (stiffness, t), (d_stiffness, d_t) = primals, tangents
    cosine, _, squared = functions = _oscillate(stiffness, t)
    d_cosine, d_sine, d_squared = (jnp.zeros_like(f) for f in functions)
    if not isinstance(d_t, SymbolicZero):
        d_cosine, d_sine, d_squared = -squared * d_t, cosine * d_t, (stiffness @ cosine) * d_t
    if not isinstance(d_stiffness, SymbolicZero):
        in_cosine, in_sine, in_squared = _along_matrix(stiffness, t, d_stiffness)
        d_cosine, d_sine, d_squared = d_cosine + in_cosine, d_sine + in_sine, d_squared + in_squared
    return functions, (d_cosine, d_sine, d_squared)


def _along_matrix(stiffness: Array, t: Array, d_stiffness: Array) -> tuple[Array, Array, Array]:
    """The derivatives of the three functions along `d_stiffness`, finite where eigenvalues coincide."""
    values, vectors = linear.in_single(jnp.linalg.eigh, stiffness)
    w = jnp.sqrt(jnp.maximum(values, 0.0))
    wi, wj = w[:, None], w[None, :]
    half_sum, half_difference = (wi + wj) * t / 2.0, (wi - wj) * t / 2.0
    sum_sinc, difference_sinc = jnp.sinc(half_sum / jnp.pi), jnp.sinc(half_difference / jnp.pi)
    # (f(wi^2) - f(wj^2)) / (wi^2 - wj^2), with sums turned into products so that nothing cancels.
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
    tangent = vectors.T @ d_stiffness @ vectors
    in_cosine, in_sine, in_squared = (vectors @ (f * tangent) @ vectors.T for f in (d_cosine, d_sine, d_squared))
    return in_cosine, in_sine, in_squared


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


def free_motion(kinetic: AbstractKinetic, domain: AbstractDomain) -> AbstractPropagator:
    """Motion without a force: linear for a Gaussian kinetic energy in all of space, else folded by the domain."""
    if isinstance(kinetic, GaussianKinetic) and isinstance(domain, Euclidean):
        return LinearFreeMotion(kinetic)
    return FreeMotion(kinetic, domain)
