"""Fitting a solver of few steps to one predictor: it starts as the best of the solvers there are, and gets better."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .. import _linear as linear
from .._types import Array, PRNGKeyArray, PyTree, checked
from ..flow import Flow
from ..predictors import deviation_of
from .few_step import FewStep
from .generate import generate
from .grids import cosine_grid, rho_grid, uniform_grid
from .multistep import DPMSolver2M
from .samplers import AbstractSampler, Euler, Walk, walk_down
from .unipc import UniPC
from .velocity_field import velocity_field

_CHECK_EVERY = 50


class FewStepFit(NamedTuple):
    """What `fit_few_step` returns; the errors are of fresh starts, on which nothing was fitted or chosen.

    Attributes:
        solver: for `generate(..., solver=...)`.
        error: root mean square distance, a coordinate, between its ends and those of fine solutions.
        first_error: that of the solver it started as.
        first: which one that was.
    """

    solver: FewStep
    error: float
    first_error: float
    first: str


@checked
def fit_few_step(
    predictor: Callable[..., Any],
    flow: Flow,
    key: PRNGKeyArray,
    shape: tuple[int, ...],
    num_evaluations: int = 8,
    *,
    condition: PyTree = None,
    num_paths: int = 2048,
    num_iterations: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 1e-2,
    tolerance: float = 1e-5,
) -> FewStepFit:
    """Fit times, alpha and beta of a `FewStep` to where fine solutions end, from the same starts.

    The logarithm of the mean square distance is made small by Adam, with gradients through all steps; the best solver
    on held-out starts is kept, and its error is measured on fresh ones. It starts as the best of Euler's method,
    DPM-Solver++ 2M and UniPC on three grids. Needs optax (the extra `train`).

    Args:
        predictor: `predictor(t, x, condition, None) -> velocity` on one example; it is not changed.
        flow: gives the prior and the horizon.
        key: a jax key, for starts and batches.
        shape: of one example.
        num_evaluations: n, of the solver.
        condition: None, or a tree of arrays with a leading axis of `num_paths`.
        num_paths: fine solutions; a quarter of them is held out to choose by. As many are drawn afresh at the end, with
            the same conditions, to measure the chosen solver.
        num_iterations: of Adam, on a cosine schedule.
        batch_size: starts an iteration.
        learning_rate: relative to the size of what each number multiplies.
        tolerance: of a step of the fine solutions.

    Returns:
        The solver, its error on fresh starts, and which one it started as; `generate(..., solver=fit.solver)`.

    Raises:
        ImportError: without optax.
        ValueError: fewer than one evaluation or iteration, fewer than 16 paths, a batch larger than what is fitted to,
            another number of conditions than paths.
    """
    _require(num_evaluations, num_paths, num_iterations, batch_size, condition)
    try:
        import optax
    except ImportError:
        raise ImportError("fit_few_step needs optax: pip install 'hamflow[train]'") from None

    keys = jr.split(jr.fold_in(key, 0), num_paths)
    starts = jax.vmap(lambda k: flow.prior.sample(k, shape))(keys).astype(float)
    ends = generate(predictor, flow, key, starts.shape, condition=condition, start=starts, tolerance=tolerance)
    paths, held = (starts, ends, condition), num_paths // 4
    distance = _distance(predictor, flow)
    compare = eqx.filter_jit(lambda solver, paths: distance(solver, *paths))
    chosen_on = _rows(paths, jnp.arange(held))

    def measure(numbers: _Numbers) -> Array:
        return compare(numbers.solver(), chosen_on)

    errors: dict[str, tuple[float, _Numbers]] = {}
    for name, numbers in _candidates(predictor, flow, num_evaluations).items():
        value = float(measure(numbers))
        if jnp.isfinite(value):
            errors[name] = value, numbers
    first = min(errors, key=lambda name: errors[name][0])
    first_error, numbers = errors[first]
    numbers = _in_units(
        numbers, *_sizes(predictor, flow, numbers.solver(), *_rows((starts, condition), jnp.arange(held)))
    )

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_iterations))

    @eqx.filter_jit
    def improve(numbers: _Numbers, state: PyTree, key: PRNGKeyArray) -> tuple[_Numbers, PyTree]:
        batch = _rows(paths, held + jr.choice(key, num_paths - held, (batch_size,), replace=False))
        moved, fixed = numbers.partition()
        gradient = jax.grad(lambda moved: jnp.log(distance(eqx.combine(moved, fixed).solver(), *batch)))(moved)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
            updates, state = optimizer.update(gradient, state)
        return eqx.combine(eqx.apply_updates(moved, updates), fixed), state

    moving: Any = numbers.partition()[0]
    best, state = (first_error, numbers), optimizer.init(moving)
    for i in range(num_iterations):
        numbers, state = improve(numbers, state, jr.fold_in(key, i + 1))
        if (i + 1) % _CHECK_EVERY == 0 or i + 1 == num_iterations:
            error = float(measure(numbers))
            best = (error, numbers) if error < best[0] else best
    # The least of many measurements on one set is too small on others, so a third set says how good the solver is.
    fresh = jr.fold_in(key, num_iterations + 1)
    starts = jax.vmap(lambda k: flow.prior.sample(k, shape))(jr.split(fresh, num_paths)).astype(float)
    ends = generate(predictor, flow, key, starts.shape, condition=condition, start=starts, tolerance=tolerance)
    solver, before = best[1].solver(), errors[first][1].solver()
    error, first_error = (float(compare(each, (starts, ends, condition))) ** 0.5 for each in (solver, before))
    return FewStepFit(solver, error, first_error, first)


class _Numbers(eqx.Module):
    """A solver as it was at first, and what was added: logits of the gaps in time, and alpha and beta in own units."""

    table: Array  # (n, n + 1): alpha and beta at first
    unit: Array  # (n, n + 1)
    horizon: Array
    logits: Array  # (n,)
    added: Array  # (n, n + 1)

    def partition(self) -> tuple["_Numbers", "_Numbers"]:
        """What moves, and the rest."""
        spec = jax.tree.map(lambda _: False, self)
        return eqx.partition(self, eqx.tree_at(lambda n: (n.logits, n.added), spec, (True, True)))

    def solver(self) -> FewStep:
        below = jnp.flip(jnp.cumsum(jnp.flip(jax.nn.softmax(self.logits))))[1:]  # summed from 0, where times are small
        times = jnp.concatenate([self.horizon[None], self.horizon * below, jnp.zeros((1,))])
        table = self.table + self.unit * self.added
        return FewStep(times, table[:, 0], table[:, 1:])


def _candidates(predictor: Callable[..., Any], flow: Flow, n: int) -> dict[str, _Numbers]:
    """Solvers of n evaluations to start from."""
    samplers: list[AbstractSampler] = [Euler()]
    if _has_numbers(flow):
        samplers += [DPMSolver2M(), UniPC(2), UniPC(3)]
    unit = deviation_of(predictor)
    grids = {
        "rho": rho_grid(flow, n, data_std=unit),
        "cosine": cosine_grid(flow, n, data_std=unit),
        "uniform": uniform_grid(flow, n),
    }
    return {
        f"{sampler} on a {name} grid": _unrolled(sampler, flow, grid)
        for sampler in samplers
        for name, grid in grids.items()
    }


@eqx.filter_jit  # one program for all grids
def _unrolled(sampler: AbstractSampler, flow: Flow, grid: Array) -> _Numbers:
    """The table of a sampler with one evaluation a step: what it makes of unit vectors in place of x_T and the V_j."""
    n, vectors, asked = grid.size - 1, jnp.eye(grid.size), []

    def velocity(t: Array, x: Array) -> Array:
        asked.append(t)
        return vectors[len(asked)]

    x, rows, walk = vectors[0], [], Walk(velocity, flow, n)
    memory = sampler.init(x)
    for i in range(n):
        x, memory = sampler.step(walk, grid[i], grid[i + 1], x, memory, jr.key(0), i == n - 1)
        rows.append(x)
    zeros = jnp.zeros((n, n + 1))
    return _Numbers(jnp.stack(rows), zeros, grid[0], jnp.log(grid[:-1] - grid[1:]), zeros)


@eqx.filter_jit
def _sizes(
    predictor: Callable[..., Any], flow: Flow, solver: FewStep, starts: Array, condition: PyTree
) -> tuple[Array, Array]:
    """Root mean squares of x_0 .. x_n (x_T first) and of V_0 .. V_{n-1} along the solver's steps."""
    velocity, n = velocity_field(predictor, flow.system.domain), solver.alpha.shape[0]

    def one(x: Array, condition: PyTree) -> tuple[Array, Array]:
        walk, memory, positions = Walk(lambda t, x: velocity(t, x, condition), flow, n), solver.init(x), [x]
        for t, s in zip(solver.times[:-1], solver.times[1:], strict=True):
            x, memory = solver.step(walk, t.astype(x.dtype), s.astype(x.dtype), x, memory, jr.key(0), False)
            positions.append(x)
        return jnp.stack(positions), memory[2]

    parts = eqx.filter_vmap(one, in_axes=(0, None if condition is None else 0))(starts, condition)
    return tuple(jnp.sqrt(jnp.mean(p**2, axis=(0, *range(2, p.ndim)))) for p in parts)  # pyright: ignore[reportReturnType]


def _in_units(numbers: _Numbers, positions: Array, slopes: Array) -> _Numbers:
    """A step of Adam moves x_{i+1} by a share of its size: what multiplies x_T and V_j has that size over theirs."""
    by = jnp.concatenate([positions[:1], slopes])
    unit = positions[1:, None] / jnp.where(by > 0, by, jnp.ones_like(by))[None, :]
    return eqx.tree_at(lambda n: n.unit, numbers, unit)


def _distance(predictor: Callable[..., Any], flow: Flow) -> Callable[..., Array]:
    """The mean square distance of a solver's ends from the right ones."""
    domain, velocity = flow.system.domain, velocity_field(predictor, flow.system.domain)

    def distance(solver: FewStep, starts: Array, ends: Array, condition: PyTree) -> Array:
        def one(x: Array, end: Array, condition: PyTree) -> Array:
            walk = Walk(lambda t, x: velocity(t, x, condition), flow, solver.alpha.shape[0])
            x = walk_down(solver, walk, x, solver.times.astype(x.dtype), jr.key(0))
            return jnp.mean((domain.fold(x, x)[0] - end) ** 2)

        in_axes = (0, 0, None if condition is None else 0)
        return jnp.mean(eqx.filter_vmap(one, in_axes=in_axes)(starts, ends, condition))

    return distance


def _has_numbers(flow: Flow) -> bool:
    """Whether a and b are numbers, so that a sampler treats unit vectors of any length as it treats positions."""
    if not flow.is_linear:
        return False
    operators = flow.coefficient_operators(jnp.asarray(flow.horizon, float) / 2.0, None)
    return all(isinstance(operator, linear.Scaling) for operator in operators)


def _rows(tree: PyTree, rows: Array) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], tree)


def _require(evaluations: int, paths: int, iterations: int, batch: int, condition: PyTree) -> None:
    for name, value, least in (
        ("num_evaluations", evaluations, 1),
        ("num_iterations", iterations, 1),
        ("batch_size", batch, 1),
        ("num_paths", paths, 16),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if batch > paths - paths // 4:
        raise ValueError(f"batch_size {batch} is more than the {paths - paths // 4} paths that are fitted to")
    for leaf in jax.tree.leaves(condition):
        if jnp.shape(leaf)[:1] != (paths,):
            raise ValueError(
                f"condition has a leaf of shape {jnp.shape(leaf)}, but there are {paths} paths: give one a path"
            )
