"""A mixture of Gaussians: density, score and samples, against scipy."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.special
import scipy.stats
from systems import array

import hamflow as hf

T = jnp.zeros(())
MEANS, WEIGHTS = np.array([[-2.0, 0.3], [2.0, -0.5], [0.1, 0.0]]), np.array([2.0, 1.0, 1.0])
STDS = {"one a component": np.array([1.0, 0.5, 0.2]), "one a coordinate": np.array([[1, 0.5], [0.3, 2], [0.2, 0.2]])}


def build(stds, weights=WEIGHTS):
    return hf.GaussianMixturePotential(*(jnp.array(value, float) for value in (MEANS, stds, weights)))


def log_density(x, stds):
    stds = np.broadcast_to(stds if stds.ndim == 2 else stds[:, None], MEANS.shape)
    parts = scipy.stats.norm.logpdf(x, MEANS, stds).sum(-1)
    return scipy.special.logsumexp(parts, b=WEIGHTS / WEIGHTS.sum())


@pytest.mark.parametrize("stds", STDS.values(), ids=STDS)
def test_energy_is_minus_the_log_density(stds, x64):
    potential = build(stds)
    for x in np.random.default_rng(0).normal(size=(5, 2)) * 2.0:
        assert float(potential.energy(T, jnp.asarray(x))) == pytest.approx(-log_density(x, stds), rel=1e-12)
        assert float(potential.log_prob(jnp.asarray(x))) == pytest.approx(log_density(x, stds), rel=1e-12)


@pytest.mark.parametrize("stds", STDS.values(), ids=STDS)
def test_force_is_the_score(stds, x64):
    """Central differences of scipy's density."""
    force = jax.jit(lambda x: build(stds).force(T, x))
    for x in np.random.default_rng(1).normal(size=(5, 2)) * 2.0:
        steps = 1e-5 * np.eye(2)
        score = [(log_density(x + h, stds) - log_density(x - h, stds)) / 2e-5 for h in steps]
        np.testing.assert_allclose(force(jnp.asarray(x)), score, atol=1e-7)


def test_density_integrates_to_one(x64):
    x = (np.arange(400) + 0.5) / 400 * 20.0 - 10.0
    points = jnp.asarray(np.stack(np.meshgrid(x, x), -1).reshape(-1, 2))
    density = np.exp(jax.jit(jax.vmap(build(STDS["one a coordinate"]).log_prob))(points))
    assert np.sum(density) * 0.05**2 == pytest.approx(1.0, abs=1e-6)


def test_only_the_ratios_of_weights_matter(x64):
    x = array(0.4, 0.25)
    once, many = build(STDS["one a component"]), build(STDS["one a component"], 7.0 * WEIGHTS)
    assert float(once.energy(T, x)) == pytest.approx(float(many.energy(T, x)), rel=1e-14)
    assert float(jnp.sum(jnp.exp(many.component_log_probs(x)))) == pytest.approx(np.exp(log_density(x, many.stds)))


def test_far_away_the_score_is_that_of_the_nearest_and_finite():
    """No underflow of the density may reach the score: the widest component wins, -(x - m) / s^2."""
    potential = build(STDS["one a component"])
    for distance in (1e2, 1e4, 1e8):
        x = jnp.array([distance, 0.0])
        assert bool(jnp.isfinite(potential.energy(T, x)))
        np.testing.assert_allclose(potential.force(T, x), [-(distance + 2.0), 0.3], rtol=1e-5)


@pytest.mark.parametrize("stds", STDS.values(), ids=STDS)
def test_samples_follow_each_marginal(stds):
    """Kolmogorov-Smirnov in each coordinate, and their covariance: a false alarm in about 5,000."""
    n = 8000
    got = np.asarray(jax.jit(jax.vmap(lambda key: build(stds).sample(key, (2,))))(jr.split(jr.key(2), n)), float)
    spread = np.broadcast_to(stds if stds.ndim == 2 else stds[:, None], MEANS.shape)
    for i in range(2):
        u = (scipy.stats.norm.cdf(got[:, i, None], MEANS[:, i], spread[:, i]) * WEIGHTS / WEIGHTS.sum()).sum(1)
        assert scipy.stats.kstest(u, "uniform").pvalue > 1e-4
    centred = MEANS - WEIGHTS @ MEANS / 4.0
    product = (got[:, 0] - got[:, 0].mean()) * (got[:, 1] - got[:, 1].mean())
    assert abs(product.mean() - WEIGHTS / 4.0 @ centred.prod(1)) < 5.0 * product.std() / np.sqrt(n)


def test_pictures_and_single_points(x64):
    for shape in ((), (1, 2, 2)):
        potential = hf.GaussianMixturePotential(jnp.zeros((2, *shape)), array(1.0, 1.0), array(0.3, 0.7))
        x = jnp.full(shape, 0.5)
        assert float(potential.energy(T, x)) == pytest.approx(-x.size * scipy.stats.norm.logpdf(0.5))
        assert potential.sample(jr.key(0), shape).shape == shape


def test_gradients_reach_means_stds_and_weights(x64):
    def energy(potential):
        return potential.energy(T, array(0.4, 0.25))

    gradient = jax.grad(energy)(build(STDS["one a component"]))
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))
        assert np.all(leaf != 0.0)
    assert float(gradient.weights @ jnp.asarray(WEIGHTS)) == pytest.approx(0.0, abs=1e-14)  # only ratios matter
