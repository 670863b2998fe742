"""The implicit midpoint rule, for energies in which position and momentum mix."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix

from .._types import Array
from ..domains import Euclidean, Torus
from ..state import PhaseState
from ..system import AbstractSystem
from .base import AbstractIntegrator, step_size_field
from .stages import Stage


@final
class ImplicitMidpoint(AbstractIntegrator):
    """z_1 = z_0 + h f(t + h/2, (z_0 + z_1) / 2): order 2, symmetric, symplectic for every Hamiltonian.

    Args:
        step_size: the step in a flow; None elsewhere.
        root_finder: any `optimistix` root finder for the equations of one step. Newton's method if None, with
            tolerances for the state's precision: it builds a matrix of (2 size)^2 numbers, so for a thousand
            coordinates and more give one that does not, or use a splitting.

    Raises:
        TypeError: in a domain with walls, at which no midpoint exists; in a domain that is neither Euclidean nor Torus.
        RuntimeError: equations that were not solved: take smaller steps.
    """

    step_size: float | None = step_size_field()
    root_finder: optimistix.AbstractRootFinder | None = None

    def stages(self) -> tuple[Stage, ...]:
        return (Stage(Midpoint(self.root_finder), 1.0, 0.5),)

    def method_order(self) -> int:
        return 2

    def require_system(self, system: AbstractSystem) -> None:
        if not isinstance(system.domain, (Euclidean, Torus)):
            raise TypeError(
                f"ImplicitMidpoint works in Euclidean and Torus, and has no midpoint at the walls of "
                f"{type(system.domain).__name__}: use a splitting such as hamflow.Leapfrog()"
            )


class Midpoint(eqx.Module):
    """The action of the rule: solve for the midpoint, then step by the field there."""

    root_finder: optimistix.AbstractRootFinder | None

    def __call__(self, system: Any, t: Array, state: PhaseState, h: Array) -> PhaseState:
        def field(middle: PhaseState) -> PhaseState:
            return system.vector_field(t, PhaseState(*system.domain.fold(middle.position, middle.momentum)))

        def residual(middle: PhaseState, _: None) -> PhaseState:
            return jax.tree.map(lambda m, z, f: m - z - 0.5 * h * f, middle, state, field(middle))

        finder = self.root_finder
        if finder is None:  # Newton's method squares the error after the last change that it looks at
            tolerance = float(jnp.finfo(state.position.dtype).eps) ** 0.6
            finder = optimistix.Newton(rtol=tolerance, atol=tolerance)
        guess = jax.tree.map(lambda z, f: z + 0.5 * h * f, state, field(state))
        solution = optimistix.root_find(residual, finder, guess, throw=False)
        rate = field(solution.value)
        end = jax.tree.map(lambda z, f: z + h * f, state, rate)
        end = eqx.error_if(
            end,
            solution.result != optimistix.RESULTS.successful,
            "ImplicitMidpoint did not solve the equations of a step: take smaller steps, or give another root_finder",
        )
        return PhaseState(*system.domain.fold(end.position, end.momentum))
