"""Potentials and forces made of others: sums, scalings, temperature, time.

The type keeps the truth: what is made of potentials is a potential and has an energy; a sum that contains a bare force
is a force. The operators choose: `a + b`, `a - b`, `2.0 * a`, `a / 2.0` and `-a`.

A combination has no closed form, even where its parts have one: what moves in closed form is a single harmonic or zero
potential with its own parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any, final

import jax.numpy as jnp
import numpy as np

from .._parameters import as_parameter, cast, require
from .._types import Array, Float, Scalar, ScalarLike, checked
from .base import AbstractForce, AbstractPotential
from .function import as_callable

Number = ScalarLike | Float[Array | np.ndarray, ""]


@final
class SumPotential(AbstractPotential):
    """U = U_1 + U_2 + ...

    Args:
        parts: one potential or more.

    Raises:
        TypeError: a part that is not a potential (with a bare force, use `SumForce`).
        ValueError: no part.
    """

    parts: tuple[AbstractPotential, ...]

    def __init__(self, parts: Sequence[AbstractForce]):
        self.parts = tuple(_require_potential(part, "SumForce") for part in _parts(parts))

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        first, *rest = (part.energy(t, position) for part in self.parts)
        return sum(rest, start=first)


@final
class SumForce(AbstractForce):
    """F = F_1 + F_2 + ..., of bare forces and potentials alike; it has no energy.

    Args:
        parts: one force or more.

    Raises:
        TypeError: a part that is neither a force nor a potential.
        ValueError: no part.
    """

    parts: tuple[AbstractForce, ...]

    def __init__(self, parts: Sequence[AbstractForce]):
        self.parts = tuple(_require_force(part) for part in _parts(parts))

    def force(self, t: ScalarLike, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        first, *rest = (part.force(t, position) for part in self.parts)
        return sum(rest, start=first)


@final
class ScaledPotential(AbstractPotential):
    """factor U.

    Args:
        potential: U.
        factor: a number or a scalar array, of either sign.

    Raises:
        TypeError: something that is not a potential (with a bare force, use `ScaledForce`).
    """

    potential: AbstractPotential
    factor: float | Float[Array, ""]

    @checked
    def __init__(self, potential: AbstractForce, factor: Number):
        self.potential = _require_potential(potential, "ScaledForce")
        self.factor = as_parameter(factor, "factor")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        return cast(self.factor, position.dtype) * self.potential.energy(t, position)


@final
class ScaledForce(AbstractForce):
    """factor F; it has no energy.

    Args:
        force: F, a force or a potential.
        factor: a number or a scalar array, of either sign.
    """

    part: AbstractForce
    factor: float | Float[Array, ""]

    @checked
    def __init__(self, force: AbstractForce, factor: Number):
        self.part, self.factor = force, as_parameter(factor, "factor")

    def force(self, t: ScalarLike, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        return cast(self.factor, position.dtype) * self.part.force(t, position)


@final
class TemperedPotential(AbstractPotential):
    """U / temperature, so that exp(-U / temperature) is the density that unit temperature belongs to.

    Args:
        potential: U.
        temperature: k T in the unit of U; positive. Above 1 it flattens, below 1 it sharpens.

    Raises:
        TypeError: something that is not a potential: a bare force has no density.
        ValueError: a temperature that is not positive.
    """

    potential: AbstractPotential
    temperature: float | Float[Array, ""]

    @checked
    def __init__(self, potential: AbstractForce, temperature: Number):
        self.potential = _require_potential(potential, "ScaledForce(force, 1 / temperature)")
        self.temperature = as_parameter(temperature, "temperature")
        require(self.temperature, lambda T: T > 0, f"temperature must be positive, got {temperature}")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        return self.potential.energy(t, position) / cast(self.temperature, position.dtype)


@final
class TimeDependentPotential(AbstractPotential):
    """U(t, x) = schedule(t) U(t, x): switched on, off, or shaken. Its energy changes along the motion.

    Args:
        potential: U.
        schedule: called as `schedule(t)`, t a scalar in the position's dtype, returning a scalar; an `eqx.Module` if
            it has parameters.

    Raises:
        TypeError: something that is not a potential (with a bare force, use `TimeDependentForce`), a schedule that
            cannot be called.
        ValueError: a schedule that does not return a scalar.
    """

    potential: AbstractPotential
    schedule: Callable[..., Any]

    @checked
    def __init__(self, potential: AbstractForce, schedule: Callable[..., Any]):
        self.potential = _require_potential(potential, "TimeDependentForce")
        self.schedule = as_callable(schedule, "schedule")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        return _factor_at(self.schedule, t, position) * self.potential.energy(t, position)


@final
class TimeDependentForce(AbstractForce):
    """F(t, x) = schedule(t) F(t, x).

    Args:
        force: F, a force or a potential.
        schedule: as in `TimeDependentPotential`.

    Raises:
        TypeError: a schedule that cannot be called.
        ValueError: a schedule that does not return a scalar.
    """

    part: AbstractForce
    schedule: Callable[..., Any]

    @checked
    def __init__(self, force: AbstractForce, schedule: Callable[..., Any]):
        self.part, self.schedule = force, as_callable(schedule, "schedule")

    def force(self, t: ScalarLike, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        return _factor_at(self.schedule, t, position) * self.part.force(t, position)


def add(left: AbstractForce, right: AbstractForce) -> AbstractForce:
    """left + right; sums of sums become one sum."""
    parts: list[AbstractForce] = []
    for part in (left, right):
        parts += part.parts if isinstance(part, (SumPotential, SumForce)) else (part,)
    # A SumForce of potentials was made on purpose: its sum with a potential has no energy either.
    return SumPotential(parts) if _are_potentials(left, right) else SumForce(parts)


def scale(force: AbstractForce, factor: Any) -> AbstractForce:
    """factor times a force or a potential."""
    return ScaledPotential(force, factor) if _are_potentials(force) else ScaledForce(force, factor)


def _are_potentials(*parts: AbstractForce) -> bool:
    return all(isinstance(part, AbstractPotential) for part in parts)


def _parts(parts: Sequence[AbstractForce]) -> tuple[AbstractForce, ...]:
    if not isinstance(parts, (tuple, list)):
        raise TypeError(f"parts must be a list or a tuple of them, got {type(parts).__name__}")
    if not parts:
        raise ValueError("parts must hold one or more: for no force at all, use hamflow.ZeroPotential()")
    return tuple(parts)


def _require_force(part: Any) -> AbstractForce:
    if not isinstance(part, AbstractForce):
        raise TypeError(f"every part must be a hamflow.AbstractForce or AbstractPotential, got {type(part).__name__}")
    return part


def _require_potential(part: Any, instead: str) -> AbstractPotential:
    if isinstance(part, AbstractPotential):
        return part
    if isinstance(part, AbstractForce):
        raise TypeError(f"{type(part).__name__} is a force, which has no energy: use hamflow.{instead}")
    raise TypeError(f"potential must be a hamflow.AbstractPotential, got {type(part).__name__}")


def _factor_at(schedule: Callable[..., Any], t: ScalarLike, position: Array) -> Array:
    factor = schedule(jnp.asarray(t, position.dtype))
    if jnp.shape(factor) != ():
        raise ValueError(f"the schedule returned shape {jnp.shape(factor)} for one time; it must return a scalar")
    return jnp.asarray(factor, position.dtype)
