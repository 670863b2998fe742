"""What pushes: a force, and the potential it may come from.

A potential is one method. Three known systems expressed as one:

- free motion, `energy = 0`;
- an oscillator, `energy = |frequency x|^2 / 2`;
- Hamiltonian Monte Carlo's, `energy = -log density`.

The type says who conserves energy: a potential does, a bare force need not.
"""

import abc
from typing import final

import jax
import jax.numpy as jnp

from .._module import AbstractModule
from .._types import Array, Float, Scalar, ScalarLike


class AbstractForce(AbstractModule):
    """A force field F(t, x), dp/dt = F.

    To add a force without an energy, subclass this and write `force`. With an energy, subclass `AbstractPotential`.
    """

    @abc.abstractmethod
    def force(self, t: ScalarLike, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """F(t, x), of the position's shape and dtype."""


class AbstractPotential(AbstractForce):
    """A potential energy U(t, x), whose force is -grad U.

    To add one, subclass this and write `energy`; parameters are fields. If the motion has a closed form, inherit from
    `AbstractSolvable` too.

    Example:
        ```python
        class Quartic(hf.AbstractPotential):
            strength: float

            def energy(self, t, position):
                return self.strength * jnp.sum(position**4)
        ```
    """

    @abc.abstractmethod
    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        """U(t, x), a scalar in the position's dtype."""

    @final
    def force(self, t: ScalarLike, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """F = -grad U, by automatic differentiation (final: do not override)."""

        def energy(position: Float[Array, "*event"]) -> Scalar:
            value = self.energy(t, position)
            if jnp.shape(value) != ():
                raise ValueError(
                    f"{type(self).__name__}.energy returned shape {jnp.shape(value)} for one position of shape "
                    f"{position.shape}; an energy is one number: sum over the coordinates"
                )
            return value

        return -jax.grad(energy)(position)
