"""Systems: what pushes, what moves and where, put together.

A system knows the physics; everything else asks it. Splitting integrators need `kick` and `drift` alone, so a system
is separable if it has them, and the type says which. Three systems expressed as one:

- `Hamiltonian(potential, kinetic, domain)`: separable, and has an energy;
- `ForcedSystem(force, kinetic, domain)`: separable, and has none (friction, a learned force that is no gradient);
- `NonSeparableHamiltonian(energy, domain)`: has an energy in which position and momentum mix (a magnetic field).
"""

import abc
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp

from ._module import AbstractModule
from ._parameters import as_parameter, fit
from ._types import Array, Float, Scalar, ScalarLike
from .domains import AbstractDomain, Euclidean
from .kinetics import AbstractKinetic
from .potentials.base import AbstractForce, AbstractPotential
from .potentials.function import as_callable
from .potentials.zero import ZeroPotential
from .propagators import AbstractPropagator, AbstractSolvable
from .state import PhaseState


class AbstractSystem(AbstractModule):
    """Anything with a vector field on phase space and a domain for its positions."""

    domain: eqx.AbstractVar[AbstractDomain]

    @abc.abstractmethod
    def vector_field(self, t: ScalarLike, state: PhaseState, args: Any = None) -> PhaseState:
        """(dx/dt, dp/dt) at one state; `args` is not used, and lets `diffrax.ODETerm(system.vector_field)` call it."""

    @abc.abstractmethod
    def velocity(self, t: ScalarLike, state: PhaseState) -> Float[Array, "*event"]:
        """dx/dt at one state."""

    @abc.abstractmethod
    def propagator(self) -> AbstractPropagator | None:
        """The motion in closed form, or None."""


class AbstractSeparableSystem(AbstractSystem):
    """A system whose kick (momentum alone) and drift (position alone) can each be followed exactly."""

    kinetic: eqx.AbstractVar[AbstractKinetic]

    @abc.abstractmethod
    def kick(self, t: ScalarLike, state: PhaseState, h: ScalarLike) -> PhaseState:
        """Push for a time h: p + h F(t, x), the position held."""

    @abc.abstractmethod
    def drift(self, t: ScalarLike, state: PhaseState, h: ScalarLike) -> PhaseState:
        """Move for a time h: x + h v, folded by the domain, the momentum held but for the folds."""


@final
class Hamiltonian(AbstractSeparableSystem):
    """H(t, x, p) = U(t, x) + K(p) in a domain.

    Args:
        potential: U.
        kinetic: K.
        domain: where positions live.

    Raises:
        TypeError: an argument of another kind (a bare force belongs into a `ForcedSystem`).
        ValueError: a domain with walls and a kinetic energy that is not even in each momentum (of |p| alone, where
            the walls are no coordinate planes).
    """

    potential: AbstractPotential
    kinetic: AbstractKinetic
    domain: AbstractDomain

    def __init__(self, potential: AbstractForce, kinetic: AbstractKinetic, domain: AbstractDomain = Euclidean()):  # noqa: B008
        # Annotated as a force, so that a bare one meets this advice and not the type checker.
        if isinstance(potential, AbstractForce) and not isinstance(potential, AbstractPotential):
            raise TypeError(
                f"potential is the force {type(potential).__name__}, which has no energy: "
                "use hamflow.ForcedSystem(force, kinetic, domain)"
            )
        if not isinstance(potential, AbstractPotential):
            raise TypeError(f"potential must be a hamflow.AbstractPotential, got {type(potential).__name__}")
        _require_fit(kinetic, domain)
        self.potential, self.kinetic, self.domain = potential, kinetic, domain

    def energy(self, t: ScalarLike, state: PhaseState) -> Scalar:
        """H = U + K, a scalar."""
        return self.potential.energy(t, state.position) + self.kinetic.energy(state.momentum)

    def vector_field(self, t: ScalarLike, state: PhaseState, args: Any = None) -> PhaseState:
        return PhaseState(self.kinetic.velocity(state.momentum), self.potential.force(t, state.position))

    def velocity(self, t: ScalarLike, state: PhaseState) -> Float[Array, "*event"]:
        return self.kinetic.velocity(state.momentum)

    def kick(self, t: ScalarLike, state: PhaseState, h: ScalarLike) -> PhaseState:
        return _kick(self.potential, t, state, h)

    def drift(self, t: ScalarLike, state: PhaseState, h: ScalarLike) -> PhaseState:
        return _drift(self.kinetic, self.domain, state, h)

    def propagator(self) -> AbstractPropagator | None:
        return _propagator(self.potential, self.kinetic, self.domain)


@final
class ForcedSystem(AbstractSeparableSystem):
    """dx/dt = grad K(p), dp/dt = F(t, x) - friction p: a force that need not be a gradient, and so no energy.

    Args:
        force: F.
        kinetic: K.
        domain: where positions live.
        friction: the rate at which momentum decays, per unit of time; a number or an array of the position's shape,
            negative where momentum is pumped in. A kick follows force and friction together, exactly. None, or the
            number 0: without.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a domain with walls and a kinetic energy that is not even in each momentum (of |p| alone, where
            the walls are no coordinate planes).
    """

    force: AbstractForce
    kinetic: AbstractKinetic
    domain: AbstractDomain
    friction: float | Float[Array, "..."] | None

    def __init__(
        self,
        force: AbstractForce,
        kinetic: AbstractKinetic,
        domain: AbstractDomain = Euclidean(),  # noqa: B008
        friction: Any = None,
    ):
        _require_type(force, AbstractForce, "force")
        _require_fit(kinetic, domain)
        self.force, self.kinetic, self.domain = force, kinetic, domain
        # None and not 0: whether there is a closed form must survive a tree map that makes arrays of numbers.
        value = None if friction is None else as_parameter(friction, "friction")
        self.friction = None if isinstance(value, float) and value == 0.0 else value

    @property
    def is_frictionless(self) -> bool:
        """Whether there is no friction at all, whatever a gradient step may do."""
        return self.friction is None

    def vector_field(self, t: ScalarLike, state: PhaseState, args: Any = None) -> PhaseState:
        push = self.force.force(t, state.position)
        if not self.is_frictionless:
            push = push - self._friction(state.momentum) * state.momentum
        return PhaseState(self.kinetic.velocity(state.momentum), push)

    def velocity(self, t: ScalarLike, state: PhaseState) -> Float[Array, "*event"]:
        return self.kinetic.velocity(state.momentum)

    def kick(self, t: ScalarLike, state: PhaseState, h: ScalarLike) -> PhaseState:
        if self.is_frictionless:
            return _kick(self.force, t, state, h)
        push = self.force.force(t, state.position)
        h = jnp.asarray(h, push.dtype)
        decay = self._friction(push) * h
        still = decay == 0
        safe = jnp.where(still, jnp.ones_like(decay), decay)
        mean = jnp.where(still, jnp.ones_like(decay), -jnp.expm1(-safe) / safe)  # (1 - exp(-decay)) / decay
        return PhaseState(state.position, jnp.exp(-decay) * state.momentum + h * mean * push)

    def drift(self, t: ScalarLike, state: PhaseState, h: ScalarLike) -> PhaseState:
        return _drift(self.kinetic, self.domain, state, h)

    def propagator(self) -> AbstractPropagator | None:
        return _propagator(self.force, self.kinetic, self.domain) if self.is_frictionless else None

    def _friction(self, like: Array) -> Any:
        assert self.friction is not None  # asked for only where there is one
        return fit(self.friction, like.shape, like.dtype, "friction")


@final
class NonSeparableHamiltonian(AbstractSystem):
    """A Hamiltonian in which position and momentum mix: a magnetic field, a position-dependent mass.

    Args:
        energy: H(t, position, momentum), a scalar; any callable, a Module if it has parameters.
        domain: where positions live.

    Raises:
        TypeError: an energy that cannot be called, a domain of another kind.
        ValueError: a domain with walls: a fold of the momentum alone does not keep such an energy.
    """

    energy_function: Callable[[Any, Array, Array], Scalar]
    domain: AbstractDomain

    def __init__(self, energy: Callable[[Any, Array, Array], Scalar], domain: AbstractDomain = Euclidean()):  # noqa: B008
        if not callable(energy):
            raise TypeError(f"energy must be callable as energy(t, position, momentum), got {energy!r}")
        _require_type(domain, AbstractDomain, "domain")
        if domain.flips_momentum:
            raise ValueError(
                f"{type(domain).__name__} turns momenta round at its walls, which a non-separable energy does not "
                "survive in general: use Euclidean or Torus, or a separable Hamiltonian"
            )
        self.energy_function, self.domain = as_callable(energy, "energy"), domain

    def energy(self, t: ScalarLike, state: PhaseState) -> Scalar:
        """H(t, x, p), a scalar."""
        return self.energy_function(t, state.position, state.momentum)

    def vector_field(self, t: ScalarLike, state: PhaseState, args: Any = None) -> PhaseState:
        along_x, along_p = jax.grad(self.energy_function, argnums=(1, 2))(t, state.position, state.momentum)
        return PhaseState(along_p, -along_x)

    def velocity(self, t: ScalarLike, state: PhaseState) -> Float[Array, "*event"]:
        return self.vector_field(t, state).position

    def propagator(self) -> AbstractPropagator | None:
        return None


def _kick(force: AbstractForce, t: ScalarLike, state: PhaseState, h: ScalarLike) -> PhaseState:
    if isinstance(force, ZeroPotential):
        return state  # the momentum stays to the last bit; a sum with zero flushes the smallest numbers
    push = force.force(t, state.position)
    return PhaseState(state.position, state.momentum + jnp.asarray(h, push.dtype) * push)


def _drift(kinetic: AbstractKinetic, domain: AbstractDomain, state: PhaseState, h: ScalarLike) -> PhaseState:
    velocity = kinetic.velocity(state.momentum)
    return PhaseState(*domain.step(state.position, state.momentum, jnp.asarray(h, velocity.dtype) * velocity))


def _propagator(force: AbstractForce, kinetic: AbstractKinetic, domain: AbstractDomain) -> AbstractPropagator | None:
    return force.propagator(kinetic, domain) if isinstance(force, AbstractSolvable) else None


def _require_type(value, kind: type, name: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a hamflow.{kind.__name__}, got {type(value).__name__}")


def _require_fit(kinetic: AbstractKinetic, domain: AbstractDomain) -> None:
    _require_type(kinetic, AbstractKinetic, "kinetic")
    _require_type(domain, AbstractDomain, "domain")
    if domain.flips_momentum and not kinetic.is_even_in_each():
        raise ValueError(
            f"{type(domain).__name__} turns single momenta round at its walls, which needs a kinetic energy that is "
            f"even in each of them; this {type(kinetic).__name__} mixes them (a dense mass): use a number or a "
            "diagonal mass, or Euclidean or Torus"
        )
    if domain.rotates_momentum and not kinetic.is_isotropic():
        raise ValueError(
            f"{type(domain).__name__} turns momenta at walls of any direction, which needs a kinetic energy of |p| "
            f"alone; this {type(kinetic).__name__} is not one: use a number for a mass"
        )
