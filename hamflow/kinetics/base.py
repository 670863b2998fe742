"""Kinetic energies: what moves. The momentum law is p ~ exp(-K(p))."""

import abc
from typing import TYPE_CHECKING

from .._module import AbstractModule
from .._types import Array, Float, PRNGKeyArray, Scalar

if TYPE_CHECKING:  # type checkers know the plain class variable
    from typing import ClassVar as AbstractClassVar
else:
    from equinox import AbstractClassVar


class AbstractKinetic(AbstractModule):
    """A kinetic energy K(p), even in p.

    To add one, write the six methods below, and say in the class variable `reaches_every_velocity` whether
    `momentum(v)` exists for every v (the speed of light says no).
    """

    reaches_every_velocity: AbstractClassVar[bool]

    @abc.abstractmethod
    def energy(self, momentum: Float[Array, "*event"]) -> Scalar:
        """K(p), a scalar."""

    @abc.abstractmethod
    def velocity(self, momentum: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """v = dx/dt = grad K(p)."""

    @abc.abstractmethod
    def momentum(self, velocity: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """The p with grad K(p) = v, the inverse of `velocity`."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """One momentum of shape `shape` from the density exp(-K(p)) / Z, in jax's default float."""

    @abc.abstractmethod
    def is_even_in_each(self, shape: tuple[int, ...] | None = None) -> bool:
        """Whether K keeps its value when one momentum coordinate alone changes sign, as a wall asks.

        `shape` is the shape of one momentum where it is known; without it the answer is what the parameters suggest.
        """

    @abc.abstractmethod
    def is_isotropic(self) -> bool:
        """Whether K is a function of |p| alone, as a wall in any direction asks."""
