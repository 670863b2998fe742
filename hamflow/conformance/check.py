"""The conformance kit: is this flow what it says it is? For a Hamiltonian of one's own, before it is trained.

Every law is measured on the flow's own data and states, in double precision unless it is about single precision, and
reported as a number, the bound it must keep and a verdict. A fault shows where the law that it breaks is: a wrong sign
in a force as "force = -dH/dx", a forgotten fold as "positions stay in the domain", a wrong prior as "law at T = prior".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._parameters import require
from .._types import Array, Float, PRNGKeyArray, checked
from ..flow import Flow
from . import equations, motion, precision, statistics
from .probe import Probe, double
from .report import Finding, Report

_LAWS: dict[str, Callable[[str, Probe], list[Finding]]] = {
    "the energy's gradient": equations.energy_gradient,
    "kick and drift are the field": equations.halves,
    "momentum(velocity(p)) = p": equations.inverse_velocity,
    "the motion": motion.motion,
    "there and back": motion.there_and_back,
    "time reversal": motion.time_reversal,
    "symplectic": motion.symplectic,
    "phase volume": motion.volume,
    "energy drift": motion.energy_drift,
    "positions stay in the domain": motion.domain,
    "folds": motion.folds,
    "momenta are drawn from exp(-K)": statistics.momentum_law,
    "prior.log_prob is of its draws": statistics.prior_density,
    "Boltzmann-Gibbs stays": statistics.boltzmann,
    "law at T = prior": statistics.law_at_horizon,
}


@checked
def check(
    flow: Flow,
    data: Float[Array | np.ndarray, "batch *event"],
    key: PRNGKeyArray,
    *,
    num_states: int = 16,
    num_draws: int = 4000,
) -> Report:
    """Measure on data whether a flow keeps the laws that training and sampling rely on.

    Args:
        flow: the flow, its parameters known (not traced).
        data: floating, of shape `(batch, *event)`, at least 16 examples; what the flow will be trained on.
        key: a jax key.
        num_states: states for the laws of mechanics.
        num_draws: draws for the laws of statistics; data are used again where there are fewer.

    Returns:
        A `Report`: print it, or look at `.passed`, `.failures` and `report["law"]`.

    Raises:
        ValueError: fewer than 16 examples, data that are not finite.
    """
    if data.shape[0] < 16:
        raise ValueError(f"data must hold at least 16 examples, got {data.shape[0]}")
    require(data, lambda d: jnp.isfinite(jnp.asarray(d)), "data must be finite: look for NaN or infinity in them")
    given = np.asarray(data)
    findings = [*_guarded("shapes and dtypes", lambda: precision.shapes(flow, given, key))]
    findings += _guarded("finite gradients in float32", lambda: precision.gradients(flow, given, key))
    with jax.enable_x64(True):
        probes: list[Probe] = []

        def start() -> list[Finding]:
            probes.append(Probe.of(double(flow), given.astype(float), key, num_states, num_draws))
            return []

        # Without states no law of mechanics or statistics can be measured.
        findings += _guarded("states to measure at", start)
        for probe in probes:
            for name, law in _LAWS.items():
                findings += _guarded(name, lambda law=law, name=name, probe=probe: law(name, probe))
    return Report(tuple(findings))


def _guarded(name: str, law: Callable[[], list[Finding]]) -> list[Finding]:
    """A law that cannot be measured is broken, and the error says why."""
    try:
        return law()
    except Exception as error:
        return [Finding(name, "FAIL", note=f"raised {type(error).__name__}: {_reason(error)}")]


def _reason(error: Exception) -> str:
    """What a person wrote: an error from inside `jit` has a trace of the stack about it."""
    text = str(error)
    _, inside, message = text.rpartition("Error: ")
    lines = [line.strip() for line in (message if inside else text).splitlines() if line.strip()]
    return " ".join(lines[:1])[:240]
