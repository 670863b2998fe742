"""Splitting methods: kicks and drifts in turn, their shares of the step as data.

A method is two tuples: kick a_0, drift b_0, kick a_1, ..., drift b_(s-1), kick a_s, each summing to 1. A composition of
leapfrogs of shares w_1 ... w_s is one too: neighbouring half-kicks merge. To add a method, write its numbers.
"""

import abc
import itertools
from typing import ClassVar, final

from ..kinetics import GaussianKinetic
from ..system import AbstractSeparableSystem, AbstractSystem, ForcedSystem
from .base import AbstractIntegrator, step_size_field
from .stages import Stage, alternate

Shares = tuple[float, ...]


class AbstractSplitting(AbstractIntegrator):
    """A method made of kicks and drifts, for every separable system, in every domain.

    It keeps phase-space volume, and the symplectic form where the force is a gradient. Its fields at walls and on tori
    are exact: the folds are part of the drift. A force that does not vanish at a wall leaves every method at about
    order 1 there.
    """

    @abc.abstractmethod
    def shares(self) -> tuple[Shares, Shares]:
        """(kicks, drifts), one kick more than drifts."""

    @final
    def stages(self) -> tuple[Stage, ...]:
        return alternate(*self.shares())

    @final
    def require_system(self, system: AbstractSystem) -> None:
        if not isinstance(system, AbstractSeparableSystem):
            raise TypeError(
                f"{type(self).__name__} needs a system that splits into kicks and drifts, and {type(system).__name__} "
                "does not: use hamflow.ImplicitMidpoint()"
            )
        if isinstance(self, BlanesMoan4):
            _require_quadratic(system)


def leapfrogs(weights: Shares) -> tuple[Shares, Shares]:
    """Kick-drift-kick of shares w_1, ..., w_s in turn: the kicks between two of them merge."""
    kicks = (weights[0] / 2.0, *((a + b) / 2.0 for a, b in itertools.pairwise(weights)), weights[-1] / 2.0)
    return kicks, weights


def palindrome(outer: Shares) -> Shares:
    """w_s, ..., w_1, w_0, w_1, ..., w_s with w_0 such that they sum to 1; `outer` is w_1, ..., w_s."""
    return (*reversed(outer), 1.0 - 2.0 * sum(outer), *outer)


@final
class SymplecticEuler(AbstractSplitting):
    """Kick, then drift: order 1, symplectic. Its inverse drifts first.

    On a full Kepler period, and on the oscillator started at rest, its error is of second order by symmetry.
    """

    step_size: float | None = step_size_field()

    def shares(self) -> tuple[Shares, Shares]:
        return (1.0, 0.0), (1.0,)

    def method_order(self) -> int:
        return 1


@final
class Leapfrog(AbstractSplitting):
    """Kick-drift-kick, of Stoermer and Verlet: order 2, symmetric, one force a step."""

    step_size: float | None = step_size_field()

    def shares(self) -> tuple[Shares, Shares]:
        return (0.5, 0.5), (1.0,)

    def method_order(self) -> int:
        return 2


@final
class McLachlan2(AbstractSplitting):
    """Two stages of order 2 with the smallest error constant: kick a, drift 1/2, kick 1 - 2a, drift 1/2, kick a.

    McLachlan 1995, "On the numerical integration of ordinary differential equations by symmetric composition methods".
    """

    step_size: float | None = step_size_field()

    lambda_: ClassVar[float] = 0.1931833275037836

    def shares(self) -> tuple[Shares, Shares]:
        return (self.lambda_, 1.0 - 2.0 * self.lambda_, self.lambda_), (0.5, 0.5)

    def method_order(self) -> int:
        return 2


@final
class Yoshida4(AbstractSplitting):
    """Three leapfrogs, the middle one backward: order 4 with three forces a step. Forest, Ruth; Yoshida 1990."""

    step_size: float | None = step_size_field()

    def shares(self) -> tuple[Shares, Shares]:
        return leapfrogs(palindrome((1.0 / (2.0 - 2.0 ** (1.0 / 3.0)),)))

    def method_order(self) -> int:
        return 4


@final
class Suzuki4(AbstractSplitting):
    """Five leapfrogs: order 4, five forces a step, an error far below Yoshida4's. Suzuki 1990."""

    step_size: float | None = step_size_field()

    def shares(self) -> tuple[Shares, Shares]:
        p = 1.0 / (4.0 - 4.0 ** (1.0 / 3.0))
        return leapfrogs(palindrome((p, p)))

    def method_order(self) -> int:
        return 4


@final
class BlanesMoan4(AbstractSplitting):
    """Six stages of order 4 of Runge-Kutta-Nystrom type, for a kinetic energy that is quadratic in p.

    The most accurate fourth-order method here for its cost. Blanes and Moan 2002, "Practical symplectic partitioned
    Runge-Kutta and Runge-Kutta-Nystrom methods", table 3 (SRKN 6b).
    """

    step_size: float | None = step_size_field()

    outer_kicks: ClassVar[Shares] = (0.0829844064174052, 0.396309801498368, -0.0390563049223486)
    outer_drifts: ClassVar[Shares] = (0.245298957184271, 0.604872665711080)

    def shares(self) -> tuple[Shares, Shares]:
        kicks = (*self.outer_kicks, 1.0 - 2.0 * sum(self.outer_kicks))
        drifts = (*self.outer_drifts, 0.5 - sum(self.outer_drifts))
        return (*kicks, *reversed(kicks[:-1])), (*drifts, *reversed(drifts))

    def method_order(self) -> int:
        return 4


@final
class Yoshida6(AbstractSplitting):
    """Seven leapfrogs: order 6. Yoshida 1990, solution A."""

    step_size: float | None = step_size_field()

    outer: ClassVar[Shares] = (-1.17767998417887100695, 0.23557321335935813368, 0.78451361047755726382)

    def shares(self) -> tuple[Shares, Shares]:
        return leapfrogs(palindrome(self.outer))

    def method_order(self) -> int:
        return 6


@final
class Yoshida8(AbstractSplitting):
    """Fifteen leapfrogs: order 8. Yoshida 1990, solution D."""

    step_size: float | None = step_size_field()

    outer: ClassVar[Shares] = (
        0.102799849391985,
        -1.96061023297549,
        1.93813913762276,
        -0.158240635368243,
        -1.44485223686048,
        0.253693336566229,
        0.914844246229740,
    )

    def shares(self) -> tuple[Shares, Shares]:
        return leapfrogs(palindrome(self.outer))

    def method_order(self) -> int:
        return 8


@final
class Splitting(AbstractSplitting):
    """A method of one's own, by its numbers.

    Args:
        kicks: shares of the step, one more than drifts, summing to 1; 0 leaves a kick out.
        drifts: likewise.
        order: the order that the method has.
        step_size: as everywhere.

    Raises:
        ValueError: numbers of another count, or that do not sum to 1; an order that is not a whole number from 1 on.
    """

    kicks: Shares
    drifts: Shares
    declared_order: int
    step_size: float | None = step_size_field()

    def __init__(self, kicks: Shares, drifts: Shares, order: int, step_size: float | None = None):
        self.kicks, self.drifts = tuple(float(a) for a in kicks), tuple(float(b) for b in drifts)
        if isinstance(order, bool) or not isinstance(order, int) or order < 1:
            raise ValueError(f"order must be a whole number, 1 or more, got {order!r}")
        self.declared_order, self.step_size = order, step_size
        alternate(self.kicks, self.drifts)
        for name, values in (("kicks", self.kicks), ("drifts", self.drifts)):
            if not abs(sum(values) - 1.0) < 1e-9:
                raise ValueError(f"{name} must sum to 1, got {sum(values)}")

    def shares(self) -> tuple[Shares, Shares]:
        return self.kicks, self.drifts

    def method_order(self) -> int:
        return self.declared_order


def _require_quadratic(system: AbstractSeparableSystem) -> None:
    if not isinstance(system.kinetic, GaussianKinetic):
        raise TypeError(
            f"BlanesMoan4 keeps its order for a kinetic energy quadratic in p, not for {type(system.kinetic).__name__}:"
            " use Suzuki4 or Yoshida4"
        )
    if isinstance(system, ForcedSystem) and not system.is_frictionless:
        raise TypeError("BlanesMoan4 keeps its order for forces of the position alone, not with friction: use Suzuki4")
