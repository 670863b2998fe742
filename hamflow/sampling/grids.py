"""Time grids of sampling, from the horizon down to 0."""

import math

import equinox as eqx
import jax.numpy as jnp

from .._parameters import require
from .._types import Array, Float, checked
from ..flow import Flow
from ..noise_scale import AbstractNoiseScale


@checked
def rho_grid(
    flow: Flow,
    num_steps: int,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    data_std: float | Array | None = None,
) -> Float[Array, "times"]:
    """The horizon, then times rho-spaced in the flow's sigma, then 0 (Karras et al. 2022, eq. 5).

    sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho for i = 0 .. n-1, the time of
    sigma_0 replaced by the horizon itself, which an oscillation reaches at infinite sigma. The spacing knows sigma
    alone: where positions go on growing after sigma has levelled off (an unstable system), the first step has to undo
    all of that growth, so end such a flow earlier or give `generate` times of your own.

    Args:
        flow: gives sigma(t).
        num_steps: n, at least 1.
        sigma_min: the last sigma before 0. Unless given, .004 times `data_std`, EDM's .002 for one half. Without
            `data_std` .002, moved where the flow's units ask for it: into 2.5e-6 to 7e-4 times sigma(T), or 2e-4 to
            .02 times the noise at T where sigma(T) is infinite.
        sigma_max: the first sigma; the flow's sigma at its horizon where that is smaller. Unless given, sigma(T), and
            160 times `data_std` where that is infinite, EDM's 80 for one half; without `data_std` 80, moved into 16 to
            1,600 times the noise at T.
        rho: larger puts more steps near the data.
        data_std: the standard deviation of the data, the unit of the two sigmas above. `generate` gives that of its
            predictor.

    Returns:
        `num_steps + 1` decreasing times, in jax's default float.

    Raises:
        ValueError: fewer than one step, a sigma or rho that is not positive, sigma_min not below sigma_max
            and the flow's own largest sigma.
    """
    _require_positive(rho=rho)
    return _spaced(flow, num_steps, sigma_min, sigma_max, rho, data_std)


@checked
def log_snr_grid(
    flow: Flow,
    num_steps: int,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    data_std: float | Array | None = None,
) -> Float[Array, "times"]:
    """The horizon, then times even in log sigma, half the log of the signal-to-noise ratio, then 0.

    The limit of `rho_grid` for large rho; it puts more steps near the data than any of them (the grid of DPM-Solver, Lu
    et al. 2022).

    Args:
        flow: gives sigma(t).
        num_steps: n, at least 1.
        sigma_min: as in `rho_grid`.
        sigma_max: as in `rho_grid`.
        data_std: as in `rho_grid`.

    Returns:
        `num_steps + 1` decreasing times, in jax's default float.

    Raises:
        ValueError: as in `rho_grid`.
    """
    return _spaced(flow, num_steps, sigma_min, sigma_max, None, data_std)


@checked
def uniform_grid(flow: Flow, num_steps: int) -> Float[Array, "times"]:
    """Times even from the horizon to 0: t_i = T (1 - i / n).

    Args:
        flow: gives the horizon T.
        num_steps: n, at least 1.

    Returns:
        `num_steps + 1` decreasing times, in jax's default float.

    Raises:
        ValueError: fewer than one step.
    """
    _require_steps(num_steps)
    horizon = jnp.asarray(flow.horizon, float)
    # The first is the horizon itself: T * 1.0 could round otherwise in a product of traced numbers.
    return jnp.concatenate([horizon[None], horizon * (1.0 - jnp.arange(1.0, num_steps + 1.0) / num_steps)])


@checked
def cosine_grid(
    flow: Flow,
    num_steps: int,
    *,
    middle: float | None = None,
    sigma_max: float | None = None,
    data_std: float | Array | None = None,
) -> Float[Array, "times"]:
    """Even in the angle arctan(sigma / middle), from its value at sigma_max to 0: the cosine schedule.

    With data of unit variance and `middle=1` the share of data in x_t is a cosine of the step (Nichol and Dhariwal
    2021); of an oscillation at frequency 1 / middle these are even times.

    Args:
        flow: gives sigma(t).
        num_steps: n, at least 1.
        middle: the sigma at 45 degrees, about the deviation of the data. Unless given, the geometric mean of the ends
            of `rho_grid`: .4 with EDM's.
        sigma_max: the sigma of the first angle, as in `rho_grid`; the first time is the horizon all the same.
        data_std: as in `rho_grid`.

    Returns:
        `num_steps + 1` decreasing times, in jax's default float.

    Raises:
        ValueError: fewer than one step, a sigma that is not positive.
    """
    _require_steps(num_steps)
    _require_positive(middle=middle, sigma_max=sigma_max)
    return _cosine(flow, num_steps, middle, sigma_max, _as_unit(data_std))


def _spaced(
    flow: Flow,
    num_steps: int,
    sigma_min: float | None,
    sigma_max: float | None,
    rho: float | None,
    data_std: float | Array | None,
) -> Float[Array, "times"]:
    _require_steps(num_steps)
    _require_positive(sigma_min=sigma_min, sigma_max=sigma_max)
    grid, least, last = _spaced_in_sigma(flow, num_steps, sigma_min, sigma_max, rho, _as_unit(data_std))
    require(
        (least, last),
        lambda ends: ends[0] < ends[1],
        f"sigma_min {sigma_min} must be below sigma_max {sigma_max} and below the flow's sigma at its horizon "
        f"{flow.horizon}: pass a smaller sigma_min",
    )
    return grid


def _as_unit(data_std: float | Array | None) -> float | Array | None:
    if data_std is not None:
        require(data_std, lambda s: s > 0, f"data_std must be positive, got {data_std}")
    return data_std


def _require_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")


def _require_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value}")


@eqx.filter_jit  # some forty operations on a handful of numbers: one by one they cost 8 ms
def _spaced_in_sigma(
    flow: Flow,
    num_steps: int,
    sigma_min: float | None,
    sigma_max: float | None,
    rho: float | None,
    data_std: float | Array | None,
) -> tuple[Array, Array, Array]:
    """The grid, even in sigma^(1/rho) or without a rho in log sigma; and log sigma at its end and its start."""

    def evened(log_sigma: Array) -> Array:
        return log_sigma if rho is None else jnp.exp(log_sigma / rho)

    def log_sigma(even: Array) -> Array:
        return even if rho is None else rho * jnp.log(even)

    scale, horizon = flow.noise_scale.for_data(data_std), jnp.asarray(flow.horizon, float)
    lowest, last = _ends(flow, scale, sigma_min, sigma_max)
    first = evened(last)
    ramp = jnp.linspace(0.0, 1.0, max(num_steps, 2))[1:num_steps]
    # Where sigma_min lies below the scale's whole range, its time is 0: end one even step before the smallest sigma.
    least = evened(scale.log_sigma(jnp.zeros_like(horizon)))
    end = jnp.where(
        scale.time(lowest) > 0,
        evened(lowest),
        first + (num_steps - 1) / num_steps * (least - first),
    )
    inner = scale.time(log_sigma(first + ramp * (end - first)))
    return jnp.concatenate([horizon[None], inner, jnp.zeros((1,))]), lowest, last


@eqx.filter_jit
def _cosine(
    flow: Flow, num_steps: int, middle: float | None, sigma_max: float | None, data_std: float | Array | None
) -> Array:
    scale, horizon = flow.noise_scale.for_data(data_std), jnp.asarray(flow.horizon, float)
    lowest, last = _ends(flow, scale, None, sigma_max)
    centre = (lowest + last) / 2.0 if middle is None else jnp.log(jnp.asarray(middle, float))
    first = jnp.arctan(jnp.exp(last - centre))
    least = jnp.arctan(jnp.exp(scale.log_sigma(jnp.zeros_like(horizon)) - centre))
    least = jnp.where(scale.time(lowest) > 0, jnp.zeros_like(least), least)  # of a scale that starts above sigma_min
    angle = first + (least - first) * jnp.arange(1.0, float(num_steps)) / num_steps
    inner = scale.time(centre + jnp.log(jnp.tan(angle)))
    return jnp.concatenate([horizon[None], inner, jnp.zeros((1,))])


def _ends(
    flow: Flow, scale: AbstractNoiseScale, sigma_min: float | None, sigma_max: float | None
) -> tuple[Array, Array]:
    """log sigma at the last time before 0 and at the first."""
    smallest, largest = scale.span()
    lowest = jnp.log(jnp.asarray(smallest if sigma_min is None else sigma_min, float))
    last = jnp.log(jnp.asarray(largest if sigma_max is None else sigma_max, float))
    return lowest, jnp.minimum(scale.log_sigma(jnp.asarray(flow.horizon, float)), last)
