"""The equation dx/dt = V(t, x) that all deterministic sampling follows, either way, and how it is solved."""

from collections.abc import Callable
from typing import Any, get_origin

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix

from .._types import Array
from ..domains import AbstractDomain

Field = Callable[[Array, Array, Any], Array]


def velocity_field(predictor: Callable[..., Any], domain: AbstractDomain) -> Field:
    """`field(t, x, condition)` of one example: V on the domain, carried to all of space by its folds.

    Raises:
        ValueError: when called, if the predictor returns another shape than x's.
    """

    def field(t: Array, x: Array, condition: Any) -> Array:
        folded, _ = domain.fold(x, x)
        v = predictor(t, folded, condition, None)
        if v is None or jnp.shape(v) != x.shape:
            shown = "None" if v is None else f"shape {jnp.shape(v)}"
            raise ValueError(f"predictor returned {shown} for one example of shape {x.shape}")
        return domain.extend(x, jnp.asarray(v, x.dtype))

    return field


def solve_on_grid(field: Callable[..., Any], y: Any, grid: Array, solver: diffrax.AbstractSolver, args: Any) -> Any:
    """One step of a diffrax solver an interval of the grid, rising or falling; the end."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=grid[0],
        t1=grid[-1],
        dt0=None,
        y0=y,
        args=args,
        stepsize_controller=diffrax.StepTo(grid),
        max_steps=grid.size,
    )
    assert solution.ys is not None
    return _last(solution.ys)


def solve_to_tolerance(
    field: Callable[..., Any],
    y: Any,
    t0: Array,
    t1: Array,
    solver: diffrax.AbstractSolver,
    tolerance: float,
    args: Any,
    *,
    units: Any = None,
) -> Any:
    """As many steps as relative and absolute errors below `tolerance` a step take; the end.

    `units`, a tree like `y`, is what the absolute error counts in; 1 if None.
    """
    units = jax.tree.map(lambda part: 1.0, y) if units is None else units

    def times_units(y: Any) -> Any:
        return jax.tree.map(lambda part, unit: part * jnp.asarray(unit, part.dtype), y, units)

    def over_units(y: Any) -> Any:
        return jax.tree.map(lambda part, unit: part / jnp.asarray(unit, part.dtype), y, units)

    longest = jnp.maximum(jnp.abs(t0), jnp.abs(t1))  # the unit of time, which the choice of the first step has too

    def counted(share: Any, y: Any, args: Any) -> Any:
        slope = field(share * longest, times_units(y), args)
        return over_units(jax.tree.map(lambda part: part * longest, slope))

    y = over_units(y)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(counted),
        solver,
        t0=t0 / longest,
        t1=t1 / longest,
        dt0=None,
        y0=y,
        args=args,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=4096,
        throw=False,
    )
    assert solution.ys is not None
    return eqx.error_if(
        times_units(_last(solution.ys)),
        ~diffrax.is_okay(solution.result),
        f"the solver did not reach the end in 4,096 steps at tolerance {tolerance}: give a larger tolerance or a "
        "number of steps; or the predictor returns NaN, or is too rough for this precision",
    )


def require_ordinary(solver: diffrax.AbstractSolver) -> None:
    """`ValueError` for a solver of split or stochastic equations."""
    terms = get_origin(solver.term_structure) or solver.term_structure
    if not (isinstance(terms, type) and issubclass(diffrax.ODETerm, terms)):
        raise ValueError(
            f"solver {type(solver).__name__} is for split or stochastic equations, but dx/dt = V is one ordinary one: "
            "use diffrax.Heun, Tsit5, Dopri5, Kvaerno5 ..."
        )


def with_own_tolerances(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """The solver with tolerances of its own where it counts on those of an adaptive step: on a grid there are none."""
    finder = getattr(solver, "root_finder", None)
    if finder is None or isinstance(getattr(finder, "rtol", 0.0), float):
        return solver
    return eqx.tree_at(lambda s: s.root_finder, solver, optimistix.Newton(rtol=1e-5, atol=1e-5))


def _last(ys: Any) -> Any:
    return jax.tree.map(lambda part: part[-1], ys)
