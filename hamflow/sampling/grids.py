"""Time grids of sampling, from the horizon down to 0."""

import math

import equinox as eqx
import jax.numpy as jnp

from .._parameters import require
from .._types import Array, Float, checked
from ..flow import Flow


@checked
def rho_grid(
    flow: Flow, num_steps: int, *, sigma_min: float | None = None, sigma_max: float | None = None, rho: float = 7.0
) -> Float[Array, "times"]:
    """The horizon, then times rho-spaced in the flow's sigma, then 0 (Karras et al. 2022, eq. 5).

    sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho for i = 0 .. n-1, the time of
    sigma_0 replaced by the horizon itself, which an oscillation reaches at infinite sigma. The spacing knows sigma
    alone: where positions go on growing after sigma has levelled off (an unstable system), the first step has to undo
    all of that growth, so end such a flow earlier or give `generate` times of your own.

    Args:
        flow: gives sigma(t).
        num_steps: n, at least 1.
        sigma_min: the last sigma before 0. Unless given, EDM's .002, moved where the flow's units ask for it: into
            2.5e-6 to 7e-4 times sigma(T), or 2e-4 to .02 times the noise at T where sigma(T) is infinite.
        sigma_max: the first sigma; the flow's sigma at its horizon where that is smaller. Unless given, sigma(T), and
            EDM's 80 where that is infinite, moved into 16 to 1,600 times the noise at T.
        rho: larger puts more steps near the data.

    Returns:
        `num_steps + 1` decreasing times, in jax's default float.

    Raises:
        ValueError: fewer than one step, a sigma or rho that is not positive, sigma_min not below sigma_max
            and the flow's own largest sigma.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    for name, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max), ("rho", rho)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value}")
    grid, least, last = _rho_grid(flow, num_steps, sigma_min, sigma_max, rho)
    require(
        (least, last),
        lambda ends: ends[0] < ends[1],
        f"sigma_min {sigma_min} must be below sigma_max {sigma_max} and below the flow's sigma at its horizon "
        f"{flow.horizon}: pass a smaller sigma_min",
    )
    return grid


@eqx.filter_jit  # some forty operations on a handful of numbers: one by one they cost 8 ms
def _rho_grid(
    flow: Flow, num_steps: int, sigma_min: float | None, sigma_max: float | None, rho: float
) -> tuple[Array, Array, Array]:
    """The grid, and log sigma where it ends and where it starts."""
    horizon = jnp.asarray(flow.horizon, float)
    scale = flow.noise_scale
    smallest, largest = scale.span()
    lowest = jnp.log(jnp.asarray(smallest if sigma_min is None else sigma_min, float))
    last = jnp.log(jnp.asarray(largest if sigma_max is None else sigma_max, float))
    last = jnp.minimum(scale.log_sigma(horizon), last)
    first = jnp.exp(last / rho)
    ramp = jnp.linspace(0.0, 1.0, max(num_steps, 2))[1:num_steps]
    # Where sigma_min lies below the scale's whole range, its time is 0: end one even step before the smallest sigma.
    least = jnp.exp(scale.log_sigma(jnp.zeros_like(horizon)) / rho)
    end = jnp.where(
        scale.time(lowest) > 0,
        jnp.exp(lowest / rho),
        first + (num_steps - 1) / num_steps * (least - first),
    )
    inner = scale.time(rho * jnp.log(first + ramp * (end - first)))
    return jnp.concatenate([horizon[None], inner, jnp.zeros((1,))]), lowest, last
