"""No force at all."""

from typing import final

import jax.numpy as jnp

from .._types import Array, Float, Scalar, ScalarLike
from ..domains import AbstractDomain
from ..kinetics import AbstractKinetic
from ..propagators import AbstractPropagator, AbstractSolvable, free_motion
from .base import AbstractPotential


@final
class ZeroPotential(AbstractPotential, AbstractSolvable):
    """U = 0: straight lines, folded by the domain. Diffusion, flow matching and reflection flows are made of it."""

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        return jnp.zeros((), position.dtype)

    def propagator(self, kinetic: AbstractKinetic, domain: AbstractDomain) -> AbstractPropagator | None:
        return free_motion(kinetic, domain)
