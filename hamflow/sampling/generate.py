"""Generation: draw from the prior and follow the velocity predictor down to the data."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._parameters import is_concrete, require
from .._types import Array, Float, PyTree, checked
from ..domains import Euclidean
from ..flow import Flow
from ..predictors import deviation_of
from .few_step import FewStep
from .grids import rho_grid
from .samplers import AbstractSampler, Heun, Walk, walk_down
from .velocity_field import (
    require_ordinary,
    solve_on_grid,
    solve_to_tolerance,
    velocity_field,
    with_own_tolerances,
)


@checked
def generate(
    predictor: Callable[..., Any],
    flow: Flow,
    key: Any,
    shape: tuple[int, ...],
    num_steps: int = 18,
    solver: diffrax.AbstractSolver | AbstractSampler | None = None,
    *,
    condition: PyTree = None,
    times: Float[Array | np.ndarray, "times"] | None = None,
    start: Float[Array | np.ndarray, "batch *event"] | None = None,
    tolerance: float | None = None,
) -> Float[Array, "batch *event"]:
    """Draw x_T from the flow's prior and solve dx/dt = V(t, x) from the horizon to 0.

    Args:
        predictor: `predictor(t, x, condition, None) -> velocity` on one example.
        flow: gives the prior, the grid of times and the domain.
        key: one jax key, and row i uses `fold_in(key, i)`; or an array of n keys, one a row. A row depends on its key
            (and its condition) alone, to rounding, whatever the batch.
        shape: `(n, *event)`, of the whole batch.
        num_steps: steps of the flow's own grid, `rho_grid` with the deviation of the data that the predictor knows.
        solver: Heun's method with an Euler last step if None (18 steps are 35 evaluations); a sampler such as `DDIM()`,
            `DPMSolver2M()`, `UniPC()`, `ReverseSDE()` or `Churn()`, whose noise comes from the key of the row; a
            `FewStep` from `fit_few_step`, with steps and times of its own; or any diffrax
            solver, one step an interval. An implicit solver that takes its tolerances from an adaptive step gets
            Newton's method with 1e-5 in place of its root finder; in a Box it needs a predictor whose component normal
            to a wall vanishes there, as the exact velocity's does: otherwise its equations may have no root, and
            diffrax raises.
        condition: None, or a tree of arrays with a leading axis of n.
        times: decreasing times from the horizon to 0 in place of the flow's grid, such as `cosine_grid(flow, 18)`;
            `num_steps` is not used then.
        start: x_T of every row, of shape `shape`, in place of draws from the prior: what `encode` made, or a mixture.
        tolerance: relative, and absolute in deviations of the data, of a step: each row takes as many steps as that
            asks for, of diffrax.Tsit5 or of the adaptive diffrax solver given; `num_steps` is not used then. V is asked
            at t = 0 too.

    Returns:
        Samples of shape `shape`, in jax's default float. In a Box or Torus the solver follows the reflected or
        periodic extension of the predictor and the end is folded, so every sample lies inside.

    Raises:
        TypeError: arguments of another shape or dtype, by name.
        ValueError: a shape without a batch axis, another number of keys or conditions than rows, fewer than one step,
            times that do not run from the horizon down to 0, a predictor that returns another shape, a solver that is
            not for one ordinary differential equation; a tolerance that is not positive, or with times, or with a
            solver that cannot choose its steps.
        RuntimeError: a draw of the prior outside the domain; a tolerance that takes more than 4,096 steps.
    """
    key = _checked_key(key, shape)
    flow.require_event(shape[1:])
    if tolerance is not None:
        solver = _adaptive(solver, tolerance, times)
    elif solver is None:
        solver = Heun()
    if isinstance(solver, AbstractSampler):
        solver.require_flow(flow)
    else:
        require_ordinary(solver)
        solver = solver if tolerance is not None else with_own_tolerances(solver)
    for leaf in jax.tree.leaves(condition):
        if jnp.shape(leaf)[:1] != shape[:1]:
            raise ValueError(
                f"condition has a leaf of shape {jnp.shape(leaf)}, but there are {shape[0]} rows to generate: "
                "give one condition a row"
            )
    if start is not None and jnp.shape(start) != shape:
        raise ValueError(f"start has shape {jnp.shape(start)}, and shape asks for {shape}: give one x_T a row")
    if tolerance is not None:
        grid = None
    elif isinstance(solver, FewStep):
        if times is not None:
            raise ValueError("times are given and a FewStep, which has times of its own: leave out one of the two")
        grid = solver.times
    else:
        unit = deviation_of(predictor)
        grid = rho_grid(flow, num_steps, data_std=unit) if times is None else _checked_times(times, flow)
    return _generate(predictor, flow, key, shape, grid, solver, condition, start, tolerance)


@eqx.filter_jit
def _generate(predictor, flow, key, shape, grid, solver, condition, start, tolerance) -> Array:
    event = shape[1:]
    keys = key if key.ndim else jax.vmap(lambda i: jr.fold_in(key, i))(jnp.arange(shape[0]))
    x = jax.vmap(lambda k: flow.prior.sample(k, event))(keys) if start is None else jnp.asarray(start)
    x = x.astype(float)
    if x.shape[1:] != event:
        raise ValueError(f"shape asks for examples of shape {event}, but the flow's prior draws {x.shape[1:]}")
    domain = flow.system.domain
    if not isinstance(domain, Euclidean):
        inside = jax.vmap(domain.contains)(x)
        who = "the prior drew a position" if start is None else "start has a row"
        x = eqx.error_if(x, ~inside, f"generate: {who} outside the {type(domain).__name__}")

    velocity = velocity_field(predictor, domain)

    def one(x: Array, key: Any, condition: Any) -> Array:
        if grid is None:
            horizon = jnp.asarray(flow.horizon, x.dtype)
            units, end = deviation_of(predictor), jnp.zeros_like(horizon)
            return solve_to_tolerance(velocity, x, horizon, end, solver, tolerance, condition, units=units)
        if isinstance(solver, AbstractSampler):
            walk = Walk(lambda t, x: velocity(t, x, condition), flow, grid.size - 1)
            return walk_down(solver, walk, x, grid, jr.fold_in(key, 1))
        return solve_on_grid(velocity, x, grid, solver, condition)

    x = eqx.filter_vmap(one, in_axes=(0, 0, None if condition is None else 0))(x, keys, condition)
    return jax.vmap(lambda x: domain.fold(x, x)[0])(x)


def _adaptive(solver: Any, tolerance: float, times: Any) -> diffrax.AbstractSolver:
    """The solver that chooses its steps."""
    if not tolerance > 0.0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    if times is not None:
        raise ValueError("times are given and a tolerance, which chooses the times: leave out one of the two")
    if solver is None:
        return diffrax.Tsit5()
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            f"solver {type(solver).__name__} cannot choose its steps by a tolerance: leave out the tolerance, or use "
            "an adaptive solver of diffrax such as Tsit5"
        )
    return solver


def _checked_key(key: Any, shape: tuple[int, ...]) -> Array:
    """One key, or one a row."""
    if not all(isinstance(size, int) for size in shape):  # the check of types looks at one of them, by chance
        raise TypeError(f"'shape' must hold whole numbers, got {shape}")
    if len(shape) == 0 or shape[0] < 1:
        raise ValueError(f"shape must be (n, *event) with at least one row, got {shape}")
    if not isinstance(key, jax.Array):
        raise TypeError(f"key must be a jax key or an array of n keys, got {type(key).__name__}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.dtype != jnp.uint32 or key.ndim not in (1, 2):
            raise TypeError(f"key must be a jax key or an array of n keys, got an array {key.dtype}{list(key.shape)}")
        key = jr.wrap_key_data(key)
    if key.ndim and key.shape != shape[:1]:
        raise ValueError(f"key is an array of {key.shape} keys, but shape asks for {shape[0]} rows: give one key a row")
    return key


def _checked_times(times: Array | np.ndarray, flow: Flow) -> Array:
    grid, horizon = jnp.asarray(times, float), jnp.asarray(flow.horizon, float)
    message = "times must fall from the flow's horizon to 0"
    if grid.size < 2:
        raise ValueError(f"{message}, got {times}")
    holds = jnp.all(jnp.diff(grid) < 0) & (grid[-1] == 0) & (jnp.abs(grid[0] - horizon) <= 1e-6 * horizon)
    if is_concrete(holds):
        require(holds, lambda h: h, f"{message}, {flow.horizon}: got {times}")
        return grid
    return eqx.error_if(grid, ~holds, message)
