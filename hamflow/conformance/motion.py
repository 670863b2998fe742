"""Laws of the motion: does it follow the equations, retrace, keep phase volume, energy and the walls?"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree

from .._types import Array
from ..domains import AbstractDomain, Euclidean
from ..flow import Flow
from ..integrators.base import AbstractIntegrator
from ..integrators.steps import take_steps
from ..state import PhaseState
from ..system import AbstractSeparableSystem, AbstractSystem
from .probe import STEPPED, Probe, moved, relative
from .report import Finding, at_most, skipped

DENSE = 32  # coordinates up to which a whole Jacobian is built


def motion(name: str, probe: Probe) -> list[Finding]:
    """d/dt of the motion against the field at the state that it reached."""
    flow = probe.flow
    position, momentum = _rate_gaps(flow, probe.first, probe.time)
    note = "relative error" if flow.integrator is None else f"relative error of {flow.num_steps} steps"
    return [
        *at_most("velocity = d position / dt", position, probe.tolerance, note),
        *at_most("d momentum / dt = force", momentum, probe.tolerance, note),
    ]


@eqx.filter_jit
def _rate_gaps(flow: Flow, first: PhaseState, t: Array) -> tuple[Array, Array]:
    def one(z: PhaseState) -> tuple[PhaseState, PhaseState, Array]:
        end, rate = jax.jvp(lambda t: flow.evolve(z, t), (t,), (jnp.ones_like(t),))
        return rate, flow.system.vector_field(t, end), flow.velocity(end, t)

    rate, field, velocity = jax.vmap(one)(first)
    return relative(rate.position, velocity), relative(rate.momentum, field.momentum)


def symplectic(name: str, probe: Probe) -> list[Finding]:
    """omega(J u, J v) = omega(u, v) for random directions u, v; no matrix is built."""
    if not probe.has_energy:
        return skipped(name, "the system has no energy")
    first, u = jax.tree.map(lambda leaf: leaf[0], probe.first), probe.directions(8)
    v = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, 0), u)
    defect = _symplectic_defect(probe.flow, first, probe.time, u, v)
    return at_most(name, defect, 1e-7, "defect of the symplectic form")


@eqx.filter_jit
def _symplectic_defect(flow: Flow, z: PhaseState, t: Array, u: PhaseState, v: PhaseState) -> Array:
    def omega(a: PhaseState, b: PhaseState) -> Array:
        return jnp.vdot(a.position, b.momentum) - jnp.vdot(a.momentum, b.position)

    def norm(a: PhaseState) -> Array:
        return jnp.sqrt(jnp.vdot(a.position, a.position) + jnp.vdot(a.momentum, a.momentum))

    def push(w: PhaseState) -> PhaseState:
        return jax.jvp(lambda z: flow.evolve(z, t), (z,), (w,))[1]

    def defect(u: PhaseState, v: PhaseState) -> Array:
        ju, jv = push(u), push(v)
        return jnp.abs(omega(ju, jv) - omega(u, v)) / (norm(ju) * norm(jv) + norm(u) * norm(v))

    return jnp.max(jax.vmap(defect)(u, v))


def volume(name: str, probe: Probe) -> list[Finding]:
    """The determinant of the motion's Jacobian is 1 (Liouville), in few coordinates."""
    if probe.size > DENSE:
        return skipped(name, f"{probe.size} coordinates: the Jacobian is not built above {DENSE}")
    flow, first = probe.flow, jax.tree.map(lambda leaf: leaf[0], probe.first)
    determinant = float(_determinant(flow, first, probe.time))
    if not probe.has_energy:
        return skipped(name, f"no energy, no law: phase volume is multiplied by {determinant:.4g}")
    return at_most(name, abs(abs(determinant) - 1.0), 1e-7, "| |det J| - 1 |")


@eqx.filter_jit
def _determinant(flow: Flow, z: PhaseState, t: Array) -> Array:
    flat, unravel = ravel_pytree(z)
    return jnp.linalg.det(jax.jacfwd(lambda z: ravel_pytree(flow.evolve(unravel(z), t))[0])(flat))


def there_and_back(name: str, probe: Probe) -> list[Finding]:
    """`evolve` to a time and back returns to the start."""
    back = moved(probe.flow, probe.last, jnp.zeros_like(probe.time), probe.time)
    return at_most(name, relative(back, probe.first), 1e-6, "relative distance from the start")


def time_reversal(name: str, probe: Probe) -> list[Finding]:
    """Turn the momentum round, run as long again, turn it round: the start."""
    system = probe.flow.system
    if not isinstance(system, AbstractSeparableSystem) or not probe.has_energy:
        return skipped(name, "for kinetic energies even in p and forces of the position alone")
    if not probe.is_autonomous():
        return skipped(name, "the force depends on time")

    def turned(z: PhaseState) -> PhaseState:
        return PhaseState(z.position, -z.momentum)

    again = turned(moved(probe.flow, turned(probe.last), probe.time, jnp.zeros_like(probe.time)))
    tolerance = 1e-6 if probe.flow.integrator is None or _is_symmetric(probe.flow) else STEPPED
    return at_most(name, relative(again, probe.first), tolerance, "relative")


def _is_symmetric(flow: Flow) -> bool:
    return flow.integrator is not None and flow.integrator.inverse() is flow.integrator


def domain(name: str, probe: Probe) -> list[Finding]:
    """Positions stay inside all along the way."""
    flow = probe.flow
    if isinstance(flow.system.domain, Euclidean):
        return skipped(name, "all of space")
    inside = _contained(flow, probe.first, jnp.linspace(0.0, 1.0, 9) * flow.horizon)
    return at_most(name, jnp.mean(1.0 - inside.astype(float)), 0.0, "share of positions outside, at nine times")


@eqx.filter_jit
def _contained(flow: Flow, states: PhaseState, times: Array) -> Array:
    contains = jax.vmap(flow.system.domain.contains)
    return jax.vmap(lambda z: contains(flow.trajectory(z, times).position))(states)


def folds(name: str, probe: Probe) -> list[Finding]:
    """A fold, far outside too: it lands inside, once and for all, carries momenta by its own derivative, and `extend`
    takes them back."""
    names = ("folds land inside", "folds carry momenta", "extend undoes a fold")
    space = probe.flow.system.domain
    if isinstance(space, Euclidean):
        return [f for n in names for f in skipped(n, "all of space")]
    states = probe.first
    keys = jr.split(jr.fold_in(probe.key, 8), 2)
    size = jnp.max(jnp.abs(states.position)) + jnp.max(jnp.std(states.position, axis=0))
    reach = 8.0 * size * jr.uniform(keys[0], (states.position.shape[0], *[1] * (states.position.ndim - 1)))
    far = states.position + reach * jr.normal(keys[1], states.position.shape)
    inside, twice, carried, back = _folded(space, far, states.momentum)
    speed = jnp.max(jnp.abs(states.momentum))
    outside = jnp.mean(1.0 - inside.astype(float)) + jnp.max(jnp.abs(twice)) / size
    note = "relative error, at positions up to many widths outside"
    return [
        *at_most(names[0], outside, 1e-8, "share outside, and what a second fold moves"),
        *at_most(names[1], jnp.max(jnp.abs(carried)) / speed, 1e-8, note),
        *at_most(names[2], jnp.max(jnp.abs(back)) / speed, 1e-8, note),
    ]


@eqx.filter_jit
def _folded(space: AbstractDomain, far: Array, momentum: Array) -> tuple[Array, Array, Array, Array]:
    def one(x: Array, p: Array) -> tuple[Array, Array, Array, Array]:
        folded, carried = space.fold(x, p)
        again, _ = space.fold(folded, carried)
        moved = jax.jvp(lambda x: space.fold(x, p)[0], (x,), (p,))[1]
        return space.contains(folded), again - folded, carried - moved, space.extend(x, carried) - p

    return jax.vmap(one)(far, momentum)


def energy_drift(name: str, probe: Probe) -> list[Finding]:
    """The energy at t against that at 0, over the spread of energies; and how it falls with half the step."""
    order = "order of the integrator"
    if not probe.has_energy:
        return [f for n in (name, order) for f in skipped(n, "the system has no energy")]
    if not probe.is_autonomous():
        return [f for n in (name, order) for f in skipped(n, "the energy depends on time")]
    flow, system = probe.flow, probe.flow.system
    before = _energies(system, probe.first)
    scale = jnp.maximum(jnp.std(before), 1e-6 * jnp.max(jnp.abs(before)) + 1e-12)

    def drift(last: PhaseState) -> float:
        return float(jnp.sqrt(jnp.mean((_energies(system, last) - before) ** 2)) / scale)

    error = drift(probe.last)
    found = at_most(name, error, 1e-6 if flow.integrator is None else STEPPED, "of the spread of energies")
    integrator, steps = flow.integrator, flow.num_steps
    if integrator is None or steps is None:
        return found + skipped(order, "the motion is in closed form")
    if system.domain.flips_momentum:
        return found + skipped(order, "a force at a wall leaves every method at about order 1")
    if error < 1e-10:
        return found + skipped(order, "the energy is kept to rounding")
    halved = max(drift(_stepped(system, integrator, probe.first, probe.time, 2 * steps)), 1e-15)
    measured = np.log2(error / halved) if np.isfinite(error) and np.isfinite(halved) else 0.0
    short = max(0.0, integrator.method_order() - measured)
    return found + at_most(order, short, 0.7, f"short of {integrator.method_order()}; measured {measured:.2f}")


@eqx.filter_jit
def _energies(system: Any, states: PhaseState) -> Array:
    return jax.vmap(lambda z: system.energy(jnp.zeros(()), z))(states)


@eqx.filter_jit
def _stepped(
    system: AbstractSystem, integrator: AbstractIntegrator, states: PhaseState, t: Array, n: int
) -> PhaseState:
    return jax.vmap(lambda z: take_steps(system, integrator, z, jnp.zeros_like(t), t / n, n))(states)
