"""Reflow: pairs of a trained flow against maps that are known in closed form, and what is learned from them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from brief_training import trained, two_sides
from oracles import reflection_velocity
from scipy import stats

import hamflow as hf
from hamflow.distances import two_sample_distance


def free(kinetic=None):
    return hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic() if kinetic is None else kinetic)


def gaussian(shape, std, mean=0.0):
    """One component with one deviation a coordinate."""
    return hf.GaussianMixturePotential(jnp.full((1, *shape), mean), jnp.full((1, *shape), std), jnp.ones(1))


def sides():
    return hf.GaussianMixturePotential(
        jnp.array([[1.5, 0.0], [-1.5, 0.0]]), jnp.full((2, 2), 0.3), jnp.array([0.5, 0.5])
    )


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


@eqx.filter_jit
def first_states(flow, data):
    return flow.coupling.sample(jr.key(0), data, flow.system, flow.prior, flow.horizon)


CASES = {  # the trained flow, and by how much it stretches N(0, s^2) on the way: the path keeps every quantile
    "flow matching": (hf.flow_matching, lambda s: 1.0 / s),
    "oscillation": (lambda: hf.oscillation(2.0), lambda s: 0.5 / s),
    "diffusion": (lambda: hf.diffusion(3.0, 0.4), lambda s: (9.0 + s**2) ** 0.5 / s),
}


@pytest.mark.parametrize("name", CASES)
def test_normal_data_are_stretched_to_the_prior(name, x64):
    """Both laws are normal and V is linear, so x_T = m_T + (s_T / s) (x_0 - m)."""
    build, stretch = CASES[name]
    trained_flow, std = build(), 0.4
    data = std * normal(1, 6, 2, 1)
    velocity = hf.MixtureVelocity(gaussian((2, 1), std), trained_flow)
    coupling = hf.ReflowCoupling(velocity, trained_flow, tolerance=1e-8)
    flow = hf.Flow(free(hf.GaussianKinetic(1.7)), coupling, 2.5, trained_flow.prior)
    start = first_states(flow, data)
    np.testing.assert_array_equal(start.position, data)
    expected = 1.7 * (stretch(std) * data - data) / 2.5
    np.testing.assert_allclose(start.momentum, expected, rtol=1e-5, atol=1e-6)


def test_steps_on_the_grid_converge_to_the_same_pairs(x64):
    """Heun's method is of second order: from 40 to 80 steps the error falls to about a quarter."""
    trained_flow, data = hf.flow_matching(), 0.4 * normal(2, 6, 2)
    velocity = hf.MixtureVelocity(gaussian((2,), 0.4), trained_flow)

    def error(num_steps):
        flow = hf.Flow(free(), hf.ReflowCoupling(velocity, trained_flow, num_steps=num_steps), 1.0, hf.NormalPrior())
        return float(jnp.max(jnp.abs(first_states(flow, data).momentum - 1.5 * data)))

    assert 1e-6 < error(80) < 0.4 * error(40)


@pytest.fixture(scope="module")
def reflowed():
    """From the exact velocity of two sides under flow matching, with its data."""
    velocity = hf.MixtureVelocity(sides(), hf.flow_matching())
    coupling = hf.ReflowCoupling(velocity, velocity.flow, num_steps=24)
    return hf.Flow(free(), coupling, 1.0, hf.NormalPrior()), two_sides(jr.key(3), 2000)


def test_the_ends_are_draws_of_the_prior(reflowed):
    flow, data = reflowed
    start = first_states(flow, data)
    np.testing.assert_array_equal(start.position, data)
    ends = np.asarray(start.position + start.momentum)
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, -0.8]):
        assert stats.kstest(ends @ np.array(direction), "norm").pvalue > 1e-5
    # A map of the line to itself without a crossing keeps the order; the two coordinates are independent here.
    for i in range(2):
        assert np.all(np.diff(ends[np.argsort(data[:, i]), i]) > -1e-5)


def test_the_pairs_do_not_depend_on_the_key(reflowed):
    flow, data = reflowed
    first, second = (flow.sample_state(jr.key(i), data[:4], jnp.ones(4)) for i in (1, 2))
    np.testing.assert_array_equal(first.position, second.position)
    assert not flow.is_linear


def test_the_models_own_samples_lead_back_to_what_they_were_drawn_from():
    velocity = hf.MixtureVelocity(sides(), hf.flow_matching())
    start = normal(4, 64, 2)
    data = hf.generate(velocity, velocity.flow, jr.key(5), (64, 2), 300, start=start)
    flow = hf.Flow(free(), hf.ReflowCoupling(velocity, velocity.flow, num_steps=300), 1.0, hf.NormalPrior())
    ends = data + first_states(flow, data).momentum
    np.testing.assert_allclose(ends, start, atol=0.02)


def test_one_step_of_a_reflowed_predictor_beats_one_step_of_the_exact_one(reflowed):
    """The exact predictor of independent pairs leads every x_T to E x_0 = 0 in one step; the map of reflow does not."""
    flow, data = reflowed
    predictor = trained(flow, data, jr.key(6))
    held = two_sides(jr.key(7), 2000)

    def distance(predictor, flow):
        samples = hf.generate(predictor, flow, jr.key(8), (2000, 2), 1, hf.Euler())
        return two_sample_distance(jr.key(9), samples, held)[0]

    before = distance(flow.coupling.predictor, flow.coupling.flow)
    assert before > 0.7  # E|x| / std of the first coordinate is .98 from a point
    assert distance(predictor, flow) < 0.3 * before


def test_no_gradient_reaches_the_trained_predictor_or_its_flow(reflowed):
    flow, data = reflowed
    arrays, rest = eqx.partition(flow, eqx.is_inexact_array)
    assert len(jax.tree.leaves(arrays)) >= 3  # means, deviations and weights of the mixture

    def loss(arrays, data):
        flow = eqx.combine(arrays, rest)
        return hf.velocity_matching_loss(lambda t, x, condition, key: 0.5 * x, flow, data, jr.key(10))

    value, gradient = jax.jit(jax.value_and_grad(loss))(arrays, data[:8])
    assert np.isfinite(value)
    assert all(np.all(g == 0.0) for g in jax.tree.leaves(gradient))
    # With x_T held, v_0 = x_T - x_0 has derivative -1.
    slope = jax.jacrev(lambda x: first_states(flow, x).momentum)(data[:2]).reshape(4, 4)
    np.testing.assert_allclose(slope, -np.eye(4), atol=1e-6)


def test_from_a_box_to_straight_lines_in_space():
    """A reflection ends uniform in its box, and lines between points of a box stay in it."""
    trained_flow = hf.reflection()
    mixture = hf.GaussianMixturePotential(jnp.array([[0.4], [-0.5]]), jnp.full((2, 1), 0.1), jnp.array([0.5, 0.5]))
    data = jnp.where(normal(11, 1500, 1) > 0, 0.4, -0.5) + 0.1 * normal(12, 1500, 1)
    coupling = hf.ReflowCoupling(reflection_velocity(mixture), trained_flow, num_steps=40)
    start = first_states(hf.Flow(free(), coupling, 1.0, trained_flow.prior), data)
    ends = np.asarray(start.position + start.momentum)[:, 0]
    assert np.max(np.abs(ends)) <= 1.0
    assert stats.kstest(ends, "uniform", (-1.0, 2.0)).pvalue > 1e-5


def test_what_is_refused():
    trained_flow = hf.flow_matching()
    velocity = hf.MixtureVelocity(gaussian((2,), 0.4), trained_flow)
    coupling = hf.ReflowCoupling(velocity, trained_flow)
    normal_prior = hf.NormalPrior()
    for build, message in (
        (lambda: hf.ReflowCoupling(velocity, trained_flow, num_steps=0), "num_steps must be at least 1"),
        (lambda: hf.ReflowCoupling(velocity, trained_flow, tolerance=0.0), "tolerance must be positive"),
        (
            lambda: hf.Flow(free(hf.RelativisticKinetic()), coupling, 1.0, normal_prior),
            "ReflowCoupling needs a momentum for every velocity",
        ),
        (
            lambda: hf.Flow(
                hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(), hf.Box(-9.0, 9.0)), coupling, 1.0, normal_prior
            ),
            r"in straight lines, which Box may fold: use Euclidean\(\)",
        ),
        (
            lambda: hf.Flow(
                hf.Hamiltonian(hf.HarmonicPotential(1.0), hf.GaussianKinetic()), coupling, 1.0, normal_prior
            ),
            r"in straight lines, which a force bends: use ZeroPotential\(\)",
        ),
        (
            lambda: coupling.require_system(hf.NonSeparableHamiltonian(lambda t, x, p: jnp.sum(x * p))),
            "use a Hamiltonian or a ForcedSystem",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            build()


@pytest.mark.parametrize(
    "prior", [hf.NormalPrior(0.0, 80.0), hf.UniformPrior(-1.0, 1.0), hf.NormalPrior(0.0, np.ones(2, np.float32))]
)
def test_another_prior_than_the_trained_one_is_refused(prior, reflowed):
    flow = hf.Flow(free(), reflowed[0].coupling, 1.0, prior)
    with pytest.raises(ValueError, match=r"give the new flow prior=flow\.prior of the trained one"):
        flow.sample_state(jr.key(13), reflowed[1][:4], jnp.ones(4))


def test_saved_and_loaded(reflowed, tmp_path):
    hf.save(tmp_path / "flow.safetensors", reflowed[0])
    assert eqx.tree_equal(hf.load(tmp_path / "flow.safetensors"), reflowed[0])
