"""Laws of the equations of motion: is the field the gradient of the energy, do its parts agree?"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array
from ..state import PhaseState
from ..system import AbstractSeparableSystem
from .probe import CLOSED, Probe, relative
from .report import Finding, at_most, skipped


def energy_gradient(name: str, probe: Probe) -> list[Finding]:
    """The field against dH/dx and dH/dp, and those against finite differences of H."""
    names = ("velocity = dH/dp", "force = -dH/dx", "dH by finite differences")
    if not probe.has_energy:
        return [f for n in names for f in skipped(n, "the system has no energy")]
    along = probe.directions(probe.last.position.shape[0])
    values = _gradient_gaps(probe.flow.system, probe.time, probe.last, along)
    bounds = (CLOSED, CLOSED, 1e-4)
    return [f for n, v, b in zip(names, values, bounds, strict=True) for f in at_most(n, v, b, "relative error")]


@eqx.filter_jit
def _gradient_gaps(system: Any, t: Array, states: PhaseState, along: PhaseState) -> tuple[Array, Array, Array]:
    gradient = jax.vmap(jax.grad(lambda z: system.energy(t, z)))(states)
    field = jax.vmap(lambda z: system.vector_field(t, z))(states)

    def along_one(z: PhaseState, g: PhaseState, u: PhaseState) -> tuple[Array, Array]:
        def energy(h: float) -> Array:
            return system.energy(t, jax.tree.map(lambda a, b: a + h * b, z, u))

        h = 1e-3
        finite = (8.0 * (energy(h) - energy(-h)) - (energy(2 * h) - energy(-2 * h))) / (12.0 * h)
        return finite, jnp.vdot(g.position, u.position) + jnp.vdot(g.momentum, u.momentum)

    finite, exact = jax.vmap(along_one)(states, gradient, along)
    return (
        relative(field.position, gradient.momentum),
        relative(field.momentum, -gradient.position),
        relative(exact, finite),
    )


def halves(name: str, probe: Probe) -> list[Finding]:
    """d/dh of a kick and a drift at h = 0 are the halves of the field, each leaves the other half alone."""
    system = probe.flow.system
    if not isinstance(system, AbstractSeparableSystem):
        return skipped(name, "the system does not split")
    return at_most(name, _halves_gap(system, probe.time, probe.last), CLOSED, "relative error")


@eqx.filter_jit
def _halves_gap(system: AbstractSeparableSystem, t: Array, states: PhaseState) -> Array:
    def gap(z: PhaseState) -> Array:
        zero, one = jnp.zeros(()), jnp.ones(())
        kicked = jax.jvp(lambda h: system.kick(t, z, h), (zero,), (one,))[1]
        drifted = jax.jvp(lambda h: system.drift(t, z, h), (zero,), (one,))[1]
        return relative(jax.tree.map(jnp.add, kicked, drifted), system.vector_field(t, z))

    return jnp.max(jax.vmap(gap)(states))


def inverse_velocity(name: str, probe: Probe) -> list[Finding]:
    """`kinetic.momentum` undoes `kinetic.velocity`."""
    system = probe.flow.system
    if not isinstance(system, AbstractSeparableSystem):
        return skipped(name, "the system has no kinetic energy of its own")
    kinetic = system.kinetic
    back = jax.vmap(lambda p: kinetic.momentum(kinetic.velocity(p)))(probe.last.momentum)
    return at_most(name, relative(back, probe.last.momentum), CLOSED, "relative error")
