"""Kinetic energies: velocity is the gradient, momentum its inverse, and momenta follow exp(-K)."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from systems import KINETICS, array, spd

import hamflow as hf
from hamflow.kinetics import relativistic as kinetics_module

EVERY = pytest.mark.parametrize("name", KINETICS)


def momenta_of(name, largest):
    """Small, tiny and large ones; those of "student-t" end at pi sqrt(m / 6) 5 / 2, 2.87 and 4.53."""
    large = array(2.8, 4.5) if name == "student-t" else array(largest, 3.0)
    return array(0.7, -1.3), array(1e-9, 0.0), large


@EVERY
def test_velocity_is_the_gradient_of_the_energy(name, x64):
    kinetic = KINETICS[name]()
    for p in momenta_of(name, 40.0):
        np.testing.assert_allclose(kinetic.velocity(p), jax.grad(kinetic.energy)(p), rtol=1e-13, atol=1e-20)


@EVERY
def test_momentum_inverts_velocity(name, x64):
    kinetic = KINETICS[name]()
    for p in momenta_of(name, 4.0):
        np.testing.assert_allclose(kinetic.momentum(kinetic.velocity(p)), p, rtol=1e-12, atol=1e-22)


@EVERY
def test_energy_is_even(name, x64):
    """In the whole momentum always; in each coordinate where a wall is allowed to turn it round."""
    kinetic, p = KINETICS[name](), array(0.7, -1.3)
    energy = float(kinetic.energy(p))
    assert float(kinetic.energy(-p)) == pytest.approx(energy, rel=1e-15)
    turned = float(kinetic.energy(p * array(-1.0, 1.0)))
    assert kinetic.is_even_in_each() == kinetic.is_even_in_each((2,)) == (name != "dense mass")
    assert (abs(turned - energy) < 1e-12) == (name != "dense mass")


def test_energies_by_hand(x64):
    p = array(3.0, 4.0)
    assert float(hf.GaussianKinetic(2.0).energy(p)) == pytest.approx(25.0 / 4.0)
    assert float(hf.GaussianKinetic(array(1.0, 4.0)).energy(p)) == pytest.approx((9.0 + 4.0) / 2.0)
    expected = 0.5 * np.asarray(p) @ np.linalg.solve(spd(), p)
    assert float(hf.GaussianKinetic(spd()).energy(p)) == pytest.approx(expected)
    assert float(hf.RelativisticKinetic(6.0, 2.0).energy(p)) == pytest.approx(2.0 * 13.0)  # |p| = 5, mc = 12
    np.testing.assert_allclose(hf.RelativisticKinetic(6.0, 2.0).velocity(p), 2.0 * np.asarray(p) / 13.0)


def test_relativity_is_newton_at_low_speed(x64):
    p = array(0.3, -0.2)
    fast = hf.RelativisticKinetic(1.7, 1e6)
    np.testing.assert_allclose(fast.velocity(p), p / 1.7, rtol=1e-12)
    assert float(jnp.linalg.norm(hf.RelativisticKinetic(1.7, 0.5).velocity(1e9 * p))) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("mass", "shape"),
    [(1.7, ()), (1.7, (2, 3)), ((0.5, 2.0), (2,)), (((2.0, 0.6), (0.6, 0.9)), (2,)), ("dense image", (2, 2))],
)
def test_gaussian_momenta_have_the_mass_as_covariance(mass, shape):
    """Each entry of the mean and of the covariance within 5 standard errors: 1e-5 of false alarm for all."""
    mass = 0.5 * jnp.eye(4).reshape(2, 2, 2, 2) + 0.1 if mass == "dense image" else jnp.asarray(mass)
    n, size = 20_000, int(np.prod(shape))
    draw = jax.jit(jax.vmap(lambda key: hf.GaussianKinetic(mass).sample(key, shape)))
    got = np.reshape(draw(jr.split(jr.key(1), n)), (n, size)).astype(float)
    covariance = np.asarray(mass, float)
    covariance = covariance.reshape(size, size) if covariance.ndim > 1 else np.diag(np.broadcast_to(covariance, size))
    variance = np.diag(covariance)
    assert np.all(np.abs(got.mean(0)) < 5.0 * np.sqrt(variance / n))
    error = got.T @ got / n - covariance
    assert np.all(np.abs(error) < 5.0 * np.sqrt((np.outer(variance, variance) + covariance**2) / n))


# -- relativistic momenta --------------------------------------------------------------------------------------------


def radial_distribution(d, m, c, radii):
    """P(|p| <= r) of the density r^(d-1) exp(-c sqrt(r^2 + m^2 c^2)), by Gauss-Legendre panels in log r."""
    k, nodes, weights = m * c, *np.polynomial.legendre.leggauss(16)
    peak = d * (d + np.sqrt(d * d + 4.0 * (c * k) ** 2)) / (2.0 * c * c)  # r^2 at the mode in log r

    def density(w):  # in w = log(r^2 / peak) / 2, against its value at the mode
        rise = c * peak * np.expm1(2.0 * w) / (np.sqrt(peak * np.exp(2.0 * w) + k * k) + np.sqrt(peak + k * k))
        return np.exp(d * w - rise)

    def integral(start, end):
        half, middle = (end - start) / 2.0, (end + start) / 2.0
        return np.sum(density(middle[:, None] + half[:, None] * nodes) * weights, axis=1) * half

    reach = 50.0 / d + np.sqrt(100.0 / d)
    edges = np.linspace(-reach, np.log1p(reach), 2001)
    cumulative = np.concatenate([[0.0], np.cumsum(integral(edges[:-1], edges[1:]))])
    w = np.log(np.asarray(radii, float)) - 0.5 * np.log(peak)
    panel = np.clip(np.searchsorted(edges, w) - 1, 0, 1999)
    return (cumulative[panel] + integral(edges[panel], w)) / cumulative[-1]


def test_the_reference_distribution_is_right():
    """Against quadrature in r, the massless limit (a gamma law), the slow one (chi), and draws by THEORY's mixture."""
    for d, m, c in ((1, 1.0, 1.0), (2, 0.5, 3.0), (10, 2.0, 0.7)):
        total, part = (
            scipy.integrate.quad(lambda r, d=d, m=m, c=c: r ** (d - 1) * np.exp(-c * np.hypot(r, m * c)), 0.0, end)[0]
            for end in (np.inf, 2.0)
        )
        assert radial_distribution(d, m, c, [2.0])[0] == pytest.approx(part / total, abs=1e-7)
    r = np.linspace(0.1, 20.0, 50)
    np.testing.assert_allclose(radial_distribution(3, 1e-9, 1.0, r), scipy.special.gammainc(3, r), atol=1e-9)
    heavy = scipy.stats.chi2(3).cdf(r**2 / 1e4)
    np.testing.assert_allclose(radial_distribution(3, 1e4, 1e4, r), heavy, atol=1e-6)
    rng, d, m, c = np.random.default_rng(2), 3, 0.8, 1.5
    z = scipy.stats.geninvgauss.rvs((d + 1) / 2, m * c * c, scale=m, size=20_000, random_state=rng)
    radii = np.sqrt(z) * np.linalg.norm(rng.normal(size=(20_000, d)), axis=1)
    assert scipy.stats.kstest(radial_distribution(d, m, c, radii), "uniform").pvalue > 1e-4


U = np.concatenate([np.linspace(1e-4, 1.0 - 1e-4, 401), [1e-6, 1e-5, 1.0 - 1e-5, 1.0 - 1e-6]])
CONSTANTS = [(1.0, 1.0), (1e-3, 1.0), (1e3, 1.0), (10.0, 0.01), (0.1, 100.0)]  # m c^2 from 1e-3 to 1e3


@functools.cache
def radius_of(d):
    """The sampler's radius where its uniform number is u."""

    def one(u, m, c):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kinetics_module.jr, "uniform", lambda key, shape, dtype: u)
            return kinetics_module._relativistic_radius(jr.key(0), d, m, c)

    return jax.jit(jax.vmap(one, (0, None, None)))


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
@pytest.mark.parametrize("d", [1, 2, 10, 3072])
def test_the_accuracy_that_the_sampler_states(d, double):
    """Its distribution function at its own radii, against u: below 1e-8, and 1e-6 + 2e-7 sqrt(d) in single."""
    with jax.enable_x64(double):
        u = jnp.asarray(U, float)
        for m, c in CONSTANTS:
            m, c = jnp.asarray(m, float), jnp.asarray(c, float)
            got = np.asarray(radius_of(d)(u, m, c), float)
            assert np.all(np.isfinite(got))
            error = np.max(np.abs(radial_distribution(d, float(m), float(c), got) - np.asarray(u, float)))
            assert error < (1e-8 if double else 1e-6 + 2e-7 * d**0.5)


def test_the_ends_of_the_uniform_number_are_safe():
    for d in (1, 3072):
        got = radius_of(d)(jnp.array([0.0, 1.0 - 2.0**-24]), jnp.ones(()), jnp.ones(()))
        assert np.all(np.isfinite(got))
        assert np.all(got > 0.0)


@pytest.mark.parametrize("d", [1, 2, 10])
def test_relativistic_momenta(d):
    """Radius by Kolmogorov-Smirnov, direction by its first two moments; a false alarm in 10,000 each."""
    n, (m, c) = 8000, (0.8, 1.5)
    draw = jax.jit(jax.vmap(lambda key: hf.RelativisticKinetic(m, c).sample(key, (d,))))
    p = np.asarray(draw(jr.split(jr.key(3), n)), float)
    radius = np.linalg.norm(p, axis=1)
    assert scipy.stats.kstest(radial_distribution(d, m, c, radius), "uniform").pvalue > 1e-4
    direction = p / radius[:, None]
    assert np.all(np.abs(direction.mean(0)) < 5.0 / np.sqrt(d * n))
    products = direction.T @ direction / n - np.eye(d) / d
    assert np.all(np.abs(products) < 5.0 / np.sqrt(n * d))


def test_the_sampler_can_be_differentiated_in_mass_and_speed(x64):
    """dr/dm at fixed u is - (dF/dm) / (dF/dr), by central differences of the reference."""
    d, m, c, u, h = 3, 0.8, 1.5, 0.37, 1e-5
    radius = eqx.filter_jit(lambda m, c: radius_of(d)(array(u), m, c)[0])
    slopes = jax.grad(radius, argnums=(0, 1))(*array(m, c))
    r = float(radius(*array(m, c)))

    def central(f):
        return (f(h) - f(-h)) / (2.0 * h)

    def cdf(r, m, c):
        return radial_distribution(d, m, c, [r])[0]

    along_r = central(lambda e: cdf(r + e, m, c))
    expected = (-central(lambda e: cdf(r, m + e, c)) / along_r, -central(lambda e: cdf(r, m, c + e)) / along_r)
    np.testing.assert_allclose(slopes, expected, rtol=1e-6)


def test_a_speed_of_light_is_not_reached():
    kinetic = hf.RelativisticKinetic(1.0, 2.0)
    assert not kinetic.reaches_every_velocity
    with pytest.raises(Exception, match="the speed is not below speed_of_light"):
        kinetic.momentum(jnp.array([2.0, 0.0]))
