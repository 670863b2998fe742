"""Energies in which position and momentum mix, for `NonSeparableHamiltonian`.

An energy is one method, H(t, x, p); a second one draws p from exp(-H) where the position is known, which is how a flow
starts. Three known ones expressed as one:

- a charge in a magnetic field, |p - q A(x)|^2 / 2m + U (`MagneticEnergy`);
- a mass that depends on the position, p^T G(x)^-1 p / 2 + log det G(x) / 2 + U (`RiemannianEnergy`);
- a separable one, U + K: use `Hamiltonian`, which has splittings and closed forms.
"""

import abc
from collections.abc import Callable
from typing import Any, final

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike

from . import _linear as linear
from ._factorisations import in_single, solve_lower
from ._module import AbstractModule
from ._parameters import as_parameter, cast, require
from ._types import Array, Float, PRNGKeyArray, Scalar, ScalarLike, checked
from .potentials.base import AbstractPotential
from .potentials.function import as_callable


class AbstractEnergy(AbstractModule):
    """An energy H(t, x, p) whose momenta can be drawn.

    To add one, write the two methods below. With `hamflow.GibbsCoupling` a flow then starts from exp(-H).

    Example:
        ```python
        class Relative(hf.AbstractEnergy):
            drift: float  # H = |p - drift x|^2 / 2

            def __call__(self, t, position, momentum):
                return 0.5 * jnp.sum((momentum - self.drift * position) ** 2)

            def sample(self, key, position):
                return self.drift * position + jr.normal(key, position.shape, position.dtype)
        ```
    """

    @abc.abstractmethod
    def __call__(self, t: ScalarLike, position: Float[Array, "*event"], momentum: Float[Array, "*event"]) -> Scalar:
        """H(t, x, p), a scalar in the position's dtype."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """One momentum from the density exp(-H(0, x, p)) / Z(x), of the position's shape and dtype: an exact draw."""


@final
class MagneticEnergy(AbstractEnergy):
    """H = |p - q A(x)|^2 / 2m + U(t, x): a charge in a uniform magnetic field, with the symmetric gauge for A.

    Args:
        potential: U.
        field: B. A number for positions of shape `(2,)`: it points out of the plane, A = B (-y, x) / 2. An array of
            shape `(3,)` for positions of that shape: A = B x r / 2.
        mass: m, a positive number.
        charge: q, a number.

    Without a potential a charge of speed v moves on a circle of radius m v / (|q B|), once in 2 pi m / (|q B|); a
    positive q B turns it clockwise in the plane (Landau and Lifshitz, The Classical Theory of Fields, sections 16, 21).
    The field does no work and leaves the law of x alone: the x-marginal of exp(-H) is exp(-U).

    Raises:
        ValueError: a field of another shape, a mass that is not a positive number, a charge that is no number.
    """

    potential: AbstractPotential
    field: float | Float[Array, "..."]
    mass: float | Float[Array, ""]
    charge: float | Float[Array, ""]

    @checked
    def __init__(
        self,
        potential: AbstractPotential,
        field: ArrayLike,
        mass: ScalarLike | Float[Array | np.ndarray, ""] = 1.0,
        charge: ScalarLike | Float[Array | np.ndarray, ""] = 1.0,
    ):
        self.potential, self.field = potential, as_parameter(field, "field")
        self.mass, self.charge = as_parameter(mass, "mass"), as_parameter(charge, "charge")
        if jnp.shape(self.field) not in ((), (3,)):
            raise ValueError(
                f"field must be a number (positions in the plane) or an array of shape (3,) (in space), got shape "
                f"{jnp.shape(self.field)}"
            )
        require(self.mass, lambda m: m > 0, f"mass must be positive, got {self.mass}")

    def __call__(self, t: ScalarLike, position: Float[Array, "*event"], momentum: Float[Array, "*event"]) -> Scalar:
        kinetic = momentum - self._field_momentum(position)
        return 0.5 * jnp.sum(kinetic**2) / cast(self.mass, position.dtype) + self.potential.energy(t, position)

    def sample(self, key: PRNGKeyArray, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        spread = cast(linear.factor(linear.Scaling(self.mass)).value, position.dtype)
        return self._field_momentum(position) + spread * jr.normal(key, position.shape, position.dtype)

    def velocity(self, position: Float[Array, "*event"], momentum: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """v = (p - q A(x)) / m."""
        return (momentum - self._field_momentum(position)) / cast(self.mass, position.dtype)

    def momentum(self, position: Float[Array, "*event"], velocity: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """p = m v + q A(x), the inverse of `velocity`."""
        return cast(self.mass, position.dtype) * velocity + self._field_momentum(position)

    def _field_momentum(self, position: Array) -> Array:
        """q A(x)."""
        shape = jnp.shape(self.field) or (2,)
        if position.shape != shape:
            raise ValueError(
                f"a field of shape {jnp.shape(self.field)} acts on positions of shape {shape}, got {position.shape}: "
                "give a number in the plane and an array of shape (3,) in space"
            )
        half = 0.5 * cast(self.charge, position.dtype) * cast(self.field, position.dtype)
        if shape == (2,):
            return half * jnp.stack([-position[1], position[0]])
        return jnp.cross(half, position)


@final
class RiemannianEnergy(AbstractEnergy):
    """H = U(t, x) + p^T G(x)^-1 p / 2 + log det G(x) / 2: a mass that depends on the position.

    Args:
        potential: U.
        metric: `metric(position)` gives G: a positive number, an array of the position's shape (diagonal), or of
            `shape + shape` (a symmetric positive definite matrix; of another only the symmetric part counts). Any
            callable, a Module if it has parameters.

    p | x ~ N(0, G(x)), and the x-marginal of exp(-H) is exp(-U) whatever G is (Girolami and Calderhead 2011, "Riemann
    manifold Langevin and Hamiltonian Monte Carlo methods", whose constant is left out). A metric that is not positive
    somewhere makes the energy NaN there, which every integrator reports.

    Raises:
        TypeError: a metric that cannot be called.
        ValueError: where it is used, a metric of another shape.
    """

    potential: AbstractPotential
    metric: Callable[[Array], Any]

    @checked
    def __init__(self, potential: AbstractPotential, metric: Callable[..., Any]):
        self.potential, self.metric = potential, as_callable(metric, "metric")

    def __call__(self, t: ScalarLike, position: Float[Array, "*event"], momentum: Float[Array, "*event"]) -> Scalar:
        root = self._root(position)
        half_log_det = _log_det(root, position.size)
        return self.potential.energy(t, position) + 0.5 * jnp.sum(_solve(root, momentum) ** 2) + half_log_det

    def sample(self, key: PRNGKeyArray, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        return linear.apply(self._root(position), jr.normal(key, position.shape, position.dtype))

    def velocity(self, position: Float[Array, "*event"], momentum: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """v = G(x)^-1 p."""
        root = self._root(position)
        return _solve(root, _solve(root, momentum), transposed=True)

    def momentum(self, position: Float[Array, "*event"], velocity: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """p = G(x) v, the inverse of `velocity`."""
        root = self._root(position)
        return linear.apply(root, linear.apply(linear.transpose(root), velocity))

    def _root(self, position: Array) -> linear.Operator:
        """L with L L^T = G(x)."""
        value = jnp.asarray(self.metric(position))
        return linear.factor(linear.as_operator(value, position.shape, position.dtype, "metric"))


def _solve(root: linear.Operator, x: Array, *, transposed: bool = False) -> Array:
    """L^-1 x or L^-T x."""
    if not isinstance(root, linear.Dense):
        return x / root.value
    flat = in_single(lambda lower, b: solve_lower(lower, b, transposed), root.matrix, x.reshape(-1))
    return flat.reshape(x.shape)


def _log_det(root: linear.Operator, size: int) -> Array:
    """log det L = log det G / 2, NaN where G is not positive."""
    match root:
        case linear.Scaling(value=value):
            return size * jnp.log(value)
        case linear.Diagonal(value=value):
            return jnp.sum(jnp.log(value))
        case _:
            return jnp.sum(jnp.log(jnp.diagonal(linear.matrix_of(root, (size,), float))))
