"""Other clocks and scales: against the equations that diffusion models are published in, and against each other."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from oracles import reflection_velocity
from systems import array

import hamflow as hf

KEY = jr.key(0)
MEANS, STDS, WEIGHTS = np.array([-1.5, 1.0]), np.array([0.3, 0.5]), np.array([0.4, 0.6])


def mixture():
    return hf.GaussianMixturePotential(*(jnp.asarray(v, float) for v in (MEANS, STDS, WEIGHTS)))


def score(x, a, b):
    """grad log of the mixture's law at x_t = a x_0 + b e, in numpy."""
    means, variances = a * MEANS[:, None], (a * STDS[:, None]) ** 2 + b**2
    density = WEIGHTS[:, None] * np.exp(-((x - means) ** 2) / (2 * variances)) / np.sqrt(variances)
    return -np.sum(density * (x - means) / variances, 0) / np.sum(density, 0)


def carried(schedule, flow):
    return hf.RescheduledVelocity(hf.MixtureVelocity(mixture(), flow), hf.reschedule(flow, schedule))


# -- the published equations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1e-4, 0.1, 0.5, 0.93])
def test_variance_preserving_is_songs_equation(t, x64):
    """dx/dt = -beta(t) (x + score) / 2 (Song et al. 2021, equations 13 and 33), and m = exp(-int beta)."""
    predictor = carried(hf.VariancePreserving(), hf.diffusion())
    m = math.exp(-0.1 * t - 9.95 * t**2)
    x = np.linspace(-3.0, 3.0, 7)
    expected = -0.5 * (0.1 + 19.9 * t) * (x + score(x, math.sqrt(m), math.sqrt(1 - m)))
    np.testing.assert_allclose(jax.vmap(predictor, (None, 0))(t, jnp.asarray(x)), expected, rtol=1e-9, atol=1e-9)
    a, b, _, _ = predictor.flow.coefficients(t)
    np.testing.assert_allclose([a, b], [math.sqrt(m), math.sqrt(1 - m)], rtol=1e-9)


@pytest.mark.parametrize("t", [1e-3, 1.0, 100.0, 6400.0])
def test_variance_exploding_is_songs_equation(t, x64):
    """sigma^2 = t: dx/dt = -(d sigma^2 / dt) score / 2."""
    predictor = carried(hf.VarianceExploding(), hf.diffusion())
    x = np.linspace(-3.0, 3.0, 7)
    found = jax.vmap(predictor, (None, 0))(t, jnp.asarray(x))
    np.testing.assert_allclose(found, -0.5 * score(x, 1.0, math.sqrt(t)), rtol=1e-8)


def test_horizons_and_priors(x64):
    """sigma(T) is the diffusion's: exp(B) = 1 + 80^2, and t = 80^2; the law there is the diffusion's, scaled."""
    diffusion = hf.diffusion(data_mean=0.3)
    vp, ve = (hf.reschedule(diffusion, s) for s in (hf.VariancePreserving(), hf.VarianceExploding()))
    assert 0.1 * vp.horizon + 9.95 * vp.horizon**2 == pytest.approx(math.log(6401.0), rel=1e-12)
    assert ve.horizon == 6400.0
    x = jnp.asarray(0.7)
    deviation, mean = math.sqrt(6400.25 / 6401.0), 0.3 / math.sqrt(6401.0)
    assert float(vp.prior.log_prob(x)) == pytest.approx(float(hf.NormalPrior(mean, deviation).log_prob(x)), abs=1e-9)
    draws = [np.asarray(prior.sample(KEY, (3,))) for prior in (vp.prior, diffusion.prior)]
    np.testing.assert_allclose(draws[0], draws[1] / math.sqrt(6401.0), rtol=1e-12)
    assert ve.prior is diffusion.prior


def test_flow_matching_by_another_clock_is_an_oscillation(x64):
    """(1 - r) c = cos t and r c = sin t: r = sin / (sin + cos), c = sin + cos (Salimans and Ho 2022 turn the same)."""
    schedule = hf.Schedule(
        lambda t: jnp.sin(t) / (jnp.sin(t) + jnp.cos(t)), math.pi / 2, lambda t: jnp.sin(t) + jnp.cos(t)
    )
    flow, oscillation = hf.reschedule(hf.flow_matching(), schedule), hf.oscillation()
    assert flow.horizon == pytest.approx(math.pi / 2)
    for t in (0.0, 0.4, 1.2, math.pi / 2):
        for found, expected in zip(flow.coefficients(t), oscillation.coefficients(t), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(
        hf.rho_grid(flow, 9)[1:], hf.rho_grid(oscillation, 9)[1:], rtol=1e-9
    )  # found by halving, the other by a formula
    predictor = hf.RescheduledVelocity(hf.MixtureVelocity(mixture(), hf.flow_matching()), flow)
    exact, x = hf.MixtureVelocity(mixture(), oscillation), jnp.linspace(-2.0, 2.0, 5)
    for t in (0.2, 1.5):
        np.testing.assert_allclose(jax.vmap(predictor, (None, 0))(t, x), jax.vmap(exact, (None, 0))(t, x), rtol=1e-9)


# -- one flow and its changes ----------------------------------------------------------------------------------------

CHANGES = {
    "preserving": (hf.VariancePreserving(), hf.diffusion),
    "exploding": (hf.VarianceExploding(), hf.diffusion),
    "own": (hf.Schedule(lambda t: t**2, math.sqrt(math.pi / 2), lambda t: 1.0 + t), hf.oscillation),
}


@pytest.fixture(params=CHANGES)
def change(request, x64):
    schedule, make = CHANGES[request.param]
    flow = make()
    return flow, hf.MixtureVelocity(mixture(), flow), carried(schedule, flow)


def test_the_exact_velocity_is_carried_over(change):
    """MixtureVelocity of the new flow reads its coefficients alone."""
    _, _, predictor = change
    exact, x = hf.MixtureVelocity(mixture(), predictor.flow), jnp.linspace(-3.0, 3.0, 9)
    for t in np.array([0.01, 0.3, 1.0]) * predictor.flow.horizon:
        found = jax.vmap(predictor, (None, 0))(t, x)
        np.testing.assert_allclose(found, jax.vmap(exact, (None, 0))(t, x), rtol=1e-9, atol=1e-12)


def test_samplers_of_linear_flows_do_not_see_the_change(change):
    """They know sigma and D alone: the same ends from the same (scaled) starts, to rounding."""
    flow, exact, predictor = change
    for sampler in (hf.DDIM(), hf.DPMSolver2M(), hf.UniPC()):
        before, after = (
            hf.generate(v, f, KEY, (5,), 12, sampler) for v, f in ((exact, flow), (predictor, predictor.flow))
        )
        np.testing.assert_allclose(after, before, rtol=1e-8, atol=1e-9)


def test_samples_and_likelihood_are_the_same(change):
    flow, exact, predictor = change
    before, after = (
        hf.generate(v, f, KEY, (5,), tolerance=1e-8, solver=diffrax.Dopri5())
        for v, f in ((exact, flow), (predictor, predictor.flow))
    )
    np.testing.assert_allclose(after, before, atol=2e-5)
    x = jnp.array([-1.0, 0.2, 1.4])
    before, after = (
        hf.log_likelihood(v, f, x, tolerance=1e-7) for v, f in ((exact, flow), (predictor, predictor.flow))
    )
    np.testing.assert_allclose(after, before, atol=2e-5)


@pytest.mark.parametrize("make", [hf.VariancePreserving, hf.VarianceExploding])
def test_at_the_data(make):
    """At t = 0, where sqrt(t) has no slope, the exact velocity is its limit, and the density of the data is right."""
    flow = hf.reschedule(hf.diffusion(), make())
    centred = hf.GaussianMixturePotential(array([-0.5, 0.3], [0.5, -0.3]), array(0.3, 0.4), array(0.5, 0.5))
    exact, x = hf.MixtureVelocity(centred, flow), array(0.3, -0.2)
    np.testing.assert_allclose(exact(0.0, x), exact(1e-9, x), rtol=1e-2)
    assert float(jnp.max(jnp.abs(exact(0.0, x)))) > 0.02
    model = hf.Preconditioned(lambda c, x, condition, key: jnp.zeros_like(x), flow, 0.5)
    np.testing.assert_allclose(model(0.0, x), model(1e-8, x), rtol=1e-2)
    points = jax.vmap(lambda k: centred.sample(k, (2,)))(jr.split(jr.key(3), 16))
    found = hf.log_likelihood(exact, flow, points)
    np.testing.assert_allclose(found, jax.vmap(centred.log_prob)(points), atol=1e-3)


def test_another_prior_is_read_in_the_new_unit(x64):
    """The old coupling meets the prior in its own unit, whatever the object: b of flow matching times the scale."""
    schedule = hf.Schedule(jnp.sin, math.pi / 2, lambda t: 1.0 + t)
    flow = hf.reschedule(hf.flow_matching(), schedule)
    assert flow.horizon == math.pi / 2
    plain = hf.Flow(flow.system, flow.coupling, flow.horizon, hf.NormalPrior(0.0, 1.0 + math.pi / 2))
    for found, expected in zip(plain.coefficients(1.5), flow.coefficients(1.5), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    data = jr.normal(KEY, (4000, 1))
    ends = plain.sample_state(KEY, data, jnp.full(4000, flow.horizon)).position
    assert float(jnp.std(ends)) == pytest.approx(1.0 + math.pi / 2, rel=0.05)


def test_noise_scale_is_the_same_sigma(change):
    flow, _, predictor = change
    new = predictor.flow
    schedule = new.system.schedule
    times = jnp.linspace(0.02, 0.98, 7) * new.horizon
    sigma = new.noise_scale.log_sigma(times)
    np.testing.assert_allclose(sigma, flow.noise_scale.log_sigma(jax.vmap(schedule.time)(times)), rtol=1e-9)
    np.testing.assert_allclose(new.noise_scale.time(sigma), times, rtol=1e-8)


def test_scalings_of_a_variance_preserving_network(x64):
    """c_in = 1 / sqrt(a^2 s^2 + b^2), and the loss of the linear predictor alone is 1 in every unit."""
    flow = hf.reschedule(hf.diffusion(), hf.VariancePreserving())
    model = hf.Preconditioned(lambda c, x, condition, key: jnp.zeros_like(x), flow, 0.5)
    data = 0.5 * jr.normal(KEY, (4000, 2))
    scalings = model.scalings(0.3, data[0])
    m = math.exp(-0.03 - 9.95 * 0.09)
    assert scalings.c_in.value == pytest.approx(1 / math.sqrt(m * 0.25 + 1 - m), rel=1e-12)
    assert hf.velocity_matching_loss(model, flow, data, KEY) == pytest.approx(1.0, abs=0.06)


def test_reflection_by_another_clock(x64):
    """The walls stay where they are, and so do the samples."""
    law = hf.GaussianMixturePotential(array([0.5], [-0.4]), array(0.15, 0.1), array(0.4, 0.6))
    flow = hf.reflection()
    new = hf.reschedule(flow, hf.Schedule(jnp.sqrt, 9.0))
    state = hf.PhaseState(jnp.array([0.4]), jnp.array([1.7]))
    np.testing.assert_allclose(new.evolve(state, 4.0).position, flow.evolve(state, 2.0).position, rtol=1e-12)
    velocity = reflection_velocity(law)
    start = jnp.linspace(-0.9, 0.9, 7)[:, None]
    before = hf.generate(velocity, flow, KEY, (7, 1), start=start, tolerance=1e-8)
    after = hf.generate(hf.RescheduledVelocity(velocity, new), new, KEY, (7, 1), start=start, tolerance=1e-8)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_measured_moments_are_those_of_the_new_clock(x64):
    """At T = 9 by the clock sqrt(t) velocities are v / (2 sqrt(t)), of variance 1 / 36."""
    flow = hf.reschedule(hf.reflection(), hf.Schedule(jnp.sqrt, 9.0))
    data = jr.uniform(KEY, (500, 2), minval=-0.9, maxval=0.9)
    model = hf.Preconditioned.from_data(lambda c, x, condition, key: x, flow, data, KEY, num_draws=8000)
    assert float(model.moments.velocity_variance[-1]) == pytest.approx(1.0 / 36.0, rel=0.05)


def test_a_rescheduled_flow_is_kept(tmp_path):
    flow = hf.reschedule(hf.diffusion(), hf.VariancePreserving(0.2, 15.0))
    model = hf.Preconditioned(hf.networks.MLP(2, width=8, depth=1, key=KEY), flow, 0.5)
    hf.save(tmp_path / "model.safetensors", model)
    found = hf.load(tmp_path / "model.safetensors")
    assert eqx.tree_equal(found, model)


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    stepped = hf.Flow(
        hf.Hamiltonian(hf.QuarticPotential(1.0), hf.GaussianKinetic()),
        hf.IndependentCoupling(),
        1.0,
        hf.NormalPrior(),
        hf.Leapfrog(step_size=0.1),
    )
    clock = hf.Schedule(lambda t: t**2, 1.0)
    for flow, schedule, message in (
        (stepped, clock, "reschedule needs a flow in closed form, and this one follows Leapfrog"),
        (hf.reflection(), hf.Schedule(lambda t: t, 3.0, lambda t: 1.0 + t), "use a Schedule without a scale"),
        (hf.reflection(), hf.VarianceExploding(), "for another flow use hf.Schedule; this one is not linear"),
        (hf.oscillation(), hf.VariancePreserving(), "for another flow use hf.Schedule"),
        (hf.reflection(), clock, "reaches 1 at its horizon, and the flow's horizon is 3"),
        (hf.flow_matching(), hf.Schedule(lambda t: t, 2.0), "reaches 2 at its horizon, and the flow's horizon is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            hf.reschedule(flow, schedule)
    with pytest.raises(ValueError, match=r"flow must be one that hamflow\.reschedule returned"):
        hf.RescheduledVelocity(lambda t, x, c, k: x, hf.diffusion())
    with pytest.raises(TypeError, match="call it outside jit"):
        jax.jit(
            lambda T: (
                hf.reschedule(
                    hf.Flow(hf.diffusion().system, hf.IndependentCoupling(), T, hf.NormalPrior()), clock
                ).horizon
            )
        )(3.0)


def test_schedules_that_start_elsewhere_are_refused():
    with pytest.raises(ValueError, match=r"time\(0\) must be 0"):
        hf.Schedule(lambda t: t + 1.0, 1.0)
    with pytest.raises(ValueError, match=r"scale\(0\) must be 1"):
        hf.Schedule(lambda t: t, 1.0, lambda t: 2.0 + t)
    with pytest.raises(ValueError, match="horizon must be positive"):
        hf.Schedule(lambda t: t, 0.0)
    with pytest.raises(ValueError, match="time must increase"):
        hf.Schedule(lambda t: t + 0.5 * jnp.sin(2 * jnp.pi * t), 1.0)
    for scale in (lambda t: 1.0 - t, lambda t: 1.0 - 6.0 * t * (1.0 - t)):
        with pytest.raises(ValueError, match="scale must be positive"):
            hf.Schedule(lambda t: t, 1.0, scale)
    with pytest.raises(TypeError, match="time must be callable"):
        hf.Schedule(3.0, 1.0)
    with pytest.raises(ValueError, match="in order"):
        hf.VariancePreserving(2.0, 1.0)
    with pytest.raises(ValueError, match="factor must be positive"):
        hf.ScaledPrior(hf.NormalPrior(), 0.0)
