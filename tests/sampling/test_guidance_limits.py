"""Guidance where no data are left, and measurements whose rows overlap, against posteriors in closed form."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from systems import array

import hamflow as hf


def normal(shape=()):
    """x_0 ~ N(0, 1) in every coordinate."""
    return hf.GaussianMixturePotential(jnp.zeros((1, *shape)), jnp.ones(1), jnp.ones(1))


def test_an_oscillation_gains_the_sine_of_the_time():
    """E = x_0: W b s^2 / S = sin t with S = cos^2 + sin^2, so 1 at T, where a = cos T = 0."""
    flow = hf.oscillation(1.0)
    predictor = hf.MixtureVelocity(normal(), flow)
    guided = hf.EnergyGuided(predictor, flow, lambda x: x)
    t = jnp.asarray([0.05, 0.5, 1.2, 1.55, 1.569, float(flow.horizon) * (1 - 1e-6), float(flow.horizon)])
    x = jnp.asarray(0.7)
    gained = jax.vmap(lambda t: guided(t, x) - predictor(t, x))(t)
    np.testing.assert_allclose(gained, jnp.sin(t), rtol=2e-4)


def test_flow_matching_has_a_limit_too():
    """a = 1 - t, b = t: W = 1, so b / S with S = (1 - t)^2 + t^2; 1 at T."""
    flow = hf.flow_matching()
    predictor = hf.MixtureVelocity(normal(), flow)
    guided = hf.EnergyGuided(predictor, flow, lambda x: x)
    t = jnp.asarray([0.3, 0.9, 0.9999, 1.0])
    gained = jax.vmap(lambda t: guided(t, jnp.asarray(-0.4)) - predictor(t, jnp.asarray(-0.4)))(t)
    np.testing.assert_allclose(gained, t / ((1 - t) ** 2 + t**2), rtol=4e-3)  # it is 3e-3 earlier at T


@pytest.mark.parametrize("grid", [hf.rho_grid, hf.cosine_grid, hf.uniform_grid])
def test_a_known_value_on_every_grid(grid):
    """y = 1.5 with noise .5 of x ~ N(0, 1): mean 1.2 and variance .2, from the first step at the horizon on."""
    flow = hf.oscillation(1.0)
    energy = hf.painted(array(1.5), array(1.0), std=0.5)
    guided = hf.EnergyGuided(hf.MixtureVelocity(normal((1,)), flow), flow, energy, data_std=1.0)
    # The probability flow is linear here: two starts give mean and deviation without noise.
    ends = hf.generate(guided, flow, jr.key(0), (2, 1), start=array([0.0], [1.0]), times=grid(flow, 18))
    assert float(ends[0, 0]) == pytest.approx(1.2, abs=0.02)
    assert float(ends[1, 0] - ends[0, 0]) ** 2 == pytest.approx(0.2, abs=0.02)


A = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.7, 0.7, 0.0]])


@pytest.mark.parametrize(
    "rows", [A, np.vstack([A, A[:1] + A[1:]]), np.eye(4), np.ones((6, 4))], ids=["two", "dependent", "eye", "many"]
)
@pytest.mark.parametrize("known", ["all", "some"])
def test_rows_that_overlap(rows, known):
    """x ~ N(0, I), y = A x + .3 e: mean A^T (A A^T + .09)^-1 y, covariance I - A^T (A A^T + .09)^-1 A."""
    mask = np.ones(len(rows)) if known == "all" else np.arange(len(rows)) % 2 == 0
    y = np.linspace(1.0, -0.6, len(rows))
    flow = hf.oscillation(1.0)
    matrix = jnp.asarray(rows, float)
    energy = hf.painted(jnp.asarray(y, float), jnp.asarray(mask, float), std=0.3, measure=lambda x: matrix @ x)
    guided = hf.EnergyGuided(hf.MixtureVelocity(normal((4,)), flow), flow, energy, data_std=1.0)
    start = jnp.concatenate([jnp.zeros((1, 4)), jnp.eye(4)])
    ends = np.asarray(hf.generate(guided, flow, jr.key(0), (5, 4), 60, start=start), float)
    seen, told = rows[mask > 0], y[mask > 0]
    gain = seen.T @ np.linalg.inv(seen @ seen.T + 0.09 * np.eye(len(seen)))
    np.testing.assert_allclose(ends[0], gain @ told, atol=0.01)
    moved = (ends[1:] - ends[:1]).T
    np.testing.assert_allclose(moved @ moved.T, np.eye(4) - gain @ seen, atol=0.02)
