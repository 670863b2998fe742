"""Laws of the distributions: of the first momenta, of Boltzmann-Gibbs, of the end."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, PRNGKeyArray
from ..couplings import CondOTCoupling
from ..distances import projected_distance
from ..domains import Euclidean
from ..system import AbstractSeparableSystem
from .probe import Probe
from .report import Finding, at_most, skipped

_SIGMAS = 4.5  # of a statistical check: a right flow fails one in 150,000 times
_MISFIT = 0.03  # of the prior's standard deviation, beyond the noise floor


def momentum_law(name: str, probe: Probe) -> list[Finding]:
    """E[p . dH/dp] = d for p ~ exp(-H): the virial theorem, which a wrong factor in `sample` breaks."""
    flow = probe.flow
    if isinstance(flow.coupling, CondOTCoupling):
        return skipped(name, "this coupling does not draw p from exp(-K)")
    if not probe.has_energy and not isinstance(flow.system, AbstractSeparableSystem):
        return skipped(name, "the system has no energy")
    states = flow.coupling.sample(jr.fold_in(probe.key, 3), probe.data, flow.system, flow.prior, flow.horizon)
    velocity = jax.jit(jax.vmap(flow.velocity))(states)
    virial = np.asarray(jnp.mean((states.momentum * velocity).reshape(probe.draws, -1), axis=1))
    error = abs(virial.mean() - 1.0)
    return at_most(
        name, error, _SIGMAS * virial.std() / np.sqrt(len(virial)), "| E[p.v] / d - 1 |, 4.5 standard errors"
    )


def boltzmann(name: str, probe: Probe) -> list[Finding]:
    """Data from exp(-U) and momenta from exp(-K) stay so; for other data there is no such law."""
    flow = probe.flow
    potential: Any = getattr(flow.system, "potential", None)
    if potential is None or isinstance(flow.coupling, CondOTCoupling) or not isinstance(flow.system.domain, Euclidean):
        return skipped(name, "for a Hamiltonian in Euclidean space with independent momenta")
    deviation = _stein(potential, probe.data)
    if not deviation < _SIGMAS:
        return skipped(name, f"the data are not exp(-U): Stein's identity is off by {deviation:.3g} standard errors")
    last = _at_horizon(probe)
    half = probe.draws // 2
    distance, floor = projected_distance(
        probe.key, last[:half], lambda k: jr.permutation(k, probe.data, independent=False)[:half]
    )
    return at_most(name, distance, floor + _MISFIT, f"distance of the law at T from the data; noise floor {floor:.2g}")


def _stein(potential: Any, data: Array) -> float:
    """How far the data are from exp(-U), by Stein's identity E[dg/dx_i - g dU/dx_i] = 0, in standard errors.

    The largest over coordinates i and g = every coordinate (up to eight), x_i^3 and sin(x_i), in their own deviations.
    """
    count = data.shape[0]
    x = np.asarray(data).reshape(count, -1)
    slope = -np.asarray(jax.jit(jax.vmap(lambda z: potential.force(jnp.zeros(()), z)))(data)).reshape(count, -1)
    scale = np.maximum(x.std(0), 1e-12)
    z, slope = (x - x.mean(0)) / scale, slope * scale
    gaps = [3.0 * z**2 - z**3 * slope, np.cos(z) - np.sin(z) * slope]
    for j in range(min(z.shape[1], 8)):
        gaps.append((np.arange(z.shape[1]) == j)[None, :] - z[:, j : j + 1] * slope)
    errors = [np.abs(g.mean(0)) / np.maximum(g.std(0) / np.sqrt(count), 1e-12) for g in gaps]
    return float(np.max(np.concatenate(errors)))


def law_at_horizon(name: str, probe: Probe) -> list[Finding]:
    flow, event = probe.flow, probe.data.shape[1:]

    def draw(key: PRNGKeyArray) -> Array:
        return jax.vmap(lambda k: flow.prior.sample(k, event))(jr.split(key, probe.draws)).astype(float)

    distance, floor = projected_distance(probe.key, _at_horizon(probe), jax.jit(draw))
    note = f"in standard deviations of the prior; noise floor {floor:.2g}"
    return at_most(name, distance, floor + _MISFIT, note)


def _at_horizon(probe: Probe) -> Array:
    times = jnp.full((probe.draws,), probe.flow.horizon, float)
    return eqx.filter_jit(probe.flow.sample_state)(jr.fold_in(probe.key, 4), probe.data, times).position
