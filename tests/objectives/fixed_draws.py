"""Draws that a test decides: a coupling with given noise and a law with given times."""

import jax.numpy as jnp

import hamflow as hf


class GivenNoise(hf.AbstractAffineCoupling):
    """p_0 = the given noise, one row an example; for the closed forms, as if it had been drawn from N(0, M)."""

    noise: jnp.ndarray

    def noise_is_normal(self):
        return True

    def sample(self, key, data, system, prior, horizon):
        return hf.PhaseState(data, self.noise)

    def require_system(self, system):
        return None

    def momentum_coefficients(self, system, prior, horizon, shape, dtype):
        return hf.IndependentCoupling().momentum_coefficients(system, prior, horizon, shape, dtype)


class GivenTime(hf.AbstractTimeLaw):
    """The same time for everybody, or one an example."""

    t: jnp.ndarray

    def sample(self, key, flow, shape, dtype=None):
        return jnp.broadcast_to(self.t, shape).astype(dtype or float)


def with_noise(flow, noise):
    return hf.Flow(flow.system, GivenNoise(noise), flow.horizon, flow.prior)
