"""Domains: where the particle lives, and what a step does at the edge."""

import abc
from typing import TYPE_CHECKING, ClassVar, final

import jax.numpy as jnp
from jax.typing import ArrayLike

from ._module import AbstractModule
from ._parameters import as_parameter, fit, require
from ._types import Array, Float, checked

if TYPE_CHECKING:  # type checkers know the plain class variable
    from typing import ClassVar as AbstractClassVar
else:
    from equinox import AbstractClassVar


class AbstractDomain(AbstractModule):
    """A region of position space whose free motion is a straight line, folded back into the region.

    To add one, write the three methods below. `flips_momentum` says whether a fold changes momenta at all (a wall),
    which at least asks for a kinetic energy that is even in each coordinate. Set `rotates_momentum` too where a fold
    mixes coordinates (a wall that is no coordinate plane): only a kinetic energy of |p| alone survives that.
    """

    flips_momentum: AbstractClassVar[bool]
    rotates_momentum: ClassVar[bool] = False

    @abc.abstractmethod
    def fold(
        self, position: Float[Array, "*event"], momentum: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, "*event"]]:
        """The point of the domain that an unfolded position stands for, and the momentum carried there."""

    @abc.abstractmethod
    def extend(self, position: Float[Array, "*event"], velocity: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """Carry a velocity at the folded point back to the unfolded `position`: the inverse of `fold` on vectors.

        With it a velocity field on the domain becomes a continuous field on all of space, which any solver can follow.
        """

    @abc.abstractmethod
    def contains(self, position: Float[Array, "*event"]) -> Array:
        """Whether the position is in the domain; its boundary is. A boolean scalar; a NaN is in no domain but space."""

    def step(
        self,
        position: Float[Array, "*event"],
        momentum: Float[Array, "*event"],
        displacement: Float[Array, "*event"],
    ) -> tuple[Float[Array, "*event"], Float[Array, "*event"]]:
        """Move by a displacement of any size, with all the folds on the way."""
        return self.fold(position + displacement, momentum)


@final
class Euclidean(AbstractDomain):
    """All of space: a step is a plain addition."""

    flips_momentum: ClassVar[bool] = False

    def fold(
        self, position: Float[Array, "*event"], momentum: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, "*event"]]:
        return position, momentum

    def extend(self, position: Float[Array, "*event"], velocity: Float[Array, "*event"]) -> Float[Array, "*event"]:
        return velocity

    def contains(self, position: Float[Array, "*event"]) -> Array:
        return jnp.asarray(True)


@final
class Box(AbstractDomain):
    """lower <= x <= upper with walls: a particle that meets a wall comes back, that momentum coordinate turned round.

    Args:
        lower: the lower walls, a number or an array of the position's shape.
        upper: the upper walls, likewise, above `lower` in every coordinate.

    With u = (x - lower) mod 2L, L = upper - lower, a folded point is lower + min(u, 2L - u), and its momentum keeps
    its sign where u <= L.

    Raises:
        ValueError: a lower wall that is not below the upper one.
    """

    lower: float | Float[Array, "..."]
    upper: float | Float[Array, "..."]

    flips_momentum: ClassVar[bool] = True

    @checked
    def __init__(self, lower: ArrayLike, upper: ArrayLike):
        self.lower, self.upper = _bounds(lower, upper, "Box")

    def fold(
        self, position: Float[Array, "*event"], momentum: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, "*event"]]:
        lower, upper = _bounds_of(self, position)
        length = upper - lower
        u = jnp.mod(position - lower, 2.0 * length)
        folded = lower + jnp.where(u > length, 2.0 * length - u, u)
        # Rounding may leave a point one unit in the last place outside; a `where` keeps the gradient of the rest.
        folded = jnp.where(folded > upper, upper, jnp.where(folded < lower, lower, folded))
        return folded, jnp.where(u > length, -momentum, momentum)

    def extend(self, position: Float[Array, "*event"], velocity: Float[Array, "*event"]) -> Float[Array, "*event"]:
        return self.fold(position, velocity)[1]  # a reflection is its own inverse

    def contains(self, position: Float[Array, "*event"]) -> Array:
        return _within(self, position)


@final
class Torus(AbstractDomain):
    """lower <= x <= upper with the ends glued together: a particle that leaves on one side enters on the other.

    Args:
        lower: the lower ends, a number or an array of the position's shape.
        upper: the upper ends, likewise, above `lower` in every coordinate; the same points as the lower ends.

    Raises:
        ValueError: a lower end that is not below the upper one.
    """

    lower: float | Float[Array, "..."]
    upper: float | Float[Array, "..."]

    flips_momentum: ClassVar[bool] = False

    @checked
    def __init__(self, lower: ArrayLike, upper: ArrayLike):
        self.lower, self.upper = _bounds(lower, upper, "Torus")

    def fold(
        self, position: Float[Array, "*event"], momentum: Float[Array, "*event"]
    ) -> tuple[Float[Array, "*event"], Float[Array, "*event"]]:
        lower, upper = _bounds_of(self, position)
        length = upper - lower
        u = jnp.mod(position - lower, length)
        # A tiny negative offset rounds to the whole length, which is the lower end again.
        return lower + jnp.where(u >= length, u - length, u), momentum

    def extend(self, position: Float[Array, "*event"], velocity: Float[Array, "*event"]) -> Float[Array, "*event"]:
        return velocity

    def contains(self, position: Float[Array, "*event"]) -> Array:
        return _within(self, position)


def _bounds(lower, upper, name: str):
    lower, upper = as_parameter(lower, f"{name} lower"), as_parameter(upper, f"{name} upper")
    shapes = {jnp.shape(lower), jnp.shape(upper)} - {()}
    if len(shapes) > 1:
        raise ValueError(f"{name}: lower has shape {jnp.shape(lower)} and upper {jnp.shape(upper)}; they must agree")
    message = f"{name}: lower must be below upper in every coordinate, got {lower} and {upper}"
    require((lower, upper), lambda bounds: bounds[0] < bounds[1], message)
    return lower, upper


def _bounds_of(domain: Box | Torus, position: Array):
    """The bounds in the position's dtype; they have its shape, or are numbers."""
    name, shape, dtype = type(domain).__name__, position.shape, position.dtype
    return fit(domain.lower, shape, dtype, f"{name} lower"), fit(domain.upper, shape, dtype, f"{name} upper")


def _within(domain: Box | Torus, position: Array) -> Array:
    lower, upper = _bounds_of(domain, position)
    return jnp.all((position >= lower) & (position <= upper))
