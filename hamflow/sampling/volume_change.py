"""A path and the change of volume along it: dx/dt = V, and the divergence of V summed up on the way.

The divergence never feeds back into the path, so an explicit Runge-Kutta method needs it only at the stages that its
step counts: for the midpoint rule that is one of two, which takes a third off the time.
"""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp

from .._types import Array

Velocity = Callable[[Array, Array], Array]


def with_divergence(f: Callable[[Array], Array], x: Array, directions: Array | None) -> tuple[Array, Array]:
    """f(x) and its divergence, of shape (1,), or its estimate in every direction."""
    value, push = jax.linearize(f, x)
    if directions is not None:
        return value, jax.vmap(lambda e: jnp.sum(push(e) * e))(directions)
    basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    if x.size <= 64:
        diagonal = jax.vmap(lambda e: jnp.sum(push(e) * e))(basis)
    else:  # all columns of a picture's Jacobian at once would not fit
        diagonal = jax.lax.map(lambda e: jnp.sum(push(e) * e), basis, batch_size=64)
    return value, jnp.sum(diagonal)[None]


def change_on_grid(
    velocity: Velocity, x: Array, directions: Array | None, grid: Array, solver: diffrax.AbstractERK
) -> tuple[Array, Array]:
    """The end of the path from x, one step an interval, and the integral of the divergence, (1,) or one a direction."""
    tableau = solver.tableau
    assert isinstance(tableau, diffrax.ButcherTableau)
    shifts, shares = (float(tableau.c1), *map(float, tableau.c)), [float(b) for b in tableau.b_sol]
    lower = [[], *([float(a) for a in row] for row in tableau.a_lower)]
    used = [b != 0.0 or any(len(row) > i and row[i] != 0.0 for row in lower) for i, b in enumerate(shares)]

    def step(carry: tuple[Array, Array], interval: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        (x, total), (t, s) = carry, interval
        h, slopes = s - t, []
        for shift, share, row, asked in zip(shifts, shares, lower, used, strict=True):
            if not asked:  # a stage that only an estimate of the error would use
                slopes.append(jnp.zeros_like(x))
                continue
            y = x + h * _weighted(row, slopes, x)
            at = t + shift * h
            if share:
                slope, divergence = with_divergence(lambda y, at=at: velocity(at, y), y, directions)
                total = total + h * share * divergence
            else:
                slope = velocity(at, y)
            slopes.append(slope)
        return (x + h * _weighted(shares, slopes, x), total), None

    zero = jnp.zeros((1 if directions is None else directions.shape[0],), x.dtype)
    return jax.lax.scan(step, (x, zero), (grid[:-1], grid[1:]))[0]


def _weighted(shares: list[float], slopes: list[Array], like: Array) -> Array:
    total = jnp.zeros_like(like)
    for share, slope in zip(shares, slopes, strict=False):
        total = total + share * slope if share else total
    return total
