"""Priors against scipy, by quadrature, and by their samples."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from systems import array

import hamflow as hf

SCALES = {
    "number": ((2,), 0.7),
    "number, picture": ((1, 2, 2), 0.7),
    "diagonal": ((2,), [0.5, 2.0]),
    "diagonal, picture": ((1, 2, 2), [[[0.5, 2.0], [1.0, 3.0]]]),
    "matrix": ((2,), [[1.0, 0.5], [-0.7, 2.0]]),
    "matrix, picture": ((2, 2), np.random.default_rng(0).normal(size=(2, 2, 2, 2)).tolist()),
}


def normal_case(name, mean=0.0):
    """The prior, its shape, and the same law in scipy: the covariance is scale scale^T."""
    shape, scale = SCALES[name]
    size = int(np.prod(shape))
    prior = hf.NormalPrior(mean, scale if isinstance(scale, float) else jnp.array(scale, float))
    full = np.asarray(scale, float)
    if full.size != size * size:
        full = np.diag(np.broadcast_to(full, shape).ravel())
    full = full.reshape(size, size)
    flat_mean = np.broadcast_to(np.asarray(mean), shape).ravel()
    return prior, shape, scipy.stats.multivariate_normal(flat_mean, full @ full.T)


@pytest.mark.parametrize("name", SCALES)
def test_normal_density_is_that_of_scipy(name, x64):
    for mean in (0.0, -0.3):
        prior, shape, law = normal_case(name, mean)
        for x in np.random.default_rng(1).normal(size=(3, *shape)):
            assert float(prior.log_prob(jnp.asarray(x))) == pytest.approx(law.logpdf(x.ravel()), rel=1e-12)
    mean = np.arange(2.0)
    prior = hf.NormalPrior(mean, 0.7)
    law = scipy.stats.multivariate_normal(mean, 0.49 * np.eye(2))
    assert float(prior.log_prob(array(0.3, 0.4))) == pytest.approx(law.logpdf([0.3, 0.4]), rel=1e-12)


@pytest.mark.parametrize("name", SCALES)
def test_normal_samples_have_the_moments(name):
    """Each entry of mean and covariance within 5 standard errors."""
    prior, shape, law = normal_case(name, 0.4)
    n = 20_000
    draw = jax.jit(jax.vmap(lambda key: prior.sample(key, shape)))
    got = np.reshape(draw(jr.split(jr.key(2), n)), (n, -1)).astype(float)
    variance = np.diag(law.cov)
    assert np.all(np.abs(got.mean(0) - law.mean) < 5.0 * np.sqrt(variance / n))
    error = np.cov(got.T, bias=True) - law.cov
    assert np.all(np.abs(error) < 5.0 * np.sqrt((np.outer(variance, variance) + law.cov**2) / n))


def grid(low, high, n):
    return (np.arange(n) + 0.5) / n * (high - low) + low


@pytest.mark.parametrize(
    "build",
    [
        lambda: hf.NormalPrior(0.3, 0.8),
        lambda: hf.NormalPrior(array(0.3, -1.0), array(0.8, 0.5)),
        lambda: hf.NormalPrior(0.0, array([1.0, 0.5], [-0.7, 0.8])),
        lambda: hf.UniformPrior(-1.0, 2.0),
        lambda: hf.UniformPrior(array(-1.0, 0.0), array(2.0, 0.5)),
    ],
)
def test_densities_integrate_to_one(build, x64):
    """In the plane, by the midpoint rule on a square that holds all but 1e-9; the cells line up with the walls."""
    x = grid(-12.0, 12.0, 480)
    points = jnp.asarray(np.stack(np.meshgrid(x, x), -1).reshape(-1, 2))
    density = np.exp(jax.jit(jax.vmap(build().log_prob))(points))
    assert np.sum(density) * (24.0 / 480) ** 2 == pytest.approx(1.0, abs=1e-8)


def test_densities_integrate_to_one_on_the_line(x64):
    x = jnp.asarray(grid(-12.0, 12.0, 4800))
    for prior in (hf.NormalPrior(0.3, 0.8), hf.UniformPrior(-1.0, 2.0)):
        assert np.sum(np.exp(jax.vmap(prior.log_prob)(x))) * 24.0 / 4800 == pytest.approx(1.0, abs=1e-8)


def test_uniform_is_its_box():
    prior = hf.UniformPrior(jnp.array([-1.0, 0.0]), jnp.array([2.0, 0.5]))
    inside = -np.log(3.0 * 0.5)
    for x, expected in (
        ([0.0, 0.2], inside),
        ([-1.0, 0.5], inside),
        ([2.1, 0.2], -np.inf),
        ([0.0, -0.1], -np.inf),
        ([np.nan, 0.2], -np.inf),
    ):
        assert float(prior.log_prob(jnp.array(x))) == pytest.approx(expected, rel=1e-6)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: prior.sample(key, (2,))))(jr.split(jr.key(3), 5000)))
    for column, (low, high) in zip(draws.T, ((-1.0, 2.0), (0.0, 0.5)), strict=True):
        assert column.min() >= low
        assert column.max() <= high
        assert scipy.stats.kstest((column - low) / (high - low), "uniform").pvalue > 1e-4
    assert abs(scipy.stats.pearsonr(*draws.T).statistic) < 5.0 / np.sqrt(5000)


def test_anything_that_samples_and_scores_is_a_prior():
    mixture = hf.GaussianMixturePotential(jnp.array([[0.0, 1.0]]), jnp.ones(1), jnp.ones(1))
    for prior in (hf.NormalPrior(), hf.UniformPrior(), mixture):
        assert isinstance(prior, hf.Prior)
    assert not isinstance(hf.GaussianKinetic(), hf.Prior)


@pytest.mark.parametrize("prior", [hf.NormalPrior(0.0, 0.7), hf.UniformPrior(-1.0, 1.0)])
def test_dtype_of_the_position_is_the_dtype_of_the_density(prior):
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            assert prior.log_prob(jnp.zeros((2, 3), dtype)).dtype == dtype
