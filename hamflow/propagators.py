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
from typing import Any, final

import jax.numpy as jnp

from . import _linear as linear
from ._modes import Modal, Weights, apply_both, modes_of
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
        return PhaseState(apply_both(a, x, b, p), apply_both(c, x, d, p))


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
        drift = linear.compose(linear.Scaling(t - t0), linear.inverse_of_positive(mass))
        return 1.0, drift, 0.0, 1.0


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
        if linear.is_matrix(mass) or linear.is_matrix(frequency):
            return _modal_blocks(frequency, mass, elapsed)
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


def _modal_blocks(
    frequency: linear.Operator, mass: linear.Operator, elapsed: Array
) -> tuple[Modal, Modal, Modal, Modal]:
    """A = P cos(wt) P^-1, B = P sin(wt)/w P^T, C = -P^-T w sin(wt) P^-1 and D = P^-T cos(wt) P^T in the modes P."""
    shape = next(op.shape for op in (frequency, mass) if isinstance(op, linear.Dense))
    m = modes_of(frequency, mass, shape, elapsed.dtype)
    up, down = m.lower_inverse.T, m.lower  # L^-T and L
    one = jnp.ones_like(elapsed)

    def block(left: Array, right: Array, outer: Array, inner: Array, weights: Weights) -> Modal:
        return Modal(left, right, m.stiffness, outer, inner, m.vectors, m.frequencies, elapsed, weights, shape)

    return (
        block(up, down.T, m.positions, m.momenta, (one, None, None)),
        block(up, up.T, m.positions, m.positions.T, (None, one, None)),
        block(down, down.T, m.momenta.T, m.momenta, (None, None, -one)),
        block(down, up.T, m.momenta.T, m.positions.T, (one, None, None)),
    )


def free_motion(kinetic: AbstractKinetic, domain: AbstractDomain) -> AbstractPropagator:
    """Motion without a force: linear for a Gaussian kinetic energy in all of space, else folded by the domain."""
    if isinstance(kinetic, GaussianKinetic) and isinstance(domain, Euclidean):
        return LinearFreeMotion(kinetic)
    return FreeMotion(kinetic, domain)
