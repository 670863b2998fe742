"""The other ways to learn a score, with one signature: `loss(score, data, key, ...)`, a callable score on one position.

All but the denoising one estimate E|S - score|^2 less a constant, on the data themselves; denoising learns the score of
data with noise. They are what Hamiltonian score matching is compared with.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, Float, PRNGKeyArray, Scalar, checked
from ..potentials.base import AbstractForce
from .boltzmann import Times, as_force, require_data

Score = AbstractForce | Callable[..., Any]
Data = Float[Array | np.ndarray, "batch *event"]


@checked
def explicit_score_matching_loss(score: Score, data: Data, key: PRNGKeyArray | None = None, *, truth: Score) -> Scalar:
    """E|S(x) - truth(x)|^2, where the true score is known.

    Args:
        score: a force, a potential, or a callable from one position to an array of its shape.
        data: floating, of shape `(batch, *event)`.
        key: not used.
        truth: the score of the data, as `score`.

    Raises:
        ValueError: an empty batch, data that are not finite.
    """
    data, found, true = require_data(data), _on(score), _on(truth)
    return jnp.mean(jax.vmap(lambda x: jnp.sum((found(x) - true(x)) ** 2))(data))


@checked
def implicit_score_matching_loss(score: Score, data: Data, key: PRNGKeyArray | None = None) -> Scalar:
    """E[|S|^2 + 2 div S], the divergence exact: one forward derivative a coordinate (Hyvarinen 2005).

    Args:
        score: a force, a potential, or a callable from one position to an array of its shape.
        data: floating, of shape `(batch, *event)`.
        key: not used.

    Raises:
        ValueError: an empty batch, data that are not finite.
    """
    data, function = require_data(data), _on(score)

    def one(x: Array) -> Array:
        value, push = jax.linearize(function, x)
        basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
        return jnp.sum(value**2) + 2.0 * jnp.sum(jax.vmap(lambda e: jnp.sum(push(e) * e))(basis))

    return jnp.mean(jax.vmap(one)(data))


@checked
def sliced_score_matching_loss(
    score: Score, data: Data, key: PRNGKeyArray, *, num_slices: int = 1, gaussian: bool = False
) -> Scalar:
    """E[|S|^2 + 2 e . (dS/dx) e], the divergence by Hutchinson's estimate (Song, Garg, Shi, Ermon 2019, SSM-VR).

    Args:
        score: a force, a potential, or a callable from one position to an array of its shape.
        data: floating, of shape `(batch, *event)`.
        key: a jax key, for the directions e.
        num_slices: directions a datum.
        gaussian: normal directions in place of random signs, which have less noise.

    Raises:
        ValueError: an empty batch, data that are not finite, no slice.
    """
    if num_slices < 1:
        raise ValueError(f"num_slices must be at least 1, got {num_slices}")
    data, function = require_data(data), _on(score)
    shape = (data.shape[0], num_slices, *data.shape[1:])
    slices = jr.normal(key, shape, data.dtype) if gaussian else jr.rademacher(key, shape).astype(data.dtype)

    def one(x: Array, slices: Array) -> Array:
        value, push = jax.linearize(function, x)
        return jnp.sum(value**2) + 2.0 * jnp.mean(jax.vmap(lambda e: jnp.sum(push(e) * e))(slices))

    return jnp.mean(jax.vmap(one)(data, slices))


@checked
def denoising_score_matching_loss(
    score: Score, data: Data, key: PRNGKeyArray, *, sigma: Times, antithetic: bool = False
) -> Scalar:
    """E|S(x + sigma e) + e / sigma|^2, e ~ N(0, I): the score of data with noise (Vincent 2011).

    Args:
        score: a force, a potential, or a callable from one position to an array of its shape.
        data: floating, of shape `(batch, *event)`.
        key: a jax key, for the noise.
        sigma: the standard deviation of the noise, positive, or several, used equally often; then every error counts
            sigma^2, so that none drowns the others, and one score has to serve all of them.
        antithetic: use e and -e of every draw.

    Raises:
        ValueError: an empty batch, data that are not finite, a sigma that is not positive.
    """
    data, function = require_data(data), _on(score)
    try:
        levels = np.atleast_1d(np.asarray(sigma, float))
    except (TypeError, ValueError):
        raise TypeError(f"sigma must be known numbers, one or several, got {sigma!r}") from None
    if not (levels.size and np.all(levels > 0) and np.all(np.isfinite(levels))):
        raise ValueError(f"sigma must be positive and finite, got {sigma}: without noise there is nothing to remove")
    sigmas = jnp.asarray(np.resize(levels, data.shape[0]), data.dtype)
    noise = jr.normal(key, data.shape, data.dtype)

    def one(x: Array, e: Array, s: Array) -> Array:
        weight = s**2 if levels.size > 1 else jnp.ones_like(s)
        return weight * jnp.sum((function(x + s * e) + e / s) ** 2)

    losses = jax.vmap(one)(data, noise, sigmas)
    return jnp.mean((losses + jax.vmap(one)(data, -noise, sigmas)) / 2.0 if antithetic else losses)


def _on(score: Score) -> Callable[[Array], Array]:
    """The score as a function of one position."""
    force = as_force(score)
    return lambda x: force.force(jnp.zeros((), x.dtype), x)
