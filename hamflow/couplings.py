"""Couplings: how it starts. The law of the first momentum given the data.

A coupling sees a batch, since some (minibatch optimal transport) need one. Four known ones expressed as one:

- independent: p_0 ~ exp(-K), whatever the data (diffusion, oscillation, reflection, HMC);
- Student-t: independent as well, with heavier tails (PFGM, PFGM++);
- Gibbs: p_0 ~ exp(-H(0, x_0, p)), which depends on the datum where position and momentum mix;
- conditional optimal transport: the velocity that leads to a draw of the prior in a straight line (flow matching).

Two more lead to draws of the prior that depend on the data: `MinibatchOTCoupling` and `ReflowCoupling`.
"""

import abc
import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from . import _linear as linear
from ._module import AbstractModule
from ._parameters import cast, is_concrete
from ._types import Array, Float, PRNGKeyArray, ScalarLike, checked
from .energies import AbstractEnergy
from .kinetics import GaussianKinetic
from .priors import NormalPrior, Prior, as_degrees_of_freedom, student_t
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


class AbstractConditionalCoupling(AbstractCoupling):
    """A coupling whose momenta depend on more than a row's own datum, so that it must be told the conditions.

    Generation draws x_T from the prior whatever the condition. So x_T given the condition must have the distribution of
    the prior, and a coupling that pairs rows of several classes breaks that: samples of a class come out wrong.
    """

    @abc.abstractmethod
    def sample_given(
        self,
        condition: Any,
        key: PRNGKeyArray,
        data: Float[Array, "batch *event"],
        system: AbstractSystem,
        prior: Prior,
        horizon: float | Array,
    ) -> PhaseState:
        """First states of a batch as `sample` draws them, with one condition a row, or None."""


class AbstractAffineCoupling(AbstractCoupling):
    """p_0 = alpha x_0 + beta e, with e of zero mean and unit covariance, independent of x_0."""

    @abc.abstractmethod
    def noise_is_normal(self) -> bool:
        """Whether e is normal, wherever there is such a form.

        Coefficients, scalings and denoisers ask for two moments of e only; scores and what follows from them ask for a
        normal e.
        """

    @abc.abstractmethod
    def momentum_coefficients(
        self, system: AbstractSystem, prior: Prior, horizon: float | Array, shape: tuple[int, ...] | None, dtype
    ) -> tuple[linear.Operator, linear.Operator] | None:
        """(alpha, beta), or None where this prior or kinetic energy does not give such a form."""


@final
class IndependentCoupling(AbstractAffineCoupling):
    """p_0 ~ exp(-K(p)), independent of the data."""

    def noise_is_normal(self) -> bool:
        return True

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

    def noise_is_normal(self) -> bool:
        return True

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

    def noise_is_normal(self) -> bool:
        return True

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


@final
class StudentTCoupling(AbstractAffineCoupling):
    """p_0 = M^1/2 z, independent of the data, z = n sqrt(nu / chi2_nu) with n white and one chi2 an example.

    z is multivariate Student-t with nu degrees of freedom: momenta whose size has heavy tails, for a `GaussianKinetic`
    of mass M. For nu -> infinity this is `IndependentCoupling`.

    With no force and unit mass x_t = x_0 + t z is PFGM++ in D = nu extra dimensions (Xu et al. 2023), and for D = 1
    PFGM (Xu et al. 2022): the law of x_t given x_0 is its kernel, (|x_t - x_0|^2 + r^2)^(-(N + D) / 2) in N coordinates
    up to a constant, with r = t sqrt(D) (derived here). `hamflow.poisson_flow` is that flow.

    e = z sqrt((nu - 2) / nu) is white and not normal. For nu <= 2 the variance is infinite, and the flow is not linear:
    no scalings by formula, and moments measured by `Preconditioned.from_data` depend on the draws.

    Args:
        degrees_of_freedom: nu, one positive number; above 2 to train.

    Raises:
        ValueError: degrees of freedom that are not positive; in a flow, a kinetic energy that is not quadratic.
    """

    degrees_of_freedom: float | Float[Array, ""]
    _has_variance: bool = eqx.field(static=True, repr=False)

    def noise_is_normal(self) -> bool:
        return False

    @checked
    def __init__(self, degrees_of_freedom: ScalarLike | Float[Array | np.ndarray, ""]):
        self.degrees_of_freedom = nu = as_degrees_of_freedom(degrees_of_freedom)
        # Decided here, where the number is known, so that traced and concrete code agree.
        self._has_variance = not is_concrete(nu) or float(nu) > 2.0

    def sample(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "batch *event"],
        system: AbstractSystem,
        prior: Prior,
        horizon: float | Array,
    ) -> PhaseState:
        def draw(key: PRNGKeyArray) -> Array:
            z = student_t(key, self.degrees_of_freedom, data.shape[1:])
            return linear.apply(self._root(system, z.shape, z.dtype), z)

        return PhaseState(data, jax.vmap(draw)(jr.split(key, data.shape[0])).astype(data.dtype))

    def require_system(self, system: AbstractSystem) -> None:
        kinetic = _separable(system).kinetic
        if not isinstance(kinetic, GaussianKinetic):
            raise ValueError(
                f"StudentTCoupling draws M^1/2 z for a GaussianKinetic of mass M, got {type(kinetic).__name__}: use "
                "GaussianKinetic; or IndependentCoupling, with StudentTKinetic for heavy tails in each coordinate"
            )

    def momentum_coefficients(
        self, system: AbstractSystem, prior: Prior, horizon: float | Array, shape: tuple[int, ...] | None, dtype
    ) -> tuple[linear.Operator, linear.Operator] | None:
        known = is_concrete(self.degrees_of_freedom)  # a number that was replaced since counts, not that of the build
        if not (float(self.degrees_of_freedom) > 2.0 if known else self._has_variance):
            return None
        nu = cast(self.degrees_of_freedom, dtype)
        deviation = math.sqrt(nu / (nu - 2.0)) if isinstance(nu, float) else jnp.sqrt(nu / (nu - 2.0))
        return linear.Scaling(0.0), linear.compose(self._root(system, shape, dtype), linear.Scaling(deviation))

    def _root(self, system: AbstractSystem, shape: tuple[int, ...] | None, dtype) -> linear.Operator:
        kinetic = _separable(system).kinetic
        assert isinstance(kinetic, GaussianKinetic)  # refused when the flow was built
        return linear.factor(linear.as_operator(kinetic.mass, shape, dtype, "mass"))


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
