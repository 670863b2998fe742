"""Laws of the distributions: of the first momenta, of the prior's density, of Boltzmann-Gibbs, of the end."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, PRNGKeyArray
from ..couplings import GibbsCoupling, IndependentCoupling
from ..distances import two_sample_distance
from ..domains import Euclidean
from ..flow import Flow
from ..state import PhaseState
from ..system import AbstractSeparableSystem
from .probe import Probe
from .report import Finding, at_most, skipped

_FALSE_ALARM = 1e-6  # of a law that holds, over all the numbers that it looks at
_MISFIT = 0.03  # of the prior's standard deviation, beyond the noise floor
_FROM_ENERGY = (IndependentCoupling, GibbsCoupling)  # a coupling of one's own may draw what it likes
_STEIN = "largest deviation from Stein's identity, in standard errors"


def momentum_law(name: str, probe: Probe) -> list[Finding]:
    """Stein's identity for p ~ exp(-H): E[dg/dp_i - g dH/dp_i] = 0."""
    flow = probe.flow
    if not isinstance(flow.coupling, _FROM_ENERGY):
        return skipped(name, "this coupling need not draw p from exp(-K)")
    if not probe.has_energy and not isinstance(flow.system, AbstractSeparableSystem):
        return skipped(name, "the system has no energy")
    states = flow.coupling.sample(jr.fold_in(probe.key, 3), probe.data, flow.system, flow.prior, flow.horizon)
    velocity = _velocities(flow, states)
    return at_most(name, *stein(states.momentum, -velocity), _STEIN)


def prior_density(name: str, probe: Probe) -> list[Finding]:
    """Stein's identity for the prior's own draws and the gradient of its `log_prob`."""
    flow = probe.flow
    if not isinstance(flow.system.domain, Euclidean):
        return skipped(name, "for densities on all of space")
    draws = _prior_draws(probe, 6)
    far = draws + 20.0 * jnp.std(draws, axis=0, keepdims=True)
    if not jnp.all(jnp.isfinite(_log_probs(flow.prior, far))):
        return skipped(name, "the density has edges, at which the identity has a term of its own")
    slope = _slopes(flow.prior, draws)
    return at_most(name, *stein(draws, slope), _STEIN)


def boltzmann(name: str, probe: Probe) -> list[Finding]:
    """Data from exp(-U) and momenta from exp(-K) stay so; for other data there is no such law."""
    flow = probe.flow
    potential: Any = getattr(flow.system, "potential", None)
    independent = isinstance(flow.coupling, _FROM_ENERGY)
    if potential is None or not independent or not isinstance(flow.system.domain, Euclidean):
        return skipped(name, "for a Hamiltonian in Euclidean space with independent momenta")
    rows = probe.data[: probe.distinct]  # a row that is used again would pass for another draw
    slope = _forces(potential, rows)
    deviation, bound = stein(rows, slope)
    if not deviation < bound:
        return skipped(name, f"the data are not exp(-U): Stein's identity is off by {deviation:.3g} standard errors")
    half = probe.distinct // 2
    last = _at_horizon(probe, rows[:half])
    distance, floor = two_sample_distance(probe.key, last, rows[half : 2 * half])
    return at_most(name, distance, floor + _MISFIT, f"distance of the law at T from the data; noise floor {floor:.2g}")


def stein(draws: Array, slope: Array) -> tuple[float, float]:
    """How far draws are from the density whose gradient of the log they are given, in standard errors, and the bound.

    E[dg/dx_i + g slope_i] = 0 for g = 1, every coordinate (up to eight), and two bounded functions of x_i, in units of
    its deviation; the largest over coordinates i and functions g. Chance passes the bound once in a million times.
    """
    count = draws.shape[0]
    # In double precision, which the guards below are for.
    x, slope_ = (np.asarray(rows, np.float64).reshape(count, -1) for rows in (draws, slope))
    scale = np.maximum(x.std(0), 1e-300)
    z, slope_ = (x - x.mean(0)) / scale, slope_ * scale
    bell = np.exp(-0.5 * z**2)
    gaps = [slope_, np.cos(z) + np.sin(z) * slope_, (3.0 * z**2 - z**4) * bell + z**3 * bell * slope_]
    for j in range(min(z.shape[1], 8)):
        gaps.append((np.arange(z.shape[1]) == j)[None, :] + z[:, j : j + 1] * slope_)
    errors = [np.abs(g.mean(0)) / np.maximum(g.std(0) / np.sqrt(count), 1e-300) for g in gaps]
    numbers = len(gaps) * z.shape[1]
    bound = float(jax.scipy.stats.norm.ppf(1.0 - _FALSE_ALARM / (2.0 * numbers)))
    return float(np.max(np.concatenate(errors))), bound


def law_at_horizon(name: str, probe: Probe) -> list[Finding]:
    """The law of x_T against draws of the prior, by projections."""
    last = _at_horizon(probe, probe.data)
    distance, floor = two_sample_distance(probe.key, last, _prior_draws(probe, 7))
    if probe.distinct < probe.draws:  # the law at T of so few data is itself uncertain: by how much do halves differ?
        for i in range(3):
            rows = jr.permutation(jr.fold_in(probe.key, 20 + i), probe.data[: probe.distinct])
            halves = (rows[: probe.distinct // 2], rows[probe.distinct // 2 :])
            ends = [_at_horizon(probe, jnp.resize(rows, probe.data.shape), 30 + i) for rows in halves]
            floor = max(floor, two_sample_distance(probe.key, ends[0], ends[1], num_permutations=2)[0])
    note = f"in standard deviations of the prior; noise floor {floor:.2g}"
    return at_most(name, distance, floor + _MISFIT, note)


def _prior_draws(probe: Probe, seed: int) -> Array:
    return _draws(probe.flow.prior, jr.fold_in(probe.key, seed), probe.draws, probe.data.shape[1:])


@eqx.filter_jit
def _draws(prior: Any, key: PRNGKeyArray, number: int, event: tuple[int, ...]) -> Array:
    return jax.vmap(lambda k: prior.sample(k, event))(jr.split(key, number)) * 1.0


@eqx.filter_jit
def _log_probs(prior: Any, draws: Array) -> Array:
    return jax.vmap(prior.log_prob)(draws)


@eqx.filter_jit
def _slopes(prior: Any, draws: Array) -> Array:
    return jax.vmap(jax.grad(lambda x: jnp.sum(prior.log_prob(x))))(draws)


@eqx.filter_jit
def _velocities(flow: Flow, states: PhaseState) -> Array:
    return jax.vmap(flow.velocity)(states)


@eqx.filter_jit
def _forces(potential: Any, rows: Array) -> Array:
    return jax.vmap(lambda x: potential.force(jnp.zeros(()), x))(rows)


def _at_horizon(probe: Probe, rows: Array, seed: int = 4) -> Array:
    times = jnp.full((len(rows),), probe.flow.horizon, float)
    return eqx.filter_jit(probe.flow.sample_state)(jr.fold_in(probe.key, seed), rows, times).position
