"""What pushes: a force, and the potential it may come from.

A potential is one method. Three known systems expressed as one:

- free motion, `energy = 0`;
- an oscillator, `energy = |frequency x|^2 / 2`;
- Hamiltonian Monte Carlo's, `energy = -log density`.

The type says who conserves energy: a potential does, a bare force need not.
"""

import abc
from typing import TYPE_CHECKING, Any, ClassVar, final, overload

import jax
import jax.numpy as jnp

from .._module import AbstractModule
from .._parameters import as_parameter
from .._types import Array, Float, Scalar, ScalarLike

if TYPE_CHECKING:
    from .combined import ScaledForce, ScaledPotential, SumForce, SumPotential


class AbstractForce(AbstractModule):
    """A force field F(t, x), dp/dt = F.

    To add a force without an energy, subclass this and write `force`. With an energy, subclass `AbstractPotential`.

    Forces and potentials add (`a + b`, `a - b`) and scale by a number or a scalar array (`2.0 * a`, `a / 2.0`, `-a`).
    What is made of potentials is a potential; a sum that contains a bare force is a force (`combined.py`).
    """

    __array_ufunc__: ClassVar[None] = None  # numpy's numbers leave `number * a` to the methods below

    @abc.abstractmethod
    def force(self, t: ScalarLike, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """F(t, x), of the position's shape and dtype."""

    @overload
    def __add__(self: "AbstractPotential", other: "AbstractPotential") -> "SumPotential": ...
    @overload
    def __add__(self, other: "AbstractForce") -> "SumPotential | SumForce": ...
    def __add__(self, other: Any) -> "AbstractForce":
        """The sum: a potential if both are potentials, else a force."""
        from .combined import add  # its classes are subclasses of this one

        return add(self, other) if isinstance(other, AbstractForce) else NotImplemented

    def __radd__(self, other: Any) -> "AbstractForce":
        """Itself for 0, where the builtin `sum` starts."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    @overload
    def __sub__(self: "AbstractPotential", other: "AbstractPotential") -> "SumPotential": ...
    @overload
    def __sub__(self, other: "AbstractForce") -> "SumPotential | SumForce": ...
    def __sub__(self, other: Any) -> "AbstractForce":
        """The difference, as a sum with `-other`."""
        return self + (-other) if isinstance(other, AbstractForce) else NotImplemented

    @overload
    def __mul__(self: "AbstractPotential", factor: ScalarLike) -> "ScaledPotential": ...
    @overload
    def __mul__(self, factor: ScalarLike) -> "ScaledPotential | ScaledForce": ...
    def __mul__(self, factor: Any) -> "AbstractForce":
        """The product with a number or a scalar array: a potential if this is one, else a force."""
        from .combined import scale

        return NotImplemented if isinstance(factor, AbstractForce) else scale(self, factor)

    @overload
    def __rmul__(self: "AbstractPotential", factor: ScalarLike) -> "ScaledPotential": ...
    @overload
    def __rmul__(self, factor: ScalarLike) -> "ScaledPotential | ScaledForce": ...
    def __rmul__(self, factor: Any) -> "AbstractForce":
        """`self * factor`."""
        return self * factor

    @overload
    def __truediv__(self: "AbstractPotential", divisor: ScalarLike) -> "ScaledPotential": ...
    @overload
    def __truediv__(self, divisor: ScalarLike) -> "ScaledPotential | ScaledForce": ...
    def __truediv__(self, divisor: Any) -> "AbstractForce":
        """The product with 1 / divisor."""
        return NotImplemented if isinstance(divisor, AbstractForce) else self * (1.0 / as_parameter(divisor, "divisor"))

    @overload
    def __neg__(self: "AbstractPotential") -> "ScaledPotential": ...
    @overload
    def __neg__(self) -> "ScaledPotential | ScaledForce": ...
    def __neg__(self) -> "AbstractForce":
        """The product with -1."""
        return self * -1.0


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
