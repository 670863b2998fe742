"""Hamiltonian Monte Carlo: a potential and a kinetic energy in the form that blackjax takes.

HMC and NUTS follow H = U + K for a while and then accept or reject the end by its energy, so that the law is exp(-U)
whatever the step. They ask for a log density and for what blackjax calls a metric: the law of the momentum, its energy,
and when a path turns back. A potential and a kinetic energy are just that. blackjax is optional (`hamflow[mcmc]`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, final

import jax.numpy as jnp

from .. import _linear as linear
from .._types import Array, ScalarLike, checked
from ..kinetics import AbstractKinetic, GaussianKinetic
from ..potentials.base import AbstractForce, AbstractPotential

P = ParamSpec("P")
R = TypeVar("R")


@final
@dataclasses.dataclass(frozen=True)
class BlackjaxTarget:
    """A law to sample from, in blackjax's words; `to_blackjax` makes it.

    Args:
        logdensity_fn: x -> -U(t, x), for one position of any shape.
        metric: a `blackjax.mcmc.metrics.Metric` of the kinetic energy, for blackjax's `inverse_mass_matrix`.
    """

    logdensity_fn: Callable[[Array], Array]
    metric: Any

    def hmc(self, step_size: float, num_integration_steps: int, **options: Any) -> Any:
        """`blackjax.hmc` of this target: `.init(position)` gives a state, `.step(key, state)` the next and its info.

        Args:
            step_size: of the leapfrog, in the system's unit of time.
            num_integration_steps: leapfrog steps a proposal.
            **options: blackjax's own, such as `divergence_threshold` or `integrator`.
        """
        return _blackjax().hmc(self.logdensity_fn, step_size, self.metric, num_integration_steps, **options)

    def nuts(self, step_size: float, **options: Any) -> Any:
        """`blackjax.nuts` of this target, which finds the number of steps itself: `.init` and `.step` as in `hmc`.

        Args:
            step_size: of the leapfrog, in the system's unit of time.
            **options: blackjax's own, such as `max_num_doublings`.
        """
        return _blackjax().nuts(self.logdensity_fn, step_size, self.metric, **options)


def _refuse_bare_force(function: Callable[P, R]) -> Callable[P, R]:
    """Advice before the type check, which would only say that the type is wrong."""

    @functools.wraps(function)
    def advised(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0] if args else kwargs.get("potential")
        if isinstance(first, AbstractForce) and not isinstance(first, AbstractPotential):
            raise TypeError(
                f"{type(first).__name__} is a force without an energy, and HMC and NUTS accept or reject by an energy: "
                "give an AbstractPotential. Valid for a bare force are hamflow.langevin, which does not correct its "
                "steps, and a Flow of hamflow.ForcedSystem(force, kinetic)"
            )
        return function(*args, **kwargs)

    return advised


@_refuse_bare_force
@checked
def to_blackjax(
    potential: AbstractPotential,
    kinetic: AbstractKinetic = GaussianKinetic(),  # noqa: B008
    t: ScalarLike = 0.0,
) -> BlackjaxTarget:
    """The law exp(-U(t, x)) and a kinetic energy, for blackjax's HMC and NUTS.

    Positions have any one shape, as everywhere in hamflow, and live in all of space: what is to stay in a box needs a
    change of variables first. Masses are read as `GaussianKinetic` reads them for a position of that shape.

    Args:
        potential: U; its constant does not matter.
        kinetic: K. A mass is blackjax's inverse `inverse_mass_matrix`, so a good one is the inverse of the law's
            covariance. A kinetic energy of your own gets flattened momenta in NUTS.
        t: the time at which U is taken.

    Returns:
        A `BlackjaxTarget`.

    Raises:
        TypeError: a bare force, which has no energy to accept or reject by; another argument of the wrong kind.
        ImportError: blackjax is not installed.

    Example:
        ```python
        chain = hf.to_blackjax(potential, hf.GaussianKinetic(2.0)).nuts(step_size=0.3)
        state = chain.init(position)
        state, info = jax.jit(chain.step)(key, state)
        ```
    """
    metric = _blackjax().mcmc.metrics.Metric
    velocity = _gaussian_velocity(kinetic) if isinstance(kinetic, GaussianKinetic) else kinetic.velocity

    def logdensity(position: Array) -> Array:
        return -potential.energy(t, position)

    def sample_momentum(key: Array, position: Array) -> Array:
        return kinetic.sample(key, position.shape).astype(position.dtype)

    def kinetic_energy(momentum: Array, position: Array | None = None) -> Array:
        if isinstance(kinetic, GaussianKinetic):
            return 0.5 * jnp.sum(momentum * velocity(momentum))
        return kinetic.energy(momentum)

    def check_turning(left: Array, right: Array, total: Array, *positions: Any) -> Array:
        # A path turns where its whole momentum points against the velocity at one of its ends; the ends count half
        # (Betancourt 2013, "Generalizing the No-U-Turn sampler to Riemannian manifolds").
        rho = total - 0.5 * (left + right)
        return (jnp.sum(velocity(left) * rho) <= 0) | (jnp.sum(velocity(right) * rho) <= 0)

    def scale(position: Array, element: Array, *, inv: bool, trans: bool) -> Array:
        # L or its inverse, with L L^T the mass; HMC and NUTS do not ask for it.
        if not isinstance(kinetic, GaussianKinetic):
            raise NotImplementedError(
                f"this sampler scales by the root of a mass matrix, which {type(kinetic).__name__} does not have: use "
                "GaussianKinetic, or HMC or NUTS"
            )
        root = linear.factor(linear.as_operator(kinetic.mass, position.shape, element.dtype, "mass"))
        root = linear.inverse(root) if inv else root
        return linear.apply(linear.transpose(root) if trans else root, element)

    return BlackjaxTarget(logdensity, metric(sample_momentum, kinetic_energy, check_turning, scale))


def _gaussian_velocity(kinetic: GaussianKinetic) -> Callable[[Array], Array]:
    """M^-1 p for momenta of the position's shape or flattened, as NUTS keeps them; a matrix is inverted once."""
    mass = kinetic.mass
    inverse = None
    if not kinetic.is_even_in_each():
        size = math.isqrt(math.prod(jnp.shape(mass)))
        matrix = jnp.asarray(mass).reshape(size, size)
        inverse = linear.inverse(linear.Dense(matrix, (size,)))

    def velocity(momentum: Array) -> Array:
        flat = momentum.reshape(-1)
        # n^2 numbers are a matrix and n a diagonal; the draw of the momentum has checked the shape itself.
        if inverse is not None and flat.size**2 == math.prod(jnp.shape(mass)):
            return linear.apply(inverse, flat).reshape(momentum.shape)
        value = jnp.asarray(mass).reshape(-1) if jnp.ndim(mass) else mass
        return (flat / linear.as_operator(value, flat.shape, flat.dtype, "mass").value).reshape(momentum.shape)

    return velocity


def _blackjax() -> Any:
    try:
        import blackjax
    except ImportError as error:
        raise ImportError("HMC and NUTS come from blackjax: pip install blackjax, or hamflow[mcmc]") from error
    return blackjax
