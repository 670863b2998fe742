"""The quadratic kinetic energy, whose momenta are normal."""

import math
from typing import ClassVar, final

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike

from .. import _linear as linear
from .._parameters import as_parameter, is_concrete, require
from .._types import Array, Float, PRNGKeyArray, Scalar, checked
from .base import AbstractKinetic


@final
class GaussianKinetic(AbstractKinetic):
    """K(p) = p^T M^-1 p / 2, so that p ~ N(0, M) and v = M^-1 p.

    Args:
        mass: M, positive: a number, an array of the position's shape (diagonal), or of `shape + shape` (a symmetric
            positive definite matrix).

    Raises:
        ValueError: a mass that is not positive, or a matrix that is not symmetric positive definite.
    """

    mass: float | Float[Array, "..."]

    reaches_every_velocity: ClassVar[bool] = True

    @checked
    def __init__(self, mass: ArrayLike = 1.0):
        self.mass = as_parameter(mass, "mass")
        if not linear.is_square(jnp.shape(self.mass)):
            require(self.mass, lambda m: m > 0, f"mass must be positive, got {self.mass}")
        elif not self._looks_dense():
            message = "is neither a symmetric positive definite matrix nor positive in every coordinate"
            require(self.mass, lambda m: m > 0, f"mass of shape {jnp.shape(self.mass)} {message}")

    def energy(self, momentum: Float[Array, "*event"]) -> Scalar:
        return 0.5 * jnp.sum(momentum * self.velocity(momentum))

    def velocity(self, momentum: Float[Array, "*event"]) -> Float[Array, "*event"]:
        return linear.apply(linear.inverse_of_positive(self._mass(momentum)), momentum)

    def momentum(self, velocity: Float[Array, "*event"]) -> Float[Array, "*event"]:
        return linear.apply(self._mass(velocity), velocity)

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        noise = jr.normal(key, shape)
        return linear.apply(linear.factor(self._mass(noise)), noise)

    def is_even_in_each(self, shape: tuple[int, ...] | None = None) -> bool:
        if shape is not None:
            return not linear.is_matrix(linear.as_operator(self.mass, shape, float, "mass"))
        return not self._looks_dense()

    def is_isotropic(self) -> bool:
        return jnp.shape(self.mass) == ()

    def _mass(self, like: Array) -> linear.Operator:
        mass = linear.as_operator(self.mass, like.shape, like.dtype, "mass")
        # The constructor does not know whether a square array of positive numbers is a matrix or a diagonal.
        if isinstance(mass, linear.Dense) and is_concrete(self.mass) and not self._looks_dense():
            raise ValueError(
                f"mass of shape {jnp.shape(self.mass)} is a matrix on positions of shape {like.shape}, and not "
                "symmetric positive definite"
            )
        return mass

    def _looks_dense(self) -> bool:
        """A matrix, as far as can be told without the position's shape: its halves agree and it is a covariance."""
        shape = jnp.shape(self.mass)
        if not linear.is_square(shape):
            return False
        if not is_concrete(self.mass):
            return True
        size = math.isqrt(math.prod(shape))
        with jax.ensure_compile_time_eval():
            matrix = jnp.asarray(self.mass).reshape(size, size).astype(float)
            symmetric = jnp.all(jnp.abs(matrix - matrix.T) <= 1e-4 * jnp.max(jnp.abs(matrix)))
            return bool(symmetric) and bool(jnp.all(jnp.linalg.eigvalsh(matrix) > 0))
