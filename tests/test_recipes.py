"""The recipes are short functions that return a Flow: which one, and with which numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import array, spd

import hamflow as hf


def assert_same_flow(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-15)


def test_the_named_models_are_one_object_apart():
    """As the essay in flow.py writes them out."""
    free = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic())
    independent = hf.IndependentCoupling()
    assert_same_flow(hf.diffusion(), hf.Flow(free, independent, 80.0, hf.NormalPrior(0.0, math.sqrt(80.0**2 + 0.25))))
    assert_same_flow(hf.flow_matching(), hf.Flow(free, hf.CondOTCoupling(), 1.0, hf.NormalPrior()))
    harmonic = hf.Hamiltonian(hf.HarmonicPotential(2.0), hf.GaussianKinetic())
    assert_same_flow(hf.oscillation(2.0), hf.Flow(harmonic, independent, math.pi / 4.0, hf.NormalPrior(0.0, 0.5)))
    box = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(), hf.Box(-1.0, 1.0))
    assert_same_flow(hf.reflection(), hf.Flow(box, independent, 3.0, hf.UniformPrior(-1.0, 1.0)))


def test_prior_of_a_diffusion_is_centred_at_the_data():
    prior = hf.diffusion(3.0, 0.5, np.array([1.0, -2.0])).prior
    np.testing.assert_array_equal(prior.mean, [1.0, -2.0])
    assert prior.scale == pytest.approx(math.hypot(3.0, 0.5))


def test_numbers_of_a_recipe_stay_numbers():
    for flow in (
        hf.diffusion(80),
        hf.oscillation(np.float32(2.0)),
        hf.reflection(-1, 1, 3),
        hf.whitened_oscillation(2),
    ):
        assert all(isinstance(leaf, float) for leaf in jax.tree.leaves(flow))


@pytest.mark.parametrize("covariance", [0.3, "diagonal", "dense"])
def test_whitened_oscillation_has_one_period_for_all(covariance, x64):
    """Mass C^-1, U = x^T C^-1 x / 2, prior N(0, C) (THEORY, section 4)."""
    c = {"diagonal": array(4.0, 0.1), "dense": spd()}.get(covariance, covariance)
    full = np.asarray(c) if np.ndim(c) == 2 else np.diag(np.broadcast_to(np.asarray(c), 2))
    flow, x, p = hf.whitened_oscillation(c), array(0.4, -0.3), array(1.1, 0.6)
    system = flow.system
    zero = jnp.zeros(())
    expected = 0.5 * np.asarray(x) @ np.linalg.solve(full, np.asarray(x)), 0.5 * np.asarray(p) @ full @ np.asarray(p)
    assert float(system.potential.energy(zero, x)) == pytest.approx(expected[0])
    assert float(system.kinetic.energy(p)) == pytest.approx(expected[1])  # K = p^T M^-1 p / 2, M = C^-1
    end = flow.evolve(hf.PhaseState(x, p), flow.horizon)
    np.testing.assert_allclose(end.position, full @ np.asarray(p), atol=1e-14)  # a quarter of a period: x = v_0
    np.testing.assert_allclose(end.momentum, -np.linalg.solve(full, np.asarray(x)), atol=1e-14)
    scale = np.asarray(flow.prior.scale)
    scale = scale if scale.ndim == 2 else np.diag(np.broadcast_to(scale, 2))
    np.testing.assert_allclose(scale @ scale.T, full, atol=1e-14)


def test_whitened_oscillation_takes_a_covariance_from_numpy():
    """What `np.cov` returns, in double precision and only symmetric up to rounding."""
    data = np.random.default_rng(0).normal(size=(100, 3)) @ np.random.default_rng(1).normal(size=(3, 3))
    covariance = np.cov(data.T)
    covariance[0, 1] *= 1.0 + 1e-7
    assert float(hf.whitened_oscillation(covariance).horizon) == pytest.approx(math.pi / 2)
