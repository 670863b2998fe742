"""PFGM++ as a flow, against its own field, exact densities and exact velocities; what its noise may not be asked."""

import dataclasses
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.stats
from oracles import heavy_tailed_velocity, mixture_cdf
from systems import array

import hamflow as hf
from hamflow.conformance import statistics
from hamflow.conformance.probe import Probe

FREE = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic())
MEANS, STDS, WEIGHTS = np.array([-1.2, 0.8]), np.array([0.3, 0.2]), np.array([0.4, 0.6])
SPREAD = math.sqrt(WEIGHTS @ (STDS**2 + MEANS**2))  # of mean 0


def line():
    """Two bumps on the line, of mean 0."""
    return hf.GaussianMixturePotential(array(*MEANS), array(*STDS), array(*WEIGHTS))


def plane():
    means = array([1.0, 0.5], [-0.6, -0.3])
    return hf.GaussianMixturePotential(means, array(0.3, 0.5), array(0.375, 0.625))


def test_the_recipe():
    flow = hf.poisson_flow(5.0, 20.0, 0.4, array(1.0, -1.0))
    assert flow.is_linear
    assert not flow.has_normal_noise
    assert flow.horizon == 20.0
    assert flow.coupling.degrees_of_freedom == flow.prior.degrees_of_freedom == 5.0
    np.testing.assert_array_equal(flow.prior.mean, [1.0, -1.0])
    assert flow.prior.scale**2 * 5.0 / 3.0 == pytest.approx(20.0**2 * 5.0 / 3.0 + 0.4**2)  # the covariance of x_T
    np.testing.assert_allclose(flow.coefficients(2.0), [1.0, 2.0 * math.sqrt(5.0 / 3.0), 0.0, math.sqrt(5.0 / 3.0)])
    assert all(isinstance(leaf, float) for leaf in jax.tree.leaves(hf.poisson_flow(np.float32(3))))


def test_the_velocity_is_along_the_poisson_field(x64):
    """E(x, r) ~ mean of (x - y, r) / (|x - y|^2 + r^2)^((N + D) / 2) at r = t sqrt(D); V* = sqrt(D) E_x / E_r."""
    points, nu, t, x = np.array([[0.3, -0.2], [-1.0, 0.4], [0.6, 1.1]]), 3.0, 0.45, np.array([0.2, 0.5])
    r = t * math.sqrt(nu)
    field = np.zeros(3)
    for y in points:
        away = np.append(x - y, r)
        field += away / np.sum(away**2) ** ((2 + nu) / 2.0)
    expected = math.sqrt(nu) * field[:2] / field[2]
    cloud = hf.GaussianMixturePotential(jnp.asarray(points), jnp.full(3, 1e-6), jnp.ones(3))
    np.testing.assert_allclose(heavy_tailed_velocity(cloud, nu)(t, jnp.asarray(x)), expected, rtol=1e-8)


class Exact(NamedTuple):
    """The law of x_T as a prior: data and t z, and the density by quadrature."""

    degrees_of_freedom: float
    horizon: float

    def sample(self, key, shape):
        keys = jr.split(key)
        noise = hf.StudentTPrior(self.degrees_of_freedom).sample(keys[1], shape)
        return line().sample(keys[0], shape) + self.horizon * noise

    def log_prob(self, position):
        return heavy_tailed_velocity(line(), self.degrees_of_freedom).log_density(self.horizon, position)


def test_the_oracle_by_quadrature(x64):
    """q_t = E f((x - x_0) / t) / t and V* = E[z f] / E[f] of scipy's density, over x_0 by adaptive quadrature."""
    nu = 3.5

    def data(y):
        return WEIGHTS @ scipy.stats.norm.pdf(y, MEANS, STDS)

    for t, x in ((0.3, 0.1), (0.3, -4.0), (2.0, 1.5), (2.0, 30.0)):

        def integral(power, t=t, x=x):
            def integrand(y):
                z = (x - y) / t
                return z**power * data(y) * scipy.stats.t.pdf(z, nu) / t

            return scipy.integrate.quad(integrand, -3.5, 2.5, points=(-1.2, 0.8, 0.1), epsabs=1e-13, limit=200)[0]

        oracle = heavy_tailed_velocity(line(), nu)
        assert float(jnp.exp(oracle.log_density(t, jnp.array(x)))) == pytest.approx(integral(0), rel=1e-6)
        assert float(oracle(t, jnp.array(x))) == pytest.approx(integral(1) / integral(0), rel=1e-6)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_states_regress_on_the_exact_velocity(shape):
    """E[(v_t - V*(x_t)) g(x_t)] = 0 for bounded g, within five standard errors; half of V* is refuted."""
    nu, t, n = 4.0, 0.6, 30_000
    law = line() if shape == () else plane()
    flow = hf.Flow(FREE, hf.StudentTCoupling(nu), 1.0, hf.StudentTPrior(nu))
    data = jax.vmap(lambda k: law.sample(k, shape))(jr.split(jr.key(6), n))
    state = eqx.filter_jit(flow.sample_state)(jr.key(7), data, jnp.full(n, t))
    predicted = jax.jit(jax.vmap(lambda x: heavy_tailed_velocity(law, nu)(t, x)))(state.position)
    x, v, predicted = (np.asarray(a, float).reshape(n, -1) for a in (state.position, state.momentum, predicted))
    for share, right in ((1.0, True), (0.9, False)):
        residual = v - share * predicted
        gaps = [residual * g for g in (np.sin(x), np.cos(x), np.tanh(x), x / (1.0 + x**2))]
        scores = [np.abs(g.mean(0)) / g.std(0) * math.sqrt(n) for g in gaps]
        assert (np.max(scores) < 5.0) == right


@pytest.mark.parametrize("nu", [2.5, 8.0])
def test_likelihood_of_the_exact_velocity_is_the_density(nu):
    flow = hf.Flow(FREE, hf.StudentTCoupling(nu), 4.0, Exact(nu, 4.0))
    x = jnp.array([-2.0, -1.2, -0.4, 0.4, 0.8, 1.3])
    found = hf.log_likelihood(heavy_tailed_velocity(line(), nu), flow, x)
    np.testing.assert_allclose(found, jax.vmap(line().log_prob)(x), atol=2e-3)


@pytest.mark.parametrize("nu", [4.0, 128.0])
def test_likelihood_of_the_recipe(nu):
    """Its prior is off by a little, as that of diffusion: at T = 80 below 3e-4 nats, by quadrature of the law there."""
    flow, x = hf.poisson_flow(nu, data_std=SPREAD), jnp.array([-1.7, -1.2, 0.6, 1.0])
    exact = heavy_tailed_velocity(line(), nu, 0.3 if nu < 10 else 0.05)  # log chi2 spreads over (2 / nu)^1/2
    found = hf.log_likelihood(exact, flow, x)
    np.testing.assert_allclose(found, jax.vmap(line().log_prob)(x), atol=1e-3)


@pytest.mark.parametrize("solver", [None, hf.DDIM(), hf.DPMSolver2M()], ids=["Heun", "DDIM", "2M"])
def test_generates_the_data(solver):
    """4,000 rows: Kolmogorov-Smirnov below the bound of a false alarm in 10^4 and .01 for the steps."""
    nu, n = 3.0, 4000
    flow = hf.poisson_flow(nu, 40.0, SPREAD)
    steps = 40 if solver is None else 80
    found = np.asarray(hf.generate(heavy_tailed_velocity(line(), nu), flow, jr.key(8), (n,), steps, solver), float)
    distance = scipy.stats.kstest(found, lambda x: mixture_cdf(x, MEANS, STDS, WEIGHTS)).statistic
    assert distance < 2.23 / math.sqrt(n) + 0.01


# -- what a linear flow may be asked without normal noise ------------------------------------------------------------


def test_conversions_by_second_moments_hold(x64):
    """Denoiser and noise of the exact velocity, against their own means over the quadrature."""
    nu, t, x = 3.0, 0.7, array(0.4, -0.9)
    flow, oracle = hf.poisson_flow(nu, 5.0), heavy_tailed_velocity(plane(), nu)
    log_densities, velocities = oracle.parts(t, x)
    posterior = jax.nn.softmax(log_densities, axis=(0, 1))
    z = jnp.tensordot(posterior, velocities, axes=2)  # v = z
    known = {"velocity": z, "denoiser": x - t * z, "noise": z / math.sqrt(3.0)}
    for given in known:
        for wanted in known:
            found = hf.convert(lambda t, x, c, k, given=given: known[given], flow, given, wanted)(t, x)
            np.testing.assert_allclose(found, known[wanted], rtol=1e-10, err_msg=f"{given} to {wanted}")
    score = jax.grad(lambda x: oracle.log_density(t, x))(x)
    as_if_normal = -known["noise"] / (t * math.sqrt(3.0))
    assert np.max(np.abs(as_if_normal / score - 1.0)) > 0.1  # why a score is refused


def still(t, x, condition=None, key=None):
    return jnp.zeros_like(x)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda f: hf.convert(still, f, "velocity", "score"), "the velocity does not give the score: .*not normal"),
        (lambda f: hf.convert(still, f, "score", "noise"), "the score does not give the noise"),
        (lambda f: hf.generate(still, f, jr.key(0), (2, 2), 3, hf.ReverseSDE()), "ReverseSDE needs .* a normal e"),
        (lambda f: hf.generate(still, f, jr.key(0), (2, 2), 3, hf.Churn()), "Churn needs .*StudentTCoupling.*Heun"),
        (lambda f: hf.MixtureVelocity(plane(), f), "normal noise only, not for that of StudentTCoupling"),
        (lambda f: hf.EnergyGuided(still, f, lambda x: jnp.sum(x)), "EnergyGuided needs normal noise"),
    ],
)
@pytest.mark.parametrize("build", [hf.poisson_flow, lambda: _turning(3.0)], ids=["free", "oscillation"])
def test_what_takes_normal_noise_is_refused(build, use, message):
    with pytest.raises(ValueError, match=message):
        use(build())


def _turning(nu):
    return hf.Flow(hf.oscillation().system, hf.StudentTCoupling(nu), math.pi / 2.0, hf.StudentTPrior(nu))


def test_a_box_does_not_make_it_heat():
    system = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(), hf.Box(-1.0, 1.0))
    flow = hf.Flow(system, hf.StudentTCoupling(3.0), 3.0, hf.UniformPrior())
    assert not flow.is_linear
    assert not flow.has_normal_noise
    with pytest.raises(ValueError, match="the velocity does not give the score: that takes a linear flow"):
        hf.convert(still, flow, "velocity", "score")
    with pytest.raises(ValueError, match="ReverseSDE needs a linear flow"):
        hf.generate(still, flow, jr.key(0), (2, 2), 3, hf.ReverseSDE())


def test_without_a_variance_it_is_not_linear():
    """PFGM itself, D = 1, as numbers or as an array inside jit: evolved and drawn, with no coefficients."""
    for nu in (1.0, 2.0, jnp.array(1.5)):
        flow = hf.Flow(FREE, hf.StudentTCoupling(nu), 1.0, hf.StudentTPrior(nu))
        assert not flow.is_linear
        assert np.all(np.isfinite(flow.sample_state(jr.key(0), jnp.zeros((3, 2)), jnp.ones(3)).position))
        with pytest.raises(ValueError, match="is not a linear flow"):
            eqx.filter_jit(lambda f: f.coefficients(0.5))(flow)
        with pytest.raises(ValueError, match=r"use Preconditioned\.from_data"):
            hf.Preconditioned(still, flow, 0.5)


def test_normal_noise_is_known_by_name():
    assert hf.diffusion().has_normal_noise
    assert hf.flow_matching().has_normal_noise
    assert not hf.reflection().has_normal_noise  # not linear


def test_the_statistics_of_the_conformance_kit():
    data = np.asarray(jax.vmap(lambda k: plane().sample(k, (2,)))(jr.split(jr.key(9), 4000)))
    with jax.enable_x64(True):
        probe = Probe.of(_turning(3.0), data.astype(float), jr.key(10), 16, 2000)
        findings = [*statistics.prior_density("prior", probe), *statistics.law_at_horizon("end", probe)]
        assert [f.verdict for f in findings] == ["pass", "pass"]
        assert statistics.momentum_law("momenta", probe)[0].verdict == "does not apply"
        normal = hf.Flow(probe.flow.system, hf.IndependentCoupling(), math.pi / 2.0, probe.flow.prior)
        (off,) = statistics.law_at_horizon("end", dataclasses.replace(probe, flow=normal))
        assert off.verdict == "FAIL"


# -- training --------------------------------------------------------------------------------------------------------


def trained(flow, data, steps=600):
    network = hf.networks.MLP(1, 32, 2, key=jr.key(11))
    model = hf.Preconditioned(network, flow, SPREAD)
    parameters, static = eqx.partition(model, model.trainable())
    optimiser = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    def step(carry, key):
        parameters, state = carry
        batch = data[jr.randint(jr.fold_in(key, 0), (128,), 0, len(data))]
        gradient = jax.grad(lambda p: hf.velocity_matching_loss(eqx.combine(p, static), flow, batch, key))(parameters)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(parameters, updates), state), None

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimiser.init(p)), jr.split(jr.key(12), steps))[0][0])
    with jax.numpy_dtype_promotion("standard"):  # optax counts in whole numbers
        return eqx.combine(run(parameters), static)


def test_training_is_as_good_as_diffusion():
    """An MLP on the line: the samples of both are close to the data, by Kolmogorov and Smirnov's distance."""
    data = jax.vmap(lambda k: line().sample(k, ()))(jr.split(jr.key(13), 20_000))[:, None]
    distances = {}
    for name, flow in (("poisson", hf.poisson_flow(8.0, 20.0, SPREAD)), ("diffusion", hf.diffusion(20.0, SPREAD))):
        found = np.asarray(hf.generate(trained(flow, data), flow, jr.key(14), (2000, 1)), float)[:, 0]
        distances[name] = scipy.stats.kstest(found, lambda x: mixture_cdf(x, MEANS, STDS, WEIGHTS)).statistic
    assert distances["diffusion"] < 0.06
    assert distances["poisson"] < 0.06
