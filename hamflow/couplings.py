"""Couplings: how it starts. The law of the first momentum given the data.

A coupling sees a batch, since some (minibatch optimal transport) need one. Three known ones expressed as one:

- independent: p_0 ~ exp(-K), whatever the data (diffusion, oscillation, reflection, HMC);
- Gibbs: p_0 ~ exp(-H(0, x_0, p)), which depends on the datum where position and momentum mix;
- conditional optimal transport: the velocity that leads to a draw of the prior in a straight line (flow matching).

Two more lead to draws of the prior that depend on the data: `MinibatchOTCoupling` and `ReflowCoupling`.
"""

import abc
from typing import final

import jax
import jax.random as jr

from . import _linear as linear
from ._module import AbstractModule
from ._parameters import cast
from ._types import Array, Float, PRNGKeyArray
from .energies import AbstractEnergy
from .kinetics import GaussianKinetic
from .priors import NormalPrior, Prior
from .state import PhaseState
from .system import AbstractSeparableSystem, AbstractSystem, NonSeparableHamiltonian


class AbstractCoupling(AbstractModule):
    """The joint law of data and first momentum.

    To add one, write `sample` and `require_system`. If p_0 = alpha x_0 + beta e with e white and independent of the
    data, subclass `AbstractAffineCoupling`, and a linear motion becomes a linear flow with all its closed forms.
    """

    @abc.abstractmethod
    def sample(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "batch *event"],
        system: AbstractSystem,
        prior: Prior,
        horizon: float | Array,
    ) -> PhaseState:
        """First states of a batch: row i has position data[i] and a momentum of the data's dtype."""

    @abc.abstractmethod
    def require_system(self, system: AbstractSystem) -> None:
        """Raise a `ValueError` that says what to do if momenta for this system cannot be drawn."""


class AbstractAffineCoupling(AbstractCoupling):
    """p_0 = alpha x_0 + beta e, with e of zero mean and unit covariance, independent of x_0."""

    @abc.abstractmethod
    def momentum_coefficients(
        self, system: AbstractSystem, prior: Prior, horizon: float | Array, shape: tuple[int, ...] | None, dtype
    ) -> tuple[linear.Operator, linear.Operator] | None:
        """(alpha, beta), or None where this prior or kinetic energy does not give such a form."""


@final
class IndependentCoupling(AbstractAffineCoupling):
    """p_0 ~ exp(-K(p)), independent of the data."""

    def sample(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "batch *event"],
        system: AbstractSystem,
        prior: Prior,
        horizon: float | Array,
    ) -> PhaseState:
        kinetic = _separable(system).kinetic
        momenta = jax.vmap(lambda k: kinetic.sample(k, data.shape[1:]))(jr.split(key, data.shape[0]))
        return PhaseState(data, momenta.astype(data.dtype))

    def require_system(self, system: AbstractSystem) -> None:
        _separable(system)

    def momentum_coefficients(
        self, system: AbstractSystem, prior: Prior, horizon: float | Array, shape: tuple[int, ...] | None, dtype
    ) -> tuple[linear.Operator, linear.Operator] | None:
        kinetic = _separable(system).kinetic
        if not isinstance(kinetic, GaussianKinetic):
            return None
        mass = linear.as_operator(kinetic.mass, shape, dtype, "mass")
        return linear.Scaling(0.0), linear.factor(mass)


@final
class GibbsCoupling(AbstractAffineCoupling):
    """p_0 | x_0 ~ exp(-H(0, x_0, p)): the momentum that the energy itself gives the datum.

    For a separable system this is `IndependentCoupling`, closed forms included. For a `NonSeparableHamiltonian` it is
    the draw that the energy brings, so it needs an `AbstractEnergy` such as `MagneticEnergy` or `RiemannianEnergy`:
    those whose x-marginal of exp(-H) is exp(-U) then start in equilibrium for data drawn from exp(-U).
    """

    def sample(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "batch *event"],
        system: AbstractSystem,
        prior: Prior,
        horizon: float | Array,
    ) -> PhaseState:
        if isinstance(system, AbstractSeparableSystem):
            return IndependentCoupling().sample(key, data, system, prior, horizon)
        energy = _drawable(system)
        momenta = jax.vmap(energy.sample)(jr.split(key, data.shape[0]), data)
        return PhaseState(data, momenta.astype(data.dtype))

    def require_system(self, system: AbstractSystem) -> None:
        if not isinstance(system, AbstractSeparableSystem):
            _drawable(system)

    def momentum_coefficients(
        self, system: AbstractSystem, prior: Prior, horizon: float | Array, shape: tuple[int, ...] | None, dtype
    ) -> tuple[linear.Operator, linear.Operator] | None:
        if not isinstance(system, AbstractSeparableSystem):
            return None
        return IndependentCoupling().momentum_coefficients(system, prior, horizon, shape, dtype)


@final
class CondOTCoupling(AbstractAffineCoupling):
    """v_0 = (x_T - x_0) / horizon with x_T ~ prior, and p_0 the momentum of that velocity.

    Conditional optimal transport, the coupling of flow matching: without a force the path is the straight line from
    the datum to a draw of the prior, and the law at the horizon is the prior exactly.
    """

    def sample(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "batch *event"],
        system: AbstractSystem,
        prior: Prior,
        horizon: float | Array,
    ) -> PhaseState:
        return start_towards(draw_ends(key, data, prior), data, system, horizon)

    def require_system(self, system: AbstractSystem) -> None:
        require_every_velocity(system, type(self).__name__)

    def momentum_coefficients(
        self, system: AbstractSystem, prior: Prior, horizon: float | Array, shape: tuple[int, ...] | None, dtype
    ) -> tuple[linear.Operator, linear.Operator] | None:
        kinetic = _separable(system).kinetic
        if not isinstance(kinetic, GaussianKinetic) or not isinstance(prior, NormalPrior):
            return None
        if not (isinstance(prior.mean, float) and prior.mean == 0.0):
            return None  # x_t has a shift of its own
        mass = linear.as_operator(kinetic.mass, shape, dtype, "mass")
        scale = linear.as_operator(prior.scale, shape, dtype, "scale")
        rate = linear.compose(mass, linear.Scaling(1.0 / cast(horizon, dtype)))
        return linear.compose(linear.Scaling(-1.0), rate), linear.compose(rate, scale)


def draw_ends(key: PRNGKeyArray, data: Float[Array, "batch *event"], prior: Prior) -> Float[Array, "batch *event"]:
    """One x_T ~ prior a row of data, in their dtype."""
    ends = jax.vmap(lambda k: prior.sample(k, data.shape[1:]))(jr.split(key, data.shape[0]))
    return ends.astype(data.dtype)


def start_towards(
    ends: Float[Array, "batch *event"],
    data: Float[Array, "batch *event"],
    system: AbstractSystem,
    horizon: float | Array,
) -> PhaseState:
    """First states whose velocities lead from each datum to its end in a straight line."""
    first_velocity = (ends - data) / cast(horizon, data.dtype)
    return PhaseState(data, jax.vmap(_separable(system).kinetic.momentum)(first_velocity))


def require_every_velocity(system: AbstractSystem, name: str) -> None:
    """`ValueError` where some first velocity has no momentum."""
    kinetic = _separable(system).kinetic
    if not kinetic.reaches_every_velocity:
        raise ValueError(
            f"{name} needs a momentum for every velocity, which {type(kinetic).__name__} does not have: "
            "use GaussianKinetic, or IndependentCoupling"
        )


def _separable(system: AbstractSystem) -> AbstractSeparableSystem:
    if not isinstance(system, AbstractSeparableSystem):
        raise ValueError(
            f"this coupling draws momenta from a kinetic energy, which {type(system).__name__} does not have on its "
            "own: use a Hamiltonian or a ForcedSystem, or write a coupling for it (subclass AbstractCoupling); "
            "GibbsCoupling() draws from exp(-H) where the energy is a hamflow.AbstractEnergy"
        )
    return system


def _drawable(system: AbstractSystem) -> AbstractEnergy:
    """The energy of a system that has no kinetic energy of its own."""
    energy = system.energy_function if isinstance(system, NonSeparableHamiltonian) else None
    if not isinstance(energy, AbstractEnergy):
        what = type(system).__name__ if energy is None else f"{type(system).__name__} of a bare function"
        raise ValueError(
            f"GibbsCoupling cannot draw momenta from exp(-H) for this {what}: make its energy a "
            "hamflow.AbstractEnergy (subclass it and write `sample`), or write a coupling for it (subclass "
            "AbstractCoupling)"
        )
    return energy
