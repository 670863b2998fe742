"""The harmonic oscillator."""

from typing import final

import jax.numpy as jnp
from jax.typing import ArrayLike

from .. import _linear as linear
from .._parameters import as_parameter
from .._types import Array, Float, Scalar, ScalarLike, checked
from ..domains import AbstractDomain, Euclidean
from ..kinetics import AbstractKinetic, GaussianKinetic
from ..propagators import AbstractPropagator, AbstractSolvable, HarmonicMotion
from .base import AbstractPotential


@final
class HarmonicPotential(AbstractPotential, AbstractSolvable):
    """U = |frequency x|^2 / 2; with mass m a coordinate moves at the angular frequency `frequency / sqrt(m)`.

    Args:
        frequency: a number, an array of the position's shape (one a coordinate), or of `shape + shape` (a matrix O,
            U = x^T O^T O x / 2). Zero is allowed: that mode is free.

    With a Gaussian kinetic energy in Euclidean space the motion is linear and known in closed form.
    """

    frequency: float | Float[Array, "..."]

    @checked
    def __init__(self, frequency: ArrayLike = 1.0):
        self.frequency = as_parameter(frequency, "frequency")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        operator = linear.as_operator(self.frequency, position.shape, position.dtype, "frequency")
        return 0.5 * jnp.sum(linear.apply(operator, position) ** 2)

    def propagator(self, kinetic: AbstractKinetic, domain: AbstractDomain) -> AbstractPropagator | None:
        if isinstance(kinetic, GaussianKinetic) and isinstance(domain, Euclidean):
            return HarmonicMotion(self.frequency, kinetic.mass)
        return None
