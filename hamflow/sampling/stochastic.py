"""Samplers that draw on the way: the reverse SDE, and EDM's churn.

Both leave the law of every x_t as it is where the predictor is exact; noise on the way forgives earlier
errors.
"""

import math
from typing import final

import jax.numpy as jnp
import jax.random as jr

from .._parameters import as_parameter, fit, require
from .._types import Array, Float, PRNGKeyArray, PyTree, ScalarLike, checked
from ..conversions import heat_kinetic
from ..flow import Flow
from .multistep import plain_coefficients, require_normal, require_plain
from .samplers import AbstractSampler, Walk


@final
class ReverseSDE(AbstractSampler):
    """x_s = x + h (-V + g^2 score / 2) + g sqrt(h) z, h = t - s: Euler-Maruyama, the last step without noise.

    g^2 = 2 strength b W for a linear flow x = a x_0 + b e with a normal e and W = a b' - a' b, which for diffusion at
    strength 1 is the reverse of the process that made the noise (Song et al. 2021); the score term is then
    -strength (a V - a' x), safe at both ends. In a box or on a torus with free normal motion g^2 = 2 strength t / mass
    and the term is -strength V (derived here). The law is kept for every strength; 0 is Euler's method.

    Args:
        strength: not negative.

    Raises:
        ValueError: a strength that is negative; in use, a flow whose velocity does not give its score.
    """

    strength: float | Array

    @checked
    def __init__(self, strength: ScalarLike = 1.0):
        self.strength = as_parameter(strength, "strength")
        require(self.strength, lambda s: s >= 0, f"strength must not be negative, got {self.strength}")

    def require_flow(self, flow: Flow) -> None:
        require_normal(flow, "ReverseSDE")
        if flow.is_linear or heat_kinetic(flow) is None:  # a diffusion is both, and is followed as a linear flow
            require_plain(flow, "ReverseSDE")

    def init(self, x: Float[Array, "*event"]) -> PyTree:
        return None

    def step(
        self, walk: Walk, t: Array, s: Array, x: Array, memory: PyTree, key: PRNGKeyArray, last: bool
    ) -> tuple[Array, PyTree]:
        velocity, h = walk.velocity(t, x), t - s
        if last:
            return x - h * velocity, None
        strength = jnp.asarray(self.strength, x.dtype)
        if walk.flow.is_linear:
            a, b, a_dot, b_dot = (
                jnp.broadcast_to(jnp.asarray(o.value, x.dtype), x.shape)
                for o in walk.flow.coefficient_operators(t, x.shape)
            )
            pull, spread = a * velocity - a_dot * x, jnp.abs(b * (a * b_dot - a_dot * b))
        else:
            kinetic = heat_kinetic(walk.flow)
            assert kinetic is not None  # refused before
            pull, spread = velocity, t / fit(kinetic.mass, x.shape, x.dtype, "mass")
        noise = jnp.sqrt(2.0 * strength * spread * h) * jr.normal(key, x.shape, x.dtype)
        return x - h * (velocity + strength * pull) + noise, None


@final
class Churn(AbstractSampler):
    """Heun's method with noise added before every step: EDM's stochastic sampler (Karras et al. 2022, algorithm 2).

    From sigma to (1 + gamma) sigma with fresh noise, gamma = min(amount / n, sqrt(2) - 1) for n steps, then down to the
    next sigma; in the flow's own a and b, so for every linear flow with normal noise, with sigma = b / a.

    Args:
        amount: S_churn, not negative; 0 is Heun's method.
        sigma_min: no noise is added below this sigma.
        sigma_max: nor above this one.
        noise: S_noise, the deviation of the noise added; a little above 1 makes up for a denoiser that blurs.

    Raises:
        ValueError: a negative number; in use, a flow that is not linear, or whose noise is not normal.
    """

    amount: float
    sigma_min: float
    sigma_max: float
    noise: float

    @checked
    def __init__(self, amount: float = 40.0, sigma_min: float = 0.0, sigma_max: float = math.inf, noise: float = 1.0):
        for name, value in (("amount", amount), ("sigma_min", sigma_min), ("sigma_max", sigma_max), ("noise", noise)):
            if not value >= 0.0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.amount, self.sigma_min, self.sigma_max, self.noise = amount, sigma_min, sigma_max, noise

    def require_flow(self, flow: Flow) -> None:
        require_normal(flow, "Churn")
        require_plain(flow, "Churn")

    def init(self, x: Float[Array, "*event"]) -> PyTree:
        return None

    def step(
        self, walk: Walk, t: Array, s: Array, x: Array, memory: PyTree, key: PRNGKeyArray, last: bool
    ) -> tuple[Array, PyTree]:
        gamma = min(self.amount / walk.num_steps, math.sqrt(2.0) - 1.0)
        if gamma > 0.0:
            t, x = self._noised(walk, t, x, key, gamma)
        slope = walk.velocity(t, x)
        if last:
            return x + (s - t) * slope, None
        corrected = walk.velocity(s, x + (s - t) * slope)
        return x + (s - t) / 2.0 * (slope + corrected), None

    def _noised(self, walk: Walk, t: Array, x: Array, key: PRNGKeyArray, gamma: float) -> tuple[Array, Array]:
        """The time where sigma is (1 + gamma) times as large, and x there."""
        scale = walk.flow.noise_scale
        log_sigma = scale.log_sigma(t)
        churned = scale.time(log_sigma + math.log1p(gamma))
        a, b = plain_coefficients(walk.flow, t, x)
        a_up, b_up = plain_coefficients(walk.flow, churned, x)
        sigma = jnp.exp(log_sigma)
        # Not from the horizon, above which there is no time; nor where no data are left to scale.
        used = (churned > t) & (sigma >= self.sigma_min) & (sigma <= self.sigma_max) & jnp.all(a > 1e-5 * b)
        ratio = a_up / jnp.where(used, a, jnp.ones_like(a))
        added = jnp.sqrt(jnp.maximum(b_up**2 - (ratio * b) ** 2, 0.0))
        x = jnp.where(used, ratio * x + self.noise * added * jr.normal(key, x.shape, x.dtype), x)
        return jnp.where(used, churned, t), x
