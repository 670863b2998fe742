"""A kinetic energy whose velocities have heavy tails: a few particles are very fast."""

import math
from typing import ClassVar, final

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike

from .._parameters import as_parameter, cast, fit, require
from .._types import Array, Float, PRNGKeyArray, Scalar, ScalarLike, checked
from .base import AbstractKinetic


@final
class StudentTKinetic(AbstractKinetic):
    """K(p) = -(nu - 1) sum_i log cos(c_i p_i), c = sqrt(nu / m) / (nu - 1), for momenta |p_i| < pi / (2 c_i).

    Under exp(-K) the velocities v = sqrt(nu / m) tan(c p) are independent Student-t variables of nu degrees of freedom
    and scale m^-1/2, and K = (nu - 1) / 2 sum_i log(1 + m_i v_i^2 / nu). For nu -> infinity K = p^2 / 2m. (v(p) solves
    dv/dp = int_v^inf w f(w) dw / f(v), f the density asked for; derived here, not in the paper.)

    Args:
        degrees_of_freedom: nu > 1, one number. The variance of v, nu / (m (nu - 2)), and with it the loss of a velocity
            predictor, is finite above 2.
        mass: m, positive: a number, or an array of the position's shape.

    Momenta are bounded, velocities are not. Outside the support the energy is infinite and so is the velocity, so that
    an integrator whose step is long enough to leave it stops. Close to the edge a momentum has few digits left to tell
    velocities apart: `momentum` takes those above sqrt(nu / m) / (2 pi eps), 1e6 sqrt(nu / m) in single precision, for
    that one.

    Raises:
        ValueError: a mass that is not positive, degrees of freedom that are not above 1; in use, a mass of another
            shape than the momentum.
    """

    degrees_of_freedom: float | Float[Array, ""]
    mass: float | Float[Array, "..."]

    reaches_every_velocity: ClassVar[bool] = True

    @checked
    def __init__(self, degrees_of_freedom: ScalarLike | Float[Array | np.ndarray, ""], mass: ArrayLike = 1.0):
        self.degrees_of_freedom = as_parameter(degrees_of_freedom, "degrees_of_freedom")
        self.mass = as_parameter(mass, "mass")
        message = f"degrees_of_freedom must be above 1, got {self.degrees_of_freedom}: below, no speed has a mean"
        require(self.degrees_of_freedom, lambda nu: nu > 1, message)
        require(self.mass, lambda m: m > 0, f"mass must be positive, got {self.mass}")

    def energy(self, momentum: Float[Array, "*event"]) -> Scalar:
        nu, root_mass = self._constants(momentum)
        # log cos(angle) = -log(1 + tan(angle)^2) / 2, which keeps its digits at both ends, as does its derivative.
        return 0.5 * (nu - 1.0) * jnp.sum(jnp.log1p((root_mass * self.velocity(momentum)) ** 2 / nu))

    def velocity(self, momentum: Float[Array, "*event"]) -> Float[Array, "*event"]:
        nu, root_mass = self._constants(momentum)
        angle = momentum * (jnp.sqrt(nu) / (nu - 1.0) / root_mass)
        beyond = jnp.where(angle > 0.0, jnp.inf, jnp.where(angle < 0.0, -jnp.inf, angle))  # a NaN stays one
        return jnp.where(jnp.abs(angle) < math.pi / 2.0, jnp.sqrt(nu) / root_mass * jnp.tan(angle), beyond)

    def momentum(self, velocity: Float[Array, "*event"]) -> Float[Array, "*event"]:
        nu, root_mass = self._constants(velocity)
        angle = jnp.arctan(velocity * (root_mass / jnp.sqrt(nu)))
        # The largest angle rounds up to pi / 2 in single precision, and its product with c may do so again.
        last = math.pi / 2.0 * (1.0 - 4.0 * float(jnp.finfo(velocity.dtype).eps))
        momentum = jnp.clip(angle, -last, last) * ((nu - 1.0) / jnp.sqrt(nu) * root_mass)
        return jnp.where(jnp.isinf(velocity), velocity, momentum)  # which no momentum has

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        keys = jr.split(key)
        # Bailey (1994): the square of the radius of two coordinates is nu (u^(-2 / nu) - 1), their direction uniform. A
        # formula in nu, so that a draw has its derivative; for nu -> infinity it is Box and Muller's.
        u = jr.uniform(keys[0], shape, minval=1e-30)  # the root has no slope at 0
        nu, root_mass = self._constants(u)
        radius = jnp.sqrt(nu * jnp.expm1(-2.0 / nu * jnp.log1p(-u)))
        return self.momentum(radius * jnp.cos(2.0 * math.pi * jr.uniform(keys[1], shape)) / root_mass)

    def is_even_in_each(self, shape: tuple[int, ...] | None = None) -> bool:
        return True

    def is_isotropic(self) -> bool:
        return False

    def _constants(self, like: Array) -> tuple[Array, Array]:
        nu = jnp.asarray(cast(self.degrees_of_freedom, like.dtype), like.dtype)
        return nu, jnp.sqrt(jnp.asarray(fit(self.mass, like.shape, like.dtype, "mass"), like.dtype))
