"""Points in the plane: small laws with hard edges and holes, to look at a flow with."""

import jax.numpy as jnp
import jax.random as jr

from hamflow._types import Array, Float, PRNGKeyArray


def two_moons(key: PRNGKeyArray, num_points: int, *, noise: float = 0.06) -> Float[Array, "num_points 2"]:
    """Two interleaved half circles, centred, each coordinate of standard deviation one.

    Args:
        key: a jax key.
        num_points: how many points.
        noise: standard deviation of the Gaussian blur, in radii of the circles.
    """
    key_side, key_angle, key_noise = jr.split(key, 3)
    side = jr.bernoulli(key_side, 0.5, (num_points,))
    angle = jnp.pi * jr.uniform(key_angle, (num_points,))
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    lower = jnp.stack([1.0 - jnp.cos(angle), 0.5 - jnp.sin(angle)], axis=-1)
    points = jnp.where(side[:, None], upper, lower) + noise * jr.normal(key_noise, (num_points, 2))
    # Mean (1/2, 1/4); variances 3/4 and 1/2 + 1/16 - (2/pi)(1/2), from E cos^2 = 1/2 and E sin = 2/pi.
    centre = jnp.array([0.5, 0.25])
    std = jnp.sqrt(jnp.array([0.75, 0.5625 - 1.0 / jnp.pi]) + noise**2)
    return (points - centre[None]) / std[None]


def checkerboard(key: PRNGKeyArray, num_points: int, *, squares: int = 4) -> Float[Array, "num_points 2"]:
    """Uniform on the dark squares of a `squares` x `squares` board that fills [-1, 1]^2."""
    key_column, key_row, key_inside = jr.split(key, 3)
    column = jr.randint(key_column, (num_points,), 0, squares)
    row = 2 * jr.randint(key_row, (num_points,), 0, squares // 2) + column % 2
    corner = jnp.stack([column, row], axis=-1).astype(float)
    return 2.0 * (corner + jr.uniform(key_inside, (num_points, 2))) / squares - 1.0
