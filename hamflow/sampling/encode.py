"""Encoding: follow the velocity predictor from the data up to the prior, the inverse of generation."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._types import Array, Float, PyTree, checked
from ..flow import Flow
from ..predictors import deviation_of
from .likelihood import require_inside, require_rows, solve, steps_of
from .velocity_field import velocity_field


@checked
def encode(
    predictor: Callable[..., Any],
    flow: Flow,
    x: Float[Array | np.ndarray, "batch *event"],
    *,
    condition: PyTree = None,
    num_steps: int | None = None,
    solver: diffrax.AbstractSolver | None = None,
    tolerance: float = 1e-5,
) -> Float[Array, "batch *event"]:
    """The x_T that generation carries to each x: solves dx/dt = V(t, x) from 0 to the horizon.

    Two encodings can be mixed and generated from (`generate(..., start=...)`), which walks from one datum to the other.

    Args:
        predictor: `predictor(t, x, condition, None) -> velocity` on one example.
        flow: gives the horizon and the domain.
        x: floating, of shape `(batch, *event)`.
        condition: None, or a tree of arrays with a leading axis of `batch`.
        num_steps: None for steps chosen by `tolerance`; else so many on the flow's own grid.
        solver: a diffrax solver; Tsit5 with a tolerance and Heun on a grid unless given.
        tolerance: relative and absolute, of a step.

    Returns:
        x_T, of x's shape and dtype; in a Box or Torus inside it.

    Raises:
        ValueError: no rows, data that are not finite, another number of conditions than rows, a solver that does not
            fit.
        RuntimeError: a datum outside the domain.
    """
    x = jnp.asarray(x)
    require_rows(x, condition)
    grid, chosen = steps_of(flow, num_steps, solver, tolerance, deviation_of(predictor))
    return _encode(predictor, flow, x, condition, grid, chosen, tolerance)


@eqx.filter_jit
def _encode(predictor, flow, x, condition, grid, solver, tolerance) -> Array:
    x = require_inside(x, flow, "encode")
    domain, field = flow.system.domain, velocity_field(predictor, flow.system.domain)

    def one(x: Array, condition: Any) -> Array:
        def velocity(t: Array, x: Array, condition: Any) -> Array:
            return field(jnp.asarray(t, x.dtype), x, condition)

        units = deviation_of(predictor)
        end = solve(velocity, x, flow, grid, solver, tolerance, condition, units=units)
        return domain.fold(end, end)[0]

    return eqx.filter_vmap(one, in_axes=(0, None if condition is None else 0))(x, condition)
