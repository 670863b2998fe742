"""The kinetic energy of special relativity, whose velocities are bounded."""

import math
from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._parameters import as_parameter, cast, require
from .._types import Array, Float, PRNGKeyArray, Scalar, ScalarLike, checked
from .base import AbstractKinetic


@final
class RelativisticKinetic(AbstractKinetic):
    """K(p) = c sqrt(|p|^2 + m^2 c^2), the norm over the whole momentum; no speed reaches c.

    Args:
        mass: m, a positive number.
        speed_of_light: c, a positive number.

    Momenta are drawn as a uniform direction times a radius whose distribution function is tabulated at 2,048 points
    and inverted by cubic interpolation: in dimension d the error of the distribution function is below 1e-8 in double
    precision and below 1e-6 + 2e-7 sqrt(d) in single precision, for every m and c whose m c^2 is a finite number of
    that precision. The draw is differentiable in m and c.

    Raises:
        ValueError: a mass or a speed of light that is not positive.
    """

    mass: float | Float[Array, ""]
    speed_of_light: float | Float[Array, ""]

    reaches_every_velocity: ClassVar[bool] = False

    @checked
    def __init__(
        self,
        mass: ScalarLike | Float[Array | np.ndarray, ""] = 1.0,
        speed_of_light: ScalarLike | Float[Array | np.ndarray, ""] = 1.0,
    ):
        self.mass = as_parameter(mass, "mass")
        self.speed_of_light = as_parameter(speed_of_light, "speed_of_light")
        require(self.mass, lambda m: m > 0, f"mass must be positive, got {self.mass}")
        require(self.speed_of_light, lambda c: c > 0, f"speed_of_light must be positive, got {self.speed_of_light}")

    def energy(self, momentum: Float[Array, "*event"]) -> Scalar:
        _, c = self._constants(momentum)
        return c * self._root(momentum)

    def velocity(self, momentum: Float[Array, "*event"]) -> Float[Array, "*event"]:
        _, c = self._constants(momentum)
        return c * momentum / self._root(momentum)

    def momentum(self, velocity: Float[Array, "*event"]) -> Float[Array, "*event"]:
        m, c = self._constants(velocity)
        slack = 1.0 - jnp.sum((velocity / c) ** 2)
        slack = eqx.error_if(
            slack,
            slack <= 0,
            "RelativisticKinetic.momentum: the speed is not below speed_of_light; no momentum has this velocity",
        )
        return m * velocity / jnp.sqrt(slack)

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        key_radius, key_direction = jr.split(key)
        direction = jr.normal(key_direction, shape)
        radius = _relativistic_radius(key_radius, max(direction.size, 1), *self._constants(direction))
        return radius * direction / jnp.sqrt(jnp.sum(direction**2))

    def is_even_in_each(self, shape: tuple[int, ...] | None = None) -> bool:
        return True

    def is_isotropic(self) -> bool:
        return True

    def _root(self, momentum: Array) -> Array:
        m, c = self._constants(momentum)
        return jnp.sqrt(jnp.sum(momentum**2) + (m * c) ** 2)

    def _constants(self, like: Array) -> tuple[Array, Array]:
        mass, c = cast(self.mass, like.dtype), cast(self.speed_of_light, like.dtype)
        return jnp.asarray(mass, like.dtype), jnp.asarray(c, like.dtype)


def _relativistic_radius(key: PRNGKeyArray, dimension: int, mass: Array, c: Array) -> Array:
    """r = |p| of density r^(d-1) exp(-c sqrt(r^2 + m^2 c^2)), by inverting a tabulated distribution function.

    In w = log r the log density d w - c sqrt(e^2w + k^2), k = m c, is strictly concave, with its mode at
    r^2 = (d^2 + sqrt(d^4 + 4 c^2 d^2 k^2)) / (2 c^2). The table spans the drop of the density to 1e-9 of its mode.
    Lengths are in units of the mode and squares are taken of ratios only: SI units overflow otherwise.
    """
    d = float(dimension)
    peak = d / c * jnp.sqrt(0.5 + 0.5 * jnp.hypot(jnp.ones_like(c), 2.0 * mass * c / d * c))
    rest, slowness = mass * c / peak, c * peak

    def log_density(w: Array) -> Array:  # relative to the mode, where w = 0; no cancellation of large terms
        root = jnp.hypot(jnp.exp(w), rest)
        return d * w - slowness * jnp.expm1(2.0 * w) / (root + jnp.hypot(jnp.ones_like(rest), rest))

    # The second derivative at the mode is between -2d and -d (r >> k: -d, r << k: -2d): a width of d^-1/2. Towards
    # small r the density falls no slower than r^d, towards large r no slower than exp(-c r).
    drop = 21.0
    left = -(drop / d + math.sqrt(2.0 * drop / d))
    right = math.log1p(drop / d + math.sqrt(2.0 * drop / d))
    grid = jnp.linspace(left, right, 2048, dtype=mass.dtype)
    step = (right - left) / 2047.0
    density = jnp.exp(log_density(grid))
    slope = jax.vmap(jax.grad(lambda w: jnp.exp(log_density(w))))(grid)
    # Hermite's quadrature of each cell: fourth order, like the interpolation below.
    cells = step * (density[1:] + density[:-1]) / 2.0 + step**2 * (slope[:-1] - slope[1:]) / 12.0
    cumulative = jnp.concatenate([jnp.zeros_like(cells[:1]), jnp.cumsum(cells)])
    target = jr.uniform(key, (), grid.dtype) * cumulative[-1]
    cell = jnp.clip(jnp.searchsorted(jax.lax.stop_gradient(cumulative), jax.lax.stop_gradient(target)) - 1, 0, 2046)
    # Newton on the cubic Hermite interpolant of the distribution function inside the cell, from the secant.
    f0, g0, g1 = cumulative[cell], density[cell], density[cell + 1]
    rise = cumulative[cell + 1] - f0
    need = target - f0

    def value(s: Array) -> Array:
        return rise * s * s * (3.0 - 2.0 * s) + step * (g0 * s * (1.0 - s) ** 2 - g1 * s * s * (1.0 - s))

    s = need / jnp.maximum(rise, jnp.finfo(grid.dtype).tiny)
    for _ in range(3):
        gradient = jax.grad(value)(s)
        s = jnp.clip(s - (value(s) - need) / jnp.maximum(gradient, jnp.finfo(grid.dtype).tiny), 0.0, 1.0)
    return peak * jnp.exp(grid[cell] + s * step)
