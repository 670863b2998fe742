"""Student-t momenta, velocities and priors, against scipy and by quadrature."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from systems import array, spd

import hamflow as hf

# -- the momenta -----------------------------------------------------------------------------------------------------


def first_momenta(flow, shape, n, seed=0):
    data = jnp.zeros((n, *shape))
    start = eqx.filter_jit(flow.coupling.sample)(jr.key(seed), data, flow.system, flow.prior, flow.horizon)
    return np.asarray(start.momentum, float).reshape(n, -1)


@pytest.mark.parametrize("nu", [1.0, 3.0, 40.0])
def test_momenta_are_multivariate_student(nu):
    """p = L z, |z|^2 / N ~ F(N, nu), and the direction of z uniform: a false alarm in 10^4 each, or five deviations."""
    n = 8000
    flow = hf.Flow(
        hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(spd())),
        hf.StudentTCoupling(nu),
        1.0,
        hf.StudentTPrior(nu),
    )
    z = np.linalg.solve(np.linalg.cholesky(spd()), first_momenta(flow, (2,), n).T).T
    radius = np.sum(z**2, axis=1)
    assert scipy.stats.kstest(radius / 2.0, scipy.stats.f(2, nu).cdf).pvalue > 1e-4
    assert scipy.stats.kstest(z[:, 0], scipy.stats.t(nu).cdf).pvalue > 1e-4
    direction = z / np.sqrt(radius)[:, None]
    assert np.all(np.abs(direction.mean(0)) < 5.0 / math.sqrt(2 * n))
    assert np.all(np.abs(direction.T @ direction / n - np.eye(2) / 2.0) < 5.0 / math.sqrt(8 * n))
    # One chi2 an example: the sizes of the two coordinates go together, as those of independent ones do not.
    assert (scipy.stats.spearmanr(*np.abs(z).T).pvalue < 1e-6) == (nu < 40.0)


def test_many_degrees_of_freedom_are_the_normal_law():
    """The same draws of n, over the root of chi2 / nu, whose deviation from 1 is sqrt(1 / (2 nu)) = 7e-4."""
    heavy, normal = hf.StudentTPrior(1e6, 0.3, 0.7), hf.NormalPrior(0.3, 0.7)
    key = jr.key(1)
    z = heavy.sample(key, (3,))
    noise = jr.normal(jr.split(key)[0], (3,))
    np.testing.assert_allclose(z, 0.3 + 0.7 * noise, atol=0.02)
    for x in (array(0.1, 0.9, -2.0), array(3.0, 3.0, 3.0)):  # the log densities differ by O(|x|^4 / nu)
        np.testing.assert_allclose(heavy.log_prob(x), normal.log_prob(x), rtol=3e-5)


def test_the_kinetic_energy_is_the_quadratic_one_for_many_degrees_of_freedom():
    """By 1 / nu, in single precision: to 1e-5 of energy, velocity, momentum and its law."""
    heavy, normal = hf.StudentTKinetic(1e6, array(1.7, 0.4)), hf.GaussianKinetic(array(1.7, 0.4))
    p = array(1.1, -0.8)
    np.testing.assert_allclose(heavy.energy(p), normal.energy(p), rtol=1e-5)
    np.testing.assert_allclose(heavy.velocity(p), normal.velocity(p), rtol=1e-5)
    np.testing.assert_allclose(heavy.momentum(p), normal.momentum(p), rtol=1e-5)


@pytest.mark.parametrize("nu", [1.5, 6.0])
def test_velocities_of_the_kinetic_energy_are_student(nu):
    """v ~ t_nu / sqrt(m) and p of density exp(-K) / Z, by quadrature of the energy: a false alarm in 10^4 each."""
    kinetic = hf.StudentTKinetic(nu, array(0.8, 2.0))
    p = np.asarray(jax.jit(jax.vmap(lambda k: kinetic.sample(k, (2,))))(jr.split(jr.key(2), 8000)))
    v = np.asarray(jax.vmap(kinetic.velocity)(p), float)
    for mass, column in zip((0.8, 2.0), v.T, strict=True):
        assert scipy.stats.kstest(column * math.sqrt(mass), scipy.stats.t(nu).cdf).pvalue > 1e-4
    assert scipy.stats.spearmanr(*np.abs(v).T).pvalue > 1e-4  # coordinates are independent
    edge = math.pi / 2.0 * (nu - 1.0) * math.sqrt(0.8 / nu)
    one = hf.StudentTKinetic(nu, 0.8)
    grid = np.linspace(-edge, edge, 4001)[1:-1]
    density = np.exp(-np.asarray(jax.vmap(one.energy)(grid), float))
    cumulative = scipy.integrate.cumulative_trapezoid(density, grid, initial=0.0)
    quantiles = np.interp(p[:, 0], grid, cumulative / cumulative[-1])
    assert scipy.stats.kstest(quantiles, "uniform").pvalue > 1e-4


def test_energy_by_hand(x64):
    """nu = 2, m = 1: c = sqrt 2, K = -log cos(sqrt 2 p), v = sqrt 2 tan(sqrt 2 p)."""
    p = array(0.3, -1.0)
    angle = math.sqrt(2.0) * np.asarray(p)
    kinetic = hf.StudentTKinetic(2.0)
    np.testing.assert_allclose(kinetic.energy(p), -np.sum(np.log(np.cos(angle))), rtol=1e-13)
    np.testing.assert_allclose(kinetic.velocity(p), math.sqrt(2.0) * np.tan(angle), rtol=1e-13)
    h = 1e-5
    for i, step in enumerate(np.eye(2) * h):
        finite = (kinetic.energy(p + step) - kinetic.energy(p - step)) / (2.0 * h)
        np.testing.assert_allclose(kinetic.velocity(p)[i], finite, rtol=1e-8)


def test_the_edge_of_the_support():
    """Digits are kept up to it in single precision; beyond it nothing is finite; every velocity has a momentum."""
    kinetic = hf.StudentTKinetic(2.0)  # pi / (2 sqrt 2) = 1.1107207
    near = jnp.float32(1.1107)
    angle = math.sqrt(2.0) * float(near)
    assert float(kinetic.energy(near)) == pytest.approx(-math.log(math.cos(angle)), rel=1e-3)  # cos = 2.9e-5 +- 1e-7
    assert float(jax.grad(kinetic.energy)(near)) == pytest.approx(float(kinetic.velocity(near)), rel=1e-6)
    for beyond in (1.11073, 1.5, 2.5, jnp.inf):  # the tangent comes back at 2.22
        p = array(0.1, beyond)
        assert float(kinetic.energy(p)) == math.inf
        np.testing.assert_array_equal(np.isinf(kinetic.velocity(p)), [False, True])
        assert float(kinetic.velocity(-p)[1]) == -math.inf
    assert np.isnan(kinetic.velocity(array(jnp.nan))).all()
    v = jnp.array([0.0, 1e-20, 1.0, 1e3, -1e12, 1e30])
    back = kinetic.velocity(kinetic.momentum(v))
    np.testing.assert_allclose(back[:4], v[:4], rtol=1e-3)
    assert float(back[4]) < -5e5
    assert float(back[5]) > 5e5
    assert np.all(np.isfinite(back))
    assert float(kinetic.momentum(jnp.array(jnp.inf))) == math.inf


def test_a_step_out_of_the_support_is_an_error():
    system = hf.Hamiltonian(hf.HarmonicPotential(1.0), hf.StudentTKinetic(2.0))
    state = hf.PhaseState(array(3.0), array(0.0))
    with pytest.raises(RuntimeError, match="finite"):
        jax.block_until_ready(hf.integrate(system, state, 0.0, 2.0, 2))


def test_leapfrog_near_a_spring(x64):
    """Its energy error falls with the square of the step, and the motion comes back."""
    system = hf.Hamiltonian(hf.HarmonicPotential(0.8), hf.StudentTKinetic(4.0, 1.5))
    state = hf.PhaseState(array(0.9, -0.4), array(1.2, 0.7))
    ends = [hf.integrate(system, state, 0.0, 3.0, n) for n in (60, 120)]
    errors = [float(system.energy(0.0, end) - system.energy(0.0, state)) for end in ends]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)
    assert abs(errors[1]) < 1e-3
    back = hf.integrate(system, ends[0], 3.0, 0.0, 60)
    np.testing.assert_allclose(back.position, state.position, rtol=1e-11)


# -- the prior -------------------------------------------------------------------------------------------------------

SCALES = {"number": 0.7, "diagonal": [0.5, 2.0], "matrix": [[1.0, 0.5], [-0.7, 2.0]]}


@pytest.mark.parametrize("nu", [0.7, 3.0, 250.0])
@pytest.mark.parametrize("name", SCALES)
def test_density_is_that_of_scipy(name, nu, x64):
    full = np.asarray(SCALES[name])
    full = full if full.ndim == 2 else np.diag(np.broadcast_to(full, 2))
    prior = hf.StudentTPrior(nu, array(0.2, -0.4), jnp.asarray(SCALES[name], float))
    law = scipy.stats.multivariate_t([0.2, -0.4], full @ full.T, df=nu)
    for x in ([0.3, 0.1], [-5.0, 2.0], [40.0, 1e4]):
        assert float(prior.log_prob(array(*x))) == pytest.approx(law.logpdf(x), rel=1e-11)


def test_density_of_pictures(x64):
    prior, x = hf.StudentTPrior(128.0, 0.1, 3.0), np.random.default_rng(0).normal(size=(3, 8, 8))
    law = scipy.stats.multivariate_t(np.full(192, 0.1), 9.0 * np.eye(192), df=128.0)
    assert float(prior.log_prob(jnp.asarray(x))) == pytest.approx(law.logpdf(x.ravel()), rel=1e-11)
    with jax.enable_x64(False):
        single = hf.StudentTPrior(128.0, 0.1, 3.0).log_prob(jnp.asarray(x, jnp.float32))
    assert float(single) == pytest.approx(law.logpdf(x.ravel()), rel=1e-5)


def test_draws_are_those_of_the_density():
    """Student-t in the first coordinate, and given it in the second: a false alarm in 10^4."""
    prior = hf.StudentTPrior(1.5, 0.0, array([1.0, 0.0], [0.5, 2.0]))
    x = np.asarray(jax.jit(jax.vmap(lambda k: prior.sample(k, (2,))))(jr.split(jr.key(3), 8000)), float)
    z0, z1 = x[:, 0], (x[:, 1] - 0.5 * x[:, 0]) / 2.0
    assert scipy.stats.kstest(z0, scipy.stats.t(1.5).cdf).pvalue > 1e-4
    assert scipy.stats.kstest(z1 * np.sqrt(2.5 / (1.5 + z0**2)), scipy.stats.t(2.5).cdf).pvalue > 1e-4


def test_the_derivative_of_a_draw_is_right_on_average(x64):
    """d/dnu E log(1 + z^2), by differences of a quadrature; five standard errors."""

    def mean(nu):
        return scipy.integrate.quad(lambda z: np.log1p(z**2) * scipy.stats.t.pdf(z, nu), -np.inf, np.inf)[0]

    expected = (mean(4.001) - mean(3.999)) / 0.002

    @jax.jit
    @jax.vmap
    def slope(key):
        return jax.grad(lambda nu: jnp.log1p(hf.StudentTPrior(nu).sample(key, ()) ** 2))(jnp.asarray(4.0))

    slopes = np.asarray(slope(jr.split(jr.key(4), 20_000)))
    error = slopes.std() / math.sqrt(slopes.size)
    assert abs(slopes.mean() - expected) < 5.0 * error
    assert abs(expected) > 20.0 * error
