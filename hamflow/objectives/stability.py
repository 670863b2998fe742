"""How long is short? The fastest swing of a force, and the step at which a method leaves it."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, PRNGKeyArray
from ..integrators.base import AbstractIntegrator
from ..integrators.stages import drift, kick
from ..kinetics import AbstractKinetic
from ..potentials.base import AbstractForce
from .boltzmann import ShortTime


def stability_limit(integrator: AbstractIntegrator) -> float:
    """The largest h w of an oscillator of frequency w that the method follows without growing; infinite if none.

    A step of h is a matrix of determinant one, and grows where its trace leaves [-2, 2] (2 for leapfrog).
    """
    stages = integrator.stages()
    if any(stage.action not in (kick, drift) for stage in stages):
        return math.inf
    k = np.linspace(1e-3, 20.0, 20_000)
    step = np.broadcast_to(np.eye(2), (k.size, 2, 2))
    for stage in stages:
        share = stage.coefficient * k
        one, zero = np.ones_like(k), np.zeros_like(k)
        rows = ((one, zero), (-share, one)) if stage.action is kick else ((one, share), (zero, one))
        step = np.moveaxis(np.array(rows), -1, 0) @ step
    grows = np.abs(np.trace(step, axis1=1, axis2=2)) > 2.0 + 1e-9
    return float(k[np.argmax(grows)]) if grows.any() else math.inf


@eqx.filter_jit
def curvature(
    force: AbstractForce, kinetic: AbstractKinetic, data: Array, key: PRNGKeyArray, iterations: int = 24
) -> Array:
    """The largest |eigenvalue| of d(dv/dt)/dx over some data, by power iteration: a squared frequency."""

    def one(x: Array, key: PRNGKeyArray) -> Array:
        def push(u: Array) -> Array:
            change = jax.jvp(lambda x: force.force(jnp.zeros((), x.dtype), x), (x,), (u,))[1]
            return jax.jvp(kinetic.velocity, (jnp.zeros_like(x),), (change,))[1]

        def turn(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            u, _ = carry
            w = push(u)
            size = jnp.sqrt(jnp.sum(w**2))
            safe = jnp.where(size > 0, size, jnp.ones_like(size))
            return jnp.where(size > 0, w / safe, u), size

        start = jr.normal(key, x.shape, x.dtype)
        start = start / jnp.sqrt(jnp.sum(start**2))
        return jax.lax.fori_loop(0, iterations, turn, (start, jnp.zeros((), x.dtype)))[1]

    return jnp.max(jax.vmap(one)(data, jr.split(key, data.shape[0])))


def natural_time(fastest: float, kinetic: AbstractKinetic, data: Array, key: PRNGKeyArray) -> float:
    """The time in which neither the fastest swing nor a walk through the data is over."""
    momenta = jax.vmap(lambda k: kinetic.sample(k, data.shape[1:]))(jr.split(key, 256)).astype(data.dtype)
    speed = float(jnp.sqrt(jnp.mean(jax.vmap(kinetic.velocity)(momenta) ** 2)))
    spread = float(jnp.min(jnp.std(data, axis=0)))
    return min(spread / speed, 1.0 / fastest if fastest > 0.0 else math.inf)


def fastest_swing(force: AbstractForce, kinetic: AbstractKinetic, data: Array, key: PRNGKeyArray) -> float:
    """The largest angular frequency of a force about some data, in radians a unit of time.

    Raises:
        ValueError: a force without a finite derivative there.
    """
    fastest = math.sqrt(float(curvature(force, kinetic, data[:64], key)))
    if not math.isfinite(fastest):
        raise ValueError("the score is not finite (or has no finite derivative) at some data: look at it there first")
    return fastest


def require_stable(short: ShortTime, fastest: float) -> None:
    """A `ValueError` for a time whose steps a method cannot follow where swings are so fast."""
    limit = stability_limit(short.integrator)
    longest = max(short.times) / short.num_steps * fastest
    if longest >= limit:
        name = type(short.integrator).__name__
        raise ValueError(
            f"times up to {max(short.times):.4g} in {short.num_steps} step(s) are beyond the stability of {name}: the "
            f"fastest swing of this score is {fastest:.4g} radians a unit of time, so one step must stay below "
            f"{limit / fastest:.4g}. Take shorter times, or more steps"
        )
