"""Integrators: step a phase state by h, as an object that diffrax and hamflow both accept.

An integrator is a tuple of stages (`stages.py`) and an order. Three ways to use one:

- `hf.integrate(system, state, t0, t1, num_steps, integrator)`: the direct path, many steps in one call;
- `hf.Flow(..., integrator=hf.Leapfrog(step_size=0.01))`: a flow without a closed form;
- `diffrax.diffeqsolve(diffrax.ODETerm(system.vector_field), hf.Leapfrog(), t0, t1, dt0, state)`: diffrax's own options.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar, final

import diffrax
import equinox as eqx
import jax.numpy as jnp

from .._module import AbstractModule
from .._parameters import is_concrete
from .._times import elapsed
from .._types import ScalarLike
from ..state import PhaseState
from ..system import AbstractSystem
from .dense import HermiteInterpolation, step_with_derivatives
from .guards import require_start
from .stages import Stage, reverse


def step_size_field() -> Any:
    """The field that every integrator has: the step in a flow, in the system's unit of time, or None elsewhere."""
    return eqx.field(default=None, static=True, converter=_as_step_size)


def _as_step_size(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, (bool, str)) or not is_concrete(value):
        raise TypeError(f"step_size must be a known number or None, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"step_size must be a number or None, got {value!r}") from None
    if not (number > 0.0 and math.isfinite(number)):
        raise ValueError(f"step_size must be positive and finite, got {number}: a flow turns its own steps round")
    return number


class AbstractIntegrator(AbstractModule, diffrax.AbstractSolver):
    """A method that steps a phase state of a system by h.

    To add one, subclass this and write `stages`, `method_order` and `require_system`, and declare the field
    `step_size: float | None = step_size_field()`. A composition of kicks and drifts is two tuples of numbers: subclass
    `AbstractSplitting`.
    """

    step_size: eqx.AbstractVar[float | None]

    term_structure: ClassVar[Any] = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., HermiteInterpolation]] = HermiteInterpolation

    @abc.abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """The pieces of a step of 1."""

    @abc.abstractmethod
    def method_order(self) -> int:
        """The order of convergence in smooth domains."""

    @abc.abstractmethod
    def require_system(self, system: AbstractSystem) -> None:
        """Raise a `TypeError` or `ValueError` that says what to do if this integrator does not fit the system."""

    @final
    def inverse(self) -> "AbstractIntegrator":
        """The method that retraces this one's steps when the times are swapped, to rounding.

        `integrate(system, end, t1, t0, n, integrator.inverse())` leads back to the start of
        `integrate(system, start, t0, t1, n, integrator)`. A symmetric method is its own.
        """
        backwards = reverse(self.stages())
        if all(
            a.action == b.action and math.isclose(a.coefficient, b.coefficient, rel_tol=1e-15, abs_tol=1e-15)
            for a, b in zip(backwards, self.stages(), strict=True)
        ):
            return self
        return Reversed(self)

    @final
    def advance(self, system: AbstractSystem, t: ScalarLike, state: PhaseState, h: ScalarLike) -> PhaseState:
        """One step of `h` (negative to go back) from `state` at `t`."""
        dtype = state.position.dtype
        for stage in self.stages():
            state = stage(system, jnp.asarray(t, dtype), state, jnp.asarray(h, dtype))
        return state

    # -- diffrax -----------------------------------------------------------------------------------------------------

    @final
    def order(self, terms: Any) -> int:
        """The order, as diffrax asks for it."""
        return self.method_order()

    @final
    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> None:
        """Check what diffrax hands over; there is no state to carry."""
        if self.step_size is not None:
            raise ValueError(
                f"{type(self).__name__}(step_size={self.step_size}) is for a Flow; diffeqsolve takes its steps from "
                f"dt0: use {type(self).__name__}()"
            )
        if not isinstance(y0, PhaseState):
            raise TypeError(f"y0 must be a hamflow.PhaseState, got {type(y0).__name__}")
        self.require_system(_system_of(terms))

    @final
    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: None, made_jump: Any
    ) -> tuple[PhaseState, None, dict[str, Any], None, diffrax.RESULTS]:
        """One step, as diffrax asks for it."""
        system, direction = _system_of(terms), _direction_of(terms)
        y0 = require_start(system, y0)  # inside a run a fold has seen to it; the first start is the user's
        dtype = y0.position.dtype
        # diffrax integrates backward by negating time.
        sign = jnp.asarray(direction, dtype)
        start, h = sign * jnp.asarray(t0, dtype), sign * elapsed(t0, t1, dtype)
        y1, dense = step_with_derivatives(self.stages(), self.method_order(), system, start, y0, h, sign)
        return y1, None, dense, None, diffrax.RESULTS.successful

    @final
    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The vector field, as diffrax asks for it."""
        return terms.vf(t0, y0, args)


@final
class Reversed(AbstractIntegrator):
    """The adjoint of a method: its stages in reverse. `AbstractIntegrator.inverse` makes it."""

    integrator: AbstractIntegrator
    step_size: float | None = step_size_field()

    def __init__(self, integrator: AbstractIntegrator):
        self.integrator, self.step_size = integrator, integrator.step_size

    def stages(self) -> tuple[Stage, ...]:
        return reverse(self.integrator.stages())

    def method_order(self) -> int:
        return self.integrator.method_order()

    def require_system(self, system: AbstractSystem) -> None:
        self.integrator.require_system(system)


def _system_of(terms: Any) -> AbstractSystem:
    """The system behind `diffrax.ODETerm(system.vector_field)`, which reaches a solver wrapped."""
    while isinstance(getattr(terms, "term", None), diffrax.AbstractTerm):
        terms = terms.term
    system = getattr(getattr(terms, "vector_field", None), "__self__", None)
    if not isinstance(system, AbstractSystem):
        raise TypeError(
            "an integrator of hamflow splits a system, and sees none in these terms: use "
            "diffrax.ODETerm(system.vector_field) with a hamflow system, the bare method and no lambda"
        )
    return system


def _direction_of(terms: Any) -> Any:
    return getattr(terms, "direction", 1)
