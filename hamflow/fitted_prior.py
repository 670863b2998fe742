"""A prior where the law at the horizon is not known in closed form: fit it, and say by how much it misses."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._factorisations import cholesky
from ._parameters import require
from ._types import Array, Float, PRNGKeyArray, checked
from .couplings import CondOTCoupling
from .distances import projected_distance
from .domains import Euclidean
from .flow import Flow
from .optimal_transport import MinibatchOTCoupling
from .potentials.mixture import GaussianMixturePotential
from .priors import NormalPrior
from .sampling.reflow import ReflowCoupling

_DENSE = 256  # coordinates up to which a whole covariance is fitted


@dataclasses.dataclass(frozen=True)
class FittedPrior:
    """What `fit_prior` found.

    Args:
        flow: the flow with the fitted prior.
        misfit: the distance of the law at the horizon from the prior, on draws that were not fitted, in standard
            deviations of the prior (`hamflow.distances.projected_distance`).
        noise_floor: the same between two sets of draws of the prior itself: a misfit of this size is none.
    """

    flow: Flow
    misfit: float
    noise_floor: float

    def __str__(self) -> str:
        prior = self.flow.prior
        kind = f"mixture of {len(prior.weights)}" if isinstance(prior, GaussianMixturePotential) else "normal"
        return (
            f"fitted prior ({kind}): misfit {self.misfit:.3f} standard deviations, noise floor {self.noise_floor:.3f}"
        )


@checked
def fit_prior(
    flow: Flow,
    data: Float[Array | np.ndarray, "batch *event"],
    key: PRNGKeyArray,
    *,
    components: int = 1,
    num_draws: int = 8000,
    show: bool = True,
) -> FittedPrior:
    """Run data to the horizon, fit a prior to where they end, and measure and print its misfit.

    Whatever the misfit is, generation starts from another law than training ended at, and the samples err by it.
    Another horizon, or more components, make it smaller.

    Args:
        flow: any flow with independent momenta in Euclidean space; the prior it has is not looked at. With
            `StudentTCoupling` the law has tails that a normal one misses: a `StudentTPrior` has them.
        data: floating, of shape `(batch, *event)`.
        key: a jax key.
        components: 1 fits a normal law by its moments (a whole covariance up to 256 coordinates, one deviation a
            coordinate beyond); more fit a `GaussianMixturePotential` with one deviation a coordinate by expectation
            maximisation.
        num_draws: states at the horizon; half are fitted, half measure the misfit.
        show: print the result.

    Returns:
        A `FittedPrior`; its `flow` is the one to train.

    Raises:
        ValueError: a domain that is not Euclidean, a coupling that leads to the prior by itself, too few draws, data
            that are not finite.
        RuntimeError: a state that becomes non-finite on the way.
    """
    if not isinstance(flow.system.domain, Euclidean):
        name = type(flow.system.domain).__name__
        raise ValueError(f"a fitted prior would leave the {name} of this flow: use UniformPrior and a longer horizon")
    if isinstance(flow.coupling, (CondOTCoupling, MinibatchOTCoupling, ReflowCoupling)):
        raise ValueError(
            f"{type(flow.coupling).__name__} leads to the prior that the flow has: give the one you want, there is no "
            "misfit"
        )
    if components < 1 or num_draws < 100 * components:
        raise ValueError(f"num_draws must be at least 100 a component, got {num_draws} for {components} components")
    require(data, lambda d: jnp.isfinite(jnp.asarray(d)), "data must be finite: look for NaN or infinity in them")
    rows = jnp.asarray(np.resize(np.asarray(data), (num_draws, *data.shape[1:])))
    times = jnp.full((num_draws,), flow.horizon, rows.dtype)
    ends = eqx.filter_jit(flow.sample_state)(
        jr.fold_in(key, 0), jr.permutation(jr.fold_in(key, 1), rows), times
    ).position
    half = num_draws // 2
    require(
        jnp.std(ends[:half], axis=0),
        lambda spread: spread > 0,
        "data end at the horizon in one point, in some coordinate, so no density fits them: leave that coordinate out",
    )
    prior: Any = _normal(ends[:half]) if components == 1 else _mixture(jr.fold_in(key, 2), ends[:half], components)
    fitted = Flow(flow.system, flow.coupling, flow.horizon, prior, flow.integrator)

    def draw(key: PRNGKeyArray) -> Array:
        return jax.vmap(lambda k: prior.sample(k, rows.shape[1:]))(jr.split(key, num_draws - half)).astype(rows.dtype)

    result = FittedPrior(fitted, *projected_distance(jr.fold_in(key, 3), ends[half:], jax.jit(draw)))
    if show:
        print(result)
    return result


def _normal(ends: Array) -> NormalPrior:
    """By its moments."""
    event = ends.shape[1:]
    mean = jnp.mean(ends, axis=0)
    if mean.size > _DENSE or mean.ndim == 0:
        return NormalPrior(mean, jnp.std(ends, axis=0))
    centred = (ends - mean[None]).reshape(len(ends), -1)
    covariance = centred.T @ centred / len(ends)
    return NormalPrior(mean, cholesky(covariance).reshape(event + event))


def _mixture(key: PRNGKeyArray, ends: Array, components: int, rounds: int = 100) -> GaussianMixturePotential:
    """By expectation maximisation, from means spread as in k-means++; deviations stay above 1% of the whole."""
    flat = ends.reshape(len(ends), -1)
    spread = jnp.std(flat, axis=0)

    def pick(means: Array, i: Array) -> tuple[Array, None]:
        known = (jnp.arange(components) < i)[None, :]
        gaps = jnp.sum(((flat[:, None] - means[None]) / spread[None, None]) ** 2, axis=2)
        nearest = jnp.min(jnp.where(known, gaps, jnp.full_like(gaps, jnp.inf)), axis=1)
        row = jr.categorical(jr.fold_in(key, i), jnp.log(nearest + 1e-12))
        return means.at[i].set(flat[row]), None

    first = jnp.zeros((components, flat.shape[1]), flat.dtype).at[0].set(flat[0])
    means, _ = jax.lax.scan(pick, first, jnp.arange(1, components))

    def improve(state: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        means, stds, weights = state
        z = (flat[:, None] - means[None]) / stds[None]
        log_density = jnp.log(weights)[None] - jnp.sum(0.5 * z**2 + jnp.log(stds)[None], axis=2)
        share = jax.nn.softmax(log_density, axis=1)
        total = jnp.sum(share, axis=0)[:, None] + 1e-6
        means = share.T @ flat / total
        variance = jnp.einsum("nk,nkd->kd", share, (flat[:, None] - means[None]) ** 2) / total
        stds = jnp.maximum(jnp.sqrt(variance), 0.01 * spread[None])
        weights = jnp.maximum(total[:, 0] / jnp.sum(total), 1e-6)
        return (means, stds, weights), None

    stds = jnp.broadcast_to(spread[None], means.shape)
    weights = jnp.full((components,), 1.0 / components, flat.dtype)
    (means, stds, weights), _ = jax.lax.scan(improve, (means, stds, weights), None, length=rounds)
    shape = (components, *ends.shape[1:])
    return GaussianMixturePotential(means.reshape(shape), stds.reshape(shape), weights)
