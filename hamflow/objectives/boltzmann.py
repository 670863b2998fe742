"""Boltzmann-Gibbs starts followed for a short time: what every Hamiltonian score objective looks at.

A datum x starts with momenta p and -p, p ~ exp(-K), and follows a force for a time t. If the force is the score of the
data, the law of data and momenta stays, and the velocity given the position stays zero on average (Holderrieth, Xu,
Jaakkola 2024, theorem 1). The pair is ours: what is odd in p cancels in its mean, and that is all that grows as 1/t.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .. import _linear as linear
from .._parameters import require
from .._types import Array, Float, PRNGKeyArray, ScalarLike
from ..domains import AbstractDomain, Euclidean
from ..integrators.base import AbstractIntegrator
from ..integrators.guards import require_finite
from ..integrators.stages import kick
from ..integrators.steps import take_steps
from ..kinetics import AbstractKinetic, GaussianKinetic
from ..potentials.base import AbstractForce
from ..potentials.learned import NetworkForce
from ..state import PhaseState
from ..system import AbstractSeparableSystem, ForcedSystem

Score = AbstractForce | Callable[..., Any]
Momenta = Literal["kinetic", "signs"]
Times = ScalarLike | Sequence[float] | Float[Array | np.ndarray, "times"]


class ShortTime(eqx.Module):
    """How long and how the data follow a force: what all Hamiltonian score objectives are told.

    Args:
        times: one short time or several, positive, in the system's unit of time. A time must stay below a quarter of
            the fastest swing, pi / 2 over the square root of the largest curvature of the energy over the mass: there
            the discrepancy vanishes for wrong forces too.
        kinetic: K, the law of the momenta and what they mean for the velocity.
        domain: where the data live.
        integrator: of the short motion, without a step size.
        num_steps: of the integrator, for every time.
        momenta: "kinetic" for draws from exp(-K); "signs" for M^1/2 times random signs, which have its covariance and
            less noise. The law then stays for t -> 0 only: what is tested is off by a relative t^2 curvature.

    Raises:
        ValueError: no time, a time that is not positive, fewer than one step, an integrator with a step size.
        TypeError: signs with a kinetic energy that is not quadratic.
    """

    times: tuple[float, ...] = eqx.field(static=True)
    kinetic: AbstractKinetic
    domain: AbstractDomain
    integrator: AbstractIntegrator
    num_steps: int = eqx.field(static=True)
    signs: bool = eqx.field(static=True)

    def __init__(
        self,
        times: Times,
        kinetic: AbstractKinetic,
        domain: AbstractDomain,
        integrator: AbstractIntegrator,
        num_steps: int,
        momenta: Momenta = "kinetic",
    ):
        if momenta == "signs" and not isinstance(kinetic, GaussianKinetic):
            name = type(kinetic).__name__
            raise TypeError(
                f'momenta="signs" have the covariance of a GaussianKinetic, and {name} is none: leave it out'
            )
        self.signs = momenta == "signs"
        try:
            self.times = tuple(float(t) for t in np.atleast_1d(np.asarray(times, float)))
        except (TypeError, ValueError):
            raise TypeError(f"times must be known numbers, one or several, got {times!r}") from None
        if not self.times:
            raise ValueError("times is empty: give one short time or several")
        for t in self.times:
            if not (t > 0.0 and np.isfinite(t)):
                raise ValueError(f"times must be positive and finite, got {t}: at t = 0 every force looks right")
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        if integrator.step_size is not None:
            name = type(integrator).__name__
            raise ValueError(f"{name}(step_size=...) is for a Flow; here num_steps counts its steps: use {name}()")
        self.kinetic, self.domain, self.integrator, self.num_steps = kinetic, domain, integrator, num_steps

    def system(self, force: AbstractForce) -> AbstractSeparableSystem:
        """The system that the data follow."""
        system = ForcedSystem(force, self.kinetic, self.domain)
        self.integrator.require_system(system)
        return system

    def pick(self, number: int, dtype: Any) -> Float[Array, "number"]:
        """A time for each of `number` examples, all used equally often."""
        return jnp.asarray(np.resize(np.asarray(self.times), number), dtype)

    def pair(self, force: AbstractForce, x: Float[Array, "*event"], key: PRNGKeyArray, t: Array) -> PhaseState:
        """Positions and *velocities* at `t` of the pair that starts at one datum, with a leading axis of 2."""
        system = self.system(force)
        h = t / self.num_steps

        # The datum has no axis of signs, so its first force is computed once for both.
        def follow(momentum: Array) -> PhaseState:
            end = take_steps(system, self.integrator, PhaseState(x, momentum), jnp.zeros_like(h), h, self.num_steps)
            return PhaseState(end.position, system.velocity(t, end))

        return jax.vmap(follow)(self.momenta(x, key))

    def momenta(self, x: Float[Array, "*event"], key: PRNGKeyArray) -> Float[Array, "2 *event"]:
        """p and -p of one datum."""
        momentum = self.momentum(x, key)
        return jnp.stack([momentum, -momentum])

    def momentum(self, x: Float[Array, "*event"], key: PRNGKeyArray) -> Float[Array, "*event"]:
        """p of one datum."""
        return self._signs(x, key) if self.signs else self.kinetic.sample(key, x.shape).astype(x.dtype)

    def _signs(self, x: Array, key: PRNGKeyArray) -> Array:
        """A square root of the mass times random signs."""
        assert isinstance(self.kinetic, GaussianKinetic)
        mass = linear.as_operator(self.kinetic.mass, x.shape, x.dtype, "mass")
        return linear.apply(linear.factor(mass), jr.rademacher(key, x.shape).astype(x.dtype))

    def ends_and_forces(
        self, force: AbstractForce, data: Float[Array, "n *event"], keys: Array, t: Float[Array, "n"]
    ) -> tuple[PhaseState, Float[Array, "twice *event"]]:
        """Positions and velocities of a batch of pairs, constant, and the forces there, with gradients.

        All first members come before all second ones: one axis is what a network runs fastest on. Where a step ends
        with a kick, the force at its end is that of the kick, and is computed once; so is the first one of a pair.
        """
        frozen, zero = freeze(force), jnp.zeros((), data.dtype)
        system, stages = self.system(frozen), list(self.integrator.stages())
        first = jax.vmap(self.momentum)(data, keys)
        momenta = jnp.concatenate([first, -first])
        t, data_twice = jnp.concatenate([t, t]), jnp.concatenate([data, data])
        h = t / self.num_steps
        shared = self.num_steps == 1 and stages[0].action is kick and len(stages) > 1
        if shared:
            push = jax.vmap(lambda x: frozen.force(zero, x))(data)
            share = (stages[0].coefficient * h).reshape(-1, *[1] * (data.ndim - 1))
            momenta, stages = momenta + share * jnp.concatenate([push, push]), stages[1:]
        last = stages[-1] if stages[-1].action is kick else None

        def follow(x: Array, momentum: Array, h: Array) -> PhaseState:
            """Up to the last kick."""
            state, start = PhaseState(x, momentum), (self.num_steps - 1) * h
            if self.num_steps > 1:
                state = take_steps(system, self.integrator, state, zero, h, self.num_steps - 1)
            for stage in stages if last is None else stages[:-1]:
                state = stage(system, start, state, h)
            return state

        ends = jax.lax.stop_gradient(jax.vmap(follow)(data_twice, momenta, h))
        forces = jax.vmap(lambda x: force.force(zero, x))(ends.position)
        if last is not None:
            share = (last.coefficient * h).reshape(-1, *[1] * (data.ndim - 1))
            ends = PhaseState(ends.position, ends.momentum + share * jax.lax.stop_gradient(forces))
        velocity = jax.vmap(system.velocity)(t, ends)
        return PhaseState(ends.position, jax.lax.stop_gradient(velocity)), forces


def as_force(score: Score) -> AbstractForce:
    """A score as a force: a force or a potential as it is, any other callable x -> array as one."""
    if isinstance(score, type):
        raise TypeError(f"the score is the class {score.__name__}: give an object, as in {score.__name__}(...)")
    if not callable(score) and not isinstance(score, AbstractForce):
        kind = type(score).__name__
        raise TypeError(f"the score must be a force, a potential or a callable of one position, got {kind}")
    return score if isinstance(score, AbstractForce) else NetworkForce(score)


def require_data(data: Any, least: int = 1) -> Array:
    """`data` as an array, or an error that says what is wrong with it."""
    data = jnp.asarray(data)
    if data.shape[0] < least:
        raise ValueError(f"data must hold at least {least} example{'s' * (least > 1)}, got {data.shape[0]}")
    require(data, jnp.isfinite, "data must be finite: look for NaN or infinity in them")
    return data


def require_inside(domain: AbstractDomain, data: Array) -> Array:
    """`data`, or a `RuntimeError` if a row lies outside the domain."""
    if isinstance(domain, Euclidean):
        return data
    name = type(domain).__name__
    message = f"data hold a row outside the {name} that is their domain: rescale them into it, or widen the bounds"
    return eqx.error_if(data, ~jax.vmap(domain.contains)(data), message)


def require_short(short: ShortTime, force: AbstractForce, data: Array, keys: Array, t: Array) -> Array:
    """`data`, or a `RuntimeError` where t is long for most of some data: beyond a quarter of a swing.

    Along a momentum p with velocity v a force swings with a squared frequency of -(F(x + t v) - F(x - t v)) . v over
    2 t p . v. A quarter of the swing is t^2 times that of pi^2 / 4 = 2.5; a median of 4 is beyond doubt, and a few
    stiff rows do not make one.
    """
    some, frozen, zero = min(8, data.shape[0]), freeze(force), jnp.zeros((), data.dtype)
    domain, kinetic = short.domain, short.kinetic

    def push(x: Array) -> Array:
        return domain.extend(x, frozen.force(zero, domain.fold(x, x)[0]))

    def angle(x: Array, key: PRNGKeyArray, t: Array) -> Array:
        p = short.momentum(x, key)
        v = kinetic.velocity(p)
        return -t * jnp.sum((push(x + t * v) - push(x - t * v)) * v) / (2.0 * jnp.sum(p * v))

    angles = jax.vmap(angle)(data[:some], keys[:some], t[:some])
    message = (
        "times are beyond a quarter of a swing of this score, where its gradient points the wrong way and steps lose "
        "their stability: take shorter times, or, if it came on in training, a smaller learning rate"
    )
    return eqx.error_if(data, jnp.median(angles) > 4.0, message)


def dot(a: Array, b: Array) -> Array:
    """The inner product of single examples under two leading axes."""
    return jnp.sum((a * b).reshape(*a.shape[:2], -1), axis=-1)


def gain(velocity: Array, pairs: PhaseState) -> Array:
    """2 V . v - |V|^2 for predicted velocities V at the pairs of a batch: of shape `(batch, 2)`."""
    return 2.0 * dot(velocity, pairs.momentum) - dot(velocity, velocity)


def require_motion(pairs: PhaseState, value: PhaseState | None = None) -> PhaseState:
    """The pairs (or what was made of them), or a `RuntimeError` where the motion left the finite numbers."""
    return require_finite(pairs if value is None else value, pairs)


def freeze(tree: Any) -> Any:
    """Without gradients in its arrays."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)
