"""Laws of the motion: does it follow the equations, retrace, keep phase volume, energy and the walls?"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree

from .._types import Array
from ..domains import Euclidean
from ..flow import Flow
from ..integrators.steps import take_steps
from ..state import PhaseState
from ..system import AbstractSeparableSystem
from .probe import STEPPED, Probe, relative
from .report import Finding, at_most, skipped

DENSE = 32  # coordinates up to which a whole Jacobian is built


def motion(name: str, probe: Probe) -> list[Finding]:
    """d/dt of the motion against the field at the state that it reached."""
    flow = probe.flow

    @eqx.filter_jit
    def measure(flow: Flow, first: PhaseState, t: Array) -> tuple[Array, Array]:
        def one(z: PhaseState) -> tuple[PhaseState, PhaseState, Array]:
            end, rate = jax.jvp(lambda t: flow.evolve(z, t), (t,), (jnp.ones_like(t),))
            return rate, flow.system.vector_field(t, end), flow.velocity(end, t)

        rate, field, velocity = jax.vmap(one)(first)
        return relative(rate.position, velocity), relative(rate.momentum, field.momentum)

    position, momentum = measure(flow, probe.first, probe.time)
    note = "relative error" if flow.integrator is None else f"relative error of {flow.num_steps} steps"
    return [
        *at_most("velocity = d position / dt", position, probe.tolerance, note),
        *at_most("d momentum / dt = force", momentum, probe.tolerance, note),
    ]


def symplectic(name: str, probe: Probe) -> list[Finding]:
    """omega(J u, J v) = omega(u, v) for random directions u, v; no matrix is built."""
    if not probe.has_energy:
        return skipped(name, "the system has no energy")
    flow, first = probe.flow, jax.tree.map(lambda leaf: leaf[0], probe.first)

    def omega(a: PhaseState, b: PhaseState) -> Array:
        return jnp.vdot(a.position, b.momentum) - jnp.vdot(a.momentum, b.position)

    def norm(a: PhaseState) -> Array:
        return jnp.sqrt(jnp.vdot(a.position, a.position) + jnp.vdot(a.momentum, a.momentum))

    @eqx.filter_jit
    def measure(flow: Flow, z: PhaseState, t: Array, u: PhaseState, v: PhaseState) -> Array:
        def push(w: PhaseState) -> PhaseState:
            return jax.jvp(lambda z: flow.evolve(z, t), (z,), (w,))[1]

        def defect(u: PhaseState, v: PhaseState) -> Array:
            ju, jv = push(u), push(v)
            return jnp.abs(omega(ju, jv) - omega(u, v)) / (norm(ju) * norm(jv) + norm(u) * norm(v))

        return jnp.max(jax.vmap(defect)(u, v))

    u = probe.directions(8)
    v = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, 0), u)
    return at_most(name, measure(flow, first, probe.time, u, v), 1e-7, "defect of the symplectic form")


def volume(name: str, probe: Probe) -> list[Finding]:
    """The determinant of the motion's Jacobian is 1 (Liouville), in few coordinates."""
    if probe.size > DENSE:
        return skipped(name, f"{probe.size} coordinates: the Jacobian is not built above {DENSE}")
    flow, first = probe.flow, jax.tree.map(lambda leaf: leaf[0], probe.first)
    flat, unravel = ravel_pytree(first)
    jacobian = jax.jit(jax.jacfwd(lambda z: ravel_pytree(flow.evolve(unravel(z), probe.time))[0]))(flat)
    determinant = float(jnp.linalg.det(jacobian))
    if not probe.has_energy:
        return skipped(name, f"no energy, no law: phase volume is multiplied by {determinant:.4g}")
    return at_most(name, abs(abs(determinant) - 1.0), 1e-7, "| |det J| - 1 |")


def there_and_back(name: str, probe: Probe) -> list[Finding]:
    """`evolve` to a time and back returns to the start."""
    flow = probe.flow
    back = eqx.filter_jit(lambda f, s, t: jax.vmap(lambda z: f.evolve(z, 0.0, t))(s))(flow, probe.last, probe.time)
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

    again = eqx.filter_jit(lambda f, s, t: jax.vmap(lambda z: turned(f.evolve(turned(z), t)))(s))
    tolerance = 1e-6 if probe.flow.integrator is None or _is_symmetric(probe.flow) else STEPPED
    return at_most(name, relative(again(probe.flow, probe.last, probe.time), probe.first), tolerance, "relative")


def _is_symmetric(flow: Flow) -> bool:
    return flow.integrator is not None and flow.integrator.inverse() is flow.integrator


def domain(name: str, probe: Probe) -> list[Finding]:
    """Positions stay inside all along the way."""
    flow = probe.flow
    times = jnp.linspace(0.0, 1.0, 9) * flow.horizon
    inside = eqx.filter_jit(
        lambda f, s, ts: jax.vmap(lambda z: jax.vmap(f.system.domain.contains)(f.trajectory(z, ts).position))(s)
    )(flow, probe.first, times)
    if isinstance(flow.system.domain, Euclidean):
        return skipped(name, "all of space")
    return at_most(name, jnp.mean(1.0 - inside.astype(float)), 0.0, "share of positions outside, at nine times")


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

    @eqx.filter_jit
    def measure(far: Array, momentum: Array) -> tuple[Array, Array, Array, Array]:
        def one(x: Array, p: Array) -> tuple[Array, Array, Array, Array]:
            folded, carried = space.fold(x, p)
            again, _ = space.fold(folded, carried)
            moved = jax.jvp(lambda x: space.fold(x, p)[0], (x,), (p,))[1]
            return space.contains(folded), again - folded, carried - moved, space.extend(x, carried) - p

        return jax.vmap(one)(far, momentum)

    inside, twice, carried, back = measure(far, states.momentum)
    speed = jnp.max(jnp.abs(states.momentum))
    outside = jnp.mean(1.0 - inside.astype(float)) + jnp.max(jnp.abs(twice)) / size
    note = "relative error, at positions up to many widths outside"
    return [
        *at_most(names[0], outside, 1e-8, "share outside, and what a second fold moves"),
        *at_most(names[1], jnp.max(jnp.abs(carried)) / speed, 1e-8, note),
        *at_most(names[2], jnp.max(jnp.abs(back)) / speed, 1e-8, note),
    ]


def energy_drift(name: str, probe: Probe) -> list[Finding]:
    """The energy at t against that at 0, over the spread of energies; and how it falls with half the step."""
    order = "order of the integrator"
    if not probe.has_energy:
        return [f for n in (name, order) for f in skipped(n, "the system has no energy")]
    if not probe.is_autonomous():
        return [f for n in (name, order) for f in skipped(n, "the energy depends on time")]
    flow, system = probe.flow, probe.flow.system
    energy = jax.vmap(lambda z: system.energy(jnp.zeros(()), z))  # pyright: ignore[reportAttributeAccessIssue]
    before = energy(probe.first)
    scale = jnp.maximum(jnp.std(before), 1e-6 * jnp.max(jnp.abs(before)) + 1e-12)

    def drift(last: PhaseState) -> float:
        return float(jnp.sqrt(jnp.mean((energy(last) - before) ** 2)) / scale)

    error = drift(probe.last)
    found = at_most(name, error, 1e-6 if flow.integrator is None else STEPPED, "of the spread of energies")
    integrator, steps = flow.integrator, flow.num_steps
    if integrator is None or steps is None:
        return found + skipped(order, "the motion is in closed form")
    if system.domain.flips_momentum:
        return found + skipped(order, "a force at a wall leaves every method at about order 1")
    if error < 1e-10:
        return found + skipped(order, "the energy is kept to rounding")

    @eqx.filter_jit
    def finer(states: PhaseState) -> PhaseState:
        n = 2 * steps
        zero, h = jnp.zeros(()), probe.time / n
        return jax.vmap(lambda z: take_steps(system, integrator, z, zero, h, n))(states)

    halved = max(drift(finer(probe.first)), 1e-15)
    measured = np.log2(error / halved) if np.isfinite(error) and np.isfinite(halved) else 0.0
    short = max(0.0, integrator.method_order() - measured)
    return found + at_most(order, short, 0.7, f"short of {integrator.method_order()}; measured {measured:.2f}")
