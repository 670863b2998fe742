"""Hamiltonian score matching of data with noise: without noise a score says nothing where there are no data.

Generation starts far from the data, so it needs the score of data with noise, at every level of it. The recipe is the
same: data plus noise start with momenta and follow the score of their level for a short time, and where that is the
score the mean velocity stays zero (ours; denoising score matching is the limit of no force).
"""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, Float, PRNGKeyArray, Scalar, ScalarLike, checked
from ..domains import Euclidean
from ..integrators.base import AbstractIntegrator
from ..integrators.composition import Leapfrog
from ..kinetics import GaussianKinetic
from ..potentials.base import AbstractForce
from ..state import PhaseState
from .boltzmann import ShortTime, freeze, require_data, require_motion


@final
class AtNoise(AbstractForce):
    """The score of one level of noise, as a force."""

    score: Callable[..., Any]
    sigma: Array

    def force(self, t: ScalarLike, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        value = self.score(self.sigma.astype(position.dtype), position)
        if jnp.shape(value) != position.shape:
            raise ValueError(
                f"score returned shape {jnp.shape(value)} for one position of shape {position.shape}: it must return "
                "one score, without a batch axis"
            )
        if jnp.asarray(value).dtype != position.dtype:
            raise TypeError(f"score returned {jnp.asarray(value).dtype} for a position of {position.dtype}: cast it")
        return value


@checked
def denoising_hamiltonian_score_matching_loss(
    score: Callable[..., Any],
    data: Float[Array | np.ndarray, "batch *event"],
    key: PRNGKeyArray,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    time_fraction: float = 0.2,
    integrator: AbstractIntegrator = Leapfrog(),  # noqa: B008
    num_steps: int = 1,
) -> Scalar:
    """Learn the scores of data with noise of every level, each from Boltzmann-Gibbs starts at its own level.

    The "tied" way of `hamiltonian_score_matching_loss`: E sigma^2 [2 S . v_t / t - |S|^2] at x_t, its gradient that of
    the first term with the motion held fixed. The weight sigma^2 makes the levels alike.

    Args:
        score: `score(sigma, x)` on one example; a predictor of the score in a diffusion, where the time is sigma.
            `hf.convert(model, hf.diffusion(...), "velocity", "score")` makes one of a `Preconditioned` network.
        data: floating, of shape `(batch, *event)`.
        key: a jax key, for levels, noise and momenta.
        sigma_min: the least noise, positive, in the unit of the data.
        sigma_max: the most; levels are spread evenly in their logarithm.
        time_fraction: t = time_fraction * sigma: no score of data with noise swings faster than once in 2 pi sigma, so
            at most a quarter of that, pi / 2.
        integrator: of the short motion, without a step size.
        num_steps: of the integrator.

    Returns:
        A scalar in the data's dtype, near E sigma^2 (|S - score|^2 - |score|^2).

    Raises:
        ValueError: an empty batch, data that are not finite, levels that are not positive or not in order, a fraction
            that is not in (0, pi / 2).
        RuntimeError: a motion that becomes non-finite.
    """
    data = require_data(data)
    if not 0.0 < sigma_min < sigma_max < np.inf:
        raise ValueError(f"sigma_min and sigma_max must be positive and in order, got {sigma_min} and {sigma_max}")
    if not 0.0 < time_fraction < np.pi / 2:
        raise ValueError(f"time_fraction must be between 0 and a quarter of a swing, pi / 2, got {time_fraction}")
    short = ShortTime(time_fraction, GaussianKinetic(), Euclidean(), integrator, num_steps)
    keys = jr.split(key, 3)
    level = jr.uniform(keys[0], data.shape[:1], data.dtype, np.log(sigma_min), np.log(sigma_max))

    def one(x: Array, sigma: Array, keys: Array) -> tuple[Array, Array, Any]:
        force = AtNoise(score, sigma)
        noisy = x + sigma * jr.normal(keys[0], x.shape, x.dtype)
        t = time_fraction * sigma
        pair = jax.lax.stop_gradient(short.pair(freeze(force), noisy, keys[1], t))
        push = jax.vmap(lambda x: force.force(t, x))(pair.position)
        return 2.0 * sigma**2 / t * jnp.sum(push * pair.momentum) / 2.0, sigma**2 * jnp.sum(push**2) / 2.0, pair

    pairs = jnp.stack([jr.split(k, data.shape[0]) for k in keys[1:]], axis=1)
    gain, square, motion = eqx.filter_vmap(one)(data, jnp.exp(level), pairs)
    # The motion is constant here, so that the check is asked of the whole batch and passed on with the value.
    loss = require_motion(motion, PhaseState(gain, gain)).position
    return jnp.mean(loss) - jax.lax.stop_gradient(jnp.mean(square))
