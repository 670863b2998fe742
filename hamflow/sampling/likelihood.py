"""Likelihood: the density that a velocity predictor gives to data, by the change of volume along its paths.

    log pi(x_0) = log q_T(x_T) + int_0^T div V(t, x_t) dt,   dx/dt = V(t, x),

which follows from d q_t / dt + div(q_t V) = 0 (Chen et al. 2018 for any flow; Holderrieth, Xu, Jaakkola 2024 for
these). The divergence is exact, or Hutchinson's estimate e^T (dV/dx) e with random e, which is right on average.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._parameters import require
from .._types import Array, Float, Key, PRNGKeyArray, PyTree, checked
from ..domains import Euclidean
from ..flow import Flow
from ..predictors import deviation_of
from .grids import rho_grid
from .velocity_field import require_ordinary, solve_on_grid, solve_to_tolerance, velocity_field, with_own_tolerances
from .volume_change import change_on_grid, with_divergence

Probes = Literal["signs", "normal"]
Data = Float[Array | np.ndarray, "batch *event"]


class LikelihoodEstimate(NamedTuple):
    """What `log_likelihood_and_error` returns, each of shape `(batch,)`, in nats.

    Attributes:
        log_likelihood: the mean over the probes.
        standard_error: of that mean, from their spread.
    """

    log_likelihood: Array
    standard_error: Array


@checked
def log_likelihood(
    predictor: Callable[..., Any],
    flow: Flow,
    x: Data,
    key: PRNGKeyArray | Key[Array, "batch"] | None = None,
    *,
    num_probes: int = 1,
    probes: Probes = "signs",
    condition: PyTree = None,
    num_steps: int | None = None,
    solver: diffrax.AbstractSolver | None = None,
    tolerance: float = 1e-5,
) -> Float[Array, "batch"]:
    """log pi(x) of each example, in nats.

    Args:
        predictor: `predictor(t, x, condition, None) -> velocity` on one example.
        flow: gives the horizon, the prior and the domain. What the prior is off from the true law at the horizon, the
            likelihood is off too: nothing for flow matching and oscillations; for diffusion centre the data.
        x: floating, of shape `(batch, *event)`.
        key: None for the exact divergence, at one forward derivative a coordinate; a jax key for Hutchinson's
            estimate, at one a probe: row i uses `fold_in(key, i)`; or an array of keys, one a row.
        num_probes: random vectors a row. The mean of the estimate does not depend on it.
        probes: their law. Signs have the variance 2 (|A|^2 - sum A_ii^2), A the symmetric part of dV/dx, normal ones
            2 |A|^2.
        condition: None, or a tree of arrays with a leading axis of `batch`.
        num_steps: None for steps chosen by `tolerance`; else so many on the flow's own grid (`rho_grid`), rising.
        solver: a diffrax solver for ordinary equations; Tsit5 with a tolerance and Heun on a grid unless given.
        tolerance: relative and absolute, of a step. Single precision has little below 1e-6.

    Returns:
        Shape `(batch,)`, in x's dtype; differentiable in x and in the arrays of predictor and flow: once, in reverse
            (`jax.grad`), with steps by a tolerance; as often and either way as one likes with `num_steps`.

    Raises:
        TypeError: arguments of another kind, by name.
        ValueError: no rows, data that are not finite, probes without a key, another number of conditions than rows, a
            solver that is not for one ordinary equation.
        RuntimeError: a datum outside the domain; a path that takes more than 4,096 steps.
    """
    values = _values(predictor, flow, x, key, num_probes, probes, condition, num_steps, solver, tolerance)
    return jnp.mean(values, axis=1)


@checked
def log_likelihood_and_error(
    predictor: Callable[..., Any],
    flow: Flow,
    x: Data,
    key: PRNGKeyArray | Key[Array, "batch"],
    *,
    num_probes: int = 8,
    probes: Probes = "signs",
    condition: PyTree = None,
    num_steps: int | None = None,
    solver: diffrax.AbstractSolver | None = None,
    tolerance: float = 1e-5,
) -> LikelihoodEstimate:
    """Hutchinson's estimate with its standard error, from the spread of the probes along one path a row.

    Args:
        predictor: as in `log_likelihood`, like all others.
        flow: its horizon, prior and domain.
        x: floating, of shape `(batch, *event)`.
        key: a jax key, for the probes, or an array of keys, one a row.
        num_probes: at least 2.
        probes: "signs" or "normal".
        condition: None, or a tree of arrays with a leading axis of `batch`.
        num_steps: None, or steps on the flow's grid.
        solver: a diffrax solver.
        tolerance: of a step.

    Returns:
        `(log_likelihood, standard_error)`, of shape `(batch,)` each. The error is that of the probes, not of the steps
        and not of the predictor.

    Raises:
        ValueError: fewer than two probes, and as in `log_likelihood`.
    """
    if num_probes < 2:
        raise ValueError(f"num_probes must be at least 2 for an error, got {num_probes}")
    values = _values(predictor, flow, x, key, num_probes, probes, condition, num_steps, solver, tolerance)
    return LikelihoodEstimate(jnp.mean(values, axis=1), jnp.std(values, axis=1, ddof=1) / num_probes**0.5)


def bits_per_dimension(log_likelihood: Float[Array | np.ndarray, "*batch"], size: int) -> Array:
    """-log2 of the probability of 8-bit values, per value, from log densities of x = u / 127.5 - 1.

    Args:
        log_likelihood: in nats, of data that `dequantize` made.
        size: how many values an example has, such as 3 * 64 * 64.

    Returns:
        -log_likelihood / (size log 2) + log2(127.5), of the same shape; the constant is 6.9944.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    values = jnp.asarray(log_likelihood)
    return -values / (size * math.log(2.0)) + math.log2(127.5)


def dequantize(pixels: Array | np.ndarray, key: PRNGKeyArray) -> Array:
    """8-bit values with uniform noise in [0, 1), as x = (u + noise) / 127.5 - 1.

    The density of x, averaged over the noise inside the logarithm, is a lower bound of the probability of the values
    (Theis, van den Oord, Bethge 2016).

    Args:
        pixels: uint8, of any shape.
        key: a jax key.

    Raises:
        TypeError: pixels that are not uint8.
    """
    pixels = jnp.asarray(pixels)
    if pixels.dtype != jnp.uint8:
        raise TypeError(f"pixels must be uint8, got {pixels.dtype}: noise belongs to values that were rounded")
    noise = jr.uniform(key, pixels.shape)
    return (pixels.astype(noise.dtype) + noise) / 127.5 - 1.0


def _values(
    predictor: Any,
    flow: Flow,
    x: Any,
    key: Any,
    num_probes: int,
    probes: str,
    condition: Any,
    num_steps: int | None,
    solver: diffrax.AbstractSolver | None,
    tolerance: float,
) -> Array:
    """log pi by every probe: of shape (batch, probes), or (batch, 1) where it is exact."""
    x = jnp.asarray(x)
    require_rows(x, condition)
    if num_probes < 1:
        raise ValueError(f"num_probes must be at least 1, got {num_probes}")
    if key is None and num_probes != 1:
        raise ValueError("num_probes are of Hutchinson's estimate, which needs a key: give key=jax.random.key(...)")
    grid, solver = steps_of(flow, num_steps, solver, tolerance, deviation_of(predictor))
    return _integrate(predictor, flow, x, key, num_probes, probes == "normal", condition, grid, solver, tolerance)


@eqx.filter_jit
def _integrate(predictor, flow, x, key, num_probes, gaussian, condition, grid, solver, tolerance) -> Array:
    x = require_inside(x, flow, "log_likelihood")
    domain, field = flow.system.domain, velocity_field(predictor, flow.system.domain)
    keys = key
    if key is not None and not (key.ndim and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        keys = jax.vmap(lambda i: jr.fold_in(key, i))(jnp.arange(x.shape[0]))

    def one(x: Array, key: Any, condition: Any) -> Array:
        directions = None
        if key is not None:
            draw = jr.normal if gaussian else jr.rademacher
            directions = draw(key, (num_probes, *x.shape), x.dtype)

        def augmented(t: Array, y: tuple[Array, Array], condition: Any) -> tuple[Array, Array]:
            t = jnp.asarray(t, x.dtype)
            return with_divergence(lambda x: field(t, x, condition), y[0], directions)

        if grid is not None and isinstance(solver, diffrax.AbstractERK):
            end, gained = change_on_grid(
                lambda t, x: field(t, x, condition), x, directions, grid.astype(x.dtype), solver
            )
        else:
            start = (x, jnp.zeros((1 if directions is None else num_probes,), x.dtype))
            unit = deviation_of(predictor)
            units = None if unit is None else (unit, 1.0)
            end, gained = solve(augmented, start, flow, grid, solver, tolerance, condition, units=units)
        return flow.prior.log_prob(domain.fold(end, end)[0]) + gained

    in_axes = (0, None if keys is None else 0, None if condition is None else 0)
    return eqx.filter_vmap(one, in_axes=in_axes)(x, keys, condition)


def steps_of(
    flow: Flow,
    num_steps: int | None,
    solver: diffrax.AbstractSolver | None,
    tolerance: float,
    data_std: float | Array | None = None,
) -> tuple[Array | None, diffrax.AbstractSolver]:
    """The rising grid, or None where steps are chosen by tolerance, and the solver."""
    if not tolerance > 0.0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    if solver is not None:
        require_ordinary(solver)
    if num_steps is None:
        if solver is not None and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
            raise ValueError(f"solver {type(solver).__name__} cannot choose its steps: give num_steps, or use Tsit5")
        return None, diffrax.Tsit5() if solver is None else solver
    grid = rho_grid(flow, num_steps, data_std=data_std)[::-1]
    return grid, diffrax.Heun() if solver is None else with_own_tolerances(solver)


def solve(
    field: Callable[..., Any],
    y: Any,
    flow: Flow,
    grid: Array | None,
    solver: diffrax.AbstractSolver,
    tolerance: float,
    args: Any,
    *,
    units: Any = None,
) -> Any:
    """From the data to the horizon; `units` as in `solve_to_tolerance`."""
    dtype = jax.tree.leaves(y)[0].dtype
    if grid is not None:
        return solve_on_grid(field, y, grid.astype(dtype), solver, args)
    horizon = jnp.asarray(flow.horizon, dtype)
    return solve_to_tolerance(field, y, jnp.zeros_like(horizon), horizon, solver, tolerance, args, units=units)


def require_rows(x: Array, condition: Any) -> None:
    """`ValueError` for no rows, rows that are not finite, or conditions that are not one a row."""
    if x.shape[0] < 1:
        raise ValueError(f"x must be (batch, *event) with at least one row, got shape {x.shape}")
    require(x, jnp.isfinite, "x must be finite: look for NaN or infinity in it")
    for leaf in jax.tree.leaves(condition):
        if jnp.shape(leaf)[:1] != x.shape[:1]:
            raise ValueError(
                f"condition has a leaf of shape {jnp.shape(leaf)}, but x has {x.shape[0]} rows: give one condition a "
                "row"
            )


def require_inside(x: Array, flow: Flow, name: str) -> Array:
    """x, or a `RuntimeError` where a row lies outside the domain."""
    domain = flow.system.domain
    if isinstance(domain, Euclidean):
        return x
    message = f"{name}: a row of x is outside the {type(domain).__name__} of this flow: rescale the data into it"
    return eqx.error_if(x, ~jax.vmap(domain.contains)(x), message)
