"""What a predictor is to its callers: gradients, dtypes, shapes, conditions, errors; and the exact one for mixtures."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_network import TinyNetwork

import hamflow as hf


def with_array_parameters(train_flow):
    """Every number of the flow and of the scalings an array, so that each could get a gradient."""
    system = hf.Hamiltonian(hf.HarmonicPotential(jnp.array(1.3)), hf.GaussianKinetic(jnp.array([0.7, 0.9])))
    flow = hf.Flow(system, hf.IndependentCoupling(), 1.0, hf.NormalPrior())
    network = TinyNetwork(2)
    return hf.Preconditioned(network, flow, jnp.array([0.5, 0.6]), jnp.array([0.1, 0.2]), train_flow=train_flow)


@pytest.mark.parametrize("train_flow", [False, True])
def test_gradient_reaches_the_network_and_the_flow_only_when_asked(train_flow):
    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(predictor):
        return jnp.sum(predictor(0.4, jnp.array([0.3, -0.8])) ** 2)

    grads = gradient(with_array_parameters(train_flow))
    assert all(np.all(np.abs(leaf).max() > 0) for leaf in jax.tree.leaves(grads.network))
    constants = jax.tree.leaves((grads.flow, grads.data_std, grads.data_mean))
    assert len(constants) == 4
    assert all(np.all(leaf != 0) == train_flow and np.all(np.isfinite(leaf)) for leaf in constants)


@pytest.mark.parametrize("train_flow", [False, True])
def test_trainable_is_the_network_and_the_flow_only_when_asked(train_flow):
    predictor = with_array_parameters(train_flow)
    spec = predictor.trainable()
    assert jax.tree.structure(spec) == jax.tree.structure(predictor)
    chosen, rest = eqx.partition(predictor, spec)
    assert len(jax.tree.leaves(chosen.network)) == 2
    assert len(jax.tree.leaves(chosen.flow)) == (2 if train_flow else 0)
    assert chosen.data_std is None
    assert chosen.data_mean is None
    assert len(jax.tree.leaves((rest.data_std, rest.data_mean))) == 2


@pytest.mark.parametrize("flow", [hf.diffusion(), hf.flow_matching(), hf.oscillation(2.0)])
def test_velocity_and_its_gradients_are_finite_at_both_ends_in_single_precision(flow):
    predictor = hf.Preconditioned(TinyNetwork(2), flow, 0.5, 0.1)

    @eqx.filter_jit
    def velocity_and_gradients(t):
        def loss(arguments):
            predictor, x = arguments
            return jnp.sum(predictor.normalise_error(t, predictor(t, x)) ** 2)

        return predictor(t, jnp.ones(2)), eqx.filter_grad(loss)((predictor, jnp.ones(2)))

    for t in (0.0, 1e-12, flow.horizon):
        for leaf in jax.tree.leaves(velocity_and_gradients(jnp.asarray(t))):
            assert np.all(np.isfinite(leaf)), t


def in_single_precision():
    """Flows and a deviation whose parameters are float32 arrays, also where jax's default is double."""

    def single(value):
        return jnp.asarray(np.array(value), jnp.float32)

    matrix = single([[2.0, 0.6], [0.6, 0.5]])
    heavy = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(matrix))
    uneven = hf.Hamiltonian(hf.HarmonicPotential(single(3.0)), hf.GaussianKinetic(single([4.0, 0.25])))
    flows = [hf.Flow(system, hf.IndependentCoupling(), 0.7, hf.NormalPrior()) for system in (heavy, uneven)]
    return [*flows, hf.flow_matching()], matrix


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtype_is_that_of_the_position(index, dtype, x64):
    """Parameters in single precision, positions in another: the output follows the position, t is cast to it."""
    flows, matrix = in_single_precision()
    for std in (0.5, matrix):
        predictor = hf.Preconditioned(TinyNetwork(2), flows[index], std, jnp.ones(2, jnp.float32))
        t, x = jnp.asarray(0.3, jnp.float32), jnp.ones(2, dtype)
        assert eqx.filter_eval_shape(predictor, t, x).dtype == dtype


def test_images_under_vmap_and_jit_equal_one_at_a_time(x64):
    shape = (3, 4, 4)
    network = TinyNetwork(math.prod(shape))
    std = jnp.asarray(np.linspace(0.3, 0.8, math.prod(shape)).reshape(shape))
    predictor = hf.Preconditioned(network, hf.oscillation(2.0), std, 0.1)
    x, t = jnp.asarray(np.random.default_rng(1).normal(size=(5, *shape))), jnp.asarray(np.linspace(0.1, 0.7, 5))
    together = eqx.filter_jit(eqx.filter_vmap(predictor))(t, x)
    assert together.shape == x.shape
    np.testing.assert_allclose(together[3], eqx.filter_jit(predictor)(t[3], x[3]), atol=1e-12)


def test_condition_and_key_reach_the_network():
    seen = []

    def network(c_noise, x, condition, key):
        seen.append((condition, key))
        return x

    predictor = hf.Preconditioned(network, hf.oscillation(), 0.5)
    jax.eval_shape(lambda: predictor(0.3, jnp.ones(2), "label", "key"))
    jax.eval_shape(lambda: predictor(0.3, jnp.ones(2)))
    assert seen == [("label", "key"), (None, None)]


def test_a_flow_that_is_not_linear_says_what_to_use():
    with pytest.raises(ValueError, match="from_data"):
        hf.Preconditioned(TinyNetwork(2), hf.reflection(), 0.5)


@pytest.mark.parametrize("std", [0.0, -1.0, np.array([0.5, 0.0]), float("nan")])
def test_data_std_must_be_positive(std):
    with pytest.raises(ValueError, match="data_std"):
        hf.Preconditioned(TinyNetwork(2), hf.oscillation(), jnp.asarray(std) if np.ndim(std) else std)


@pytest.mark.parametrize("argument", ["data_std", "data_mean"])
@pytest.mark.parametrize("shape", [(3,), (1,), (1, 2)])
def test_constants_of_another_shape_are_named(argument, shape):
    arguments = {"data_std": 0.5, "data_mean": 0.0, argument: jnp.ones(shape)}
    predictor = hf.Preconditioned(lambda c, x, condition, key: x, hf.oscillation(), **arguments)
    with pytest.raises(ValueError, match=argument):
        jax.eval_shape(lambda: predictor(0.3, jnp.ones(2)))


@pytest.mark.parametrize("argument", ["data_std", "data_mean"])
def test_constants_of_another_type_are_named(argument):
    arguments = {"data_std": 0.5, "data_mean": 0.0, argument: "0.5"}
    with pytest.raises(TypeError, match=argument):
        hf.Preconditioned(lambda c, x, condition, key: x, hf.oscillation(), **arguments)


@pytest.mark.parametrize("wrong", [lambda x: x[None], lambda x: x[:1], lambda x: x.astype(jnp.bfloat16)])
def test_a_network_that_returns_another_shape_or_dtype(wrong):
    predictor = hf.Preconditioned(lambda c, x, condition, key: wrong(x), hf.oscillation(), 0.5)
    with pytest.raises(ValueError, match="the network returned"):
        jax.eval_shape(lambda: predictor(0.3, jnp.ones(2)))


MEANS, STDS, WEIGHTS = np.array([-1.0, 0.5, 2.0]), np.array([0.3, 0.8, 0.5]), np.array([0.5, 0.2, 0.3])
HEAVY = hf.Hamiltonian(hf.HarmonicPotential(3.0), hf.GaussianKinetic(4.0))  # w = 3/2, v_0 ~ N(0, 1/4)
LINEAR = {
    "diffusion": (hf.diffusion(), lambda t: (1.0, t, 0.0, 1.0)),
    "flow matching": (hf.flow_matching(), lambda t: (1 - t, t, -1.0, 1.0)),
    "oscillation": (
        hf.oscillation(2.0),
        lambda t: (math.cos(2 * t), math.sin(2 * t) / 2, -2 * math.sin(2 * t), math.cos(2 * t)),
    ),
    "whitened": (
        hf.whitened_oscillation(0.49),
        lambda t: (math.cos(t), 0.7 * math.sin(t), -math.sin(t), 0.7 * math.cos(t)),
    ),
    "heavy oscillation": (
        hf.Flow(HEAVY, hf.IndependentCoupling(), 1.0, hf.NormalPrior()),
        lambda t: (math.cos(1.5 * t), math.sin(1.5 * t) / 3, -1.5 * math.sin(1.5 * t), math.cos(1.5 * t) / 2),
    ),
}


def conditional_velocity(x, a, b, a_dot, b_dot):
    """E[a' x_0 + b' e | a x_0 + b e = x] by quadrature over x_0, for data from the mixture above."""
    x0 = np.linspace(-6, 8, 20_001)
    data = np.sum(WEIGHTS / STDS * np.exp(-(((x0[:, None] - MEANS) / STDS) ** 2) / 2), axis=1)
    e = (x - a * x0) / b
    posterior = data * np.exp(-(e**2) / 2)
    return np.sum(posterior * (a_dot * x0 + b_dot * e)) / np.sum(posterior)


@pytest.mark.parametrize("name", LINEAR)
def test_mixture_velocity_is_the_conditional_mean(name, x64):
    flow, coefficients = LINEAR[name]
    mixture = hf.GaussianMixturePotential(jnp.asarray(MEANS), jnp.asarray(STDS), 3 * jnp.asarray(WEIGHTS))
    points = [(t, x) for t in (0.1, 0.5) for x in (-1.5, 0.2, 1.0, 4.0)]
    found = jax.jit(jax.vmap(hf.MixtureVelocity(mixture, flow).__call__))(*jnp.asarray(points).T)
    expected = [conditional_velocity(x, *coefficients(t)) for t, x in points]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_mixture_velocity_at_both_ends(x64):
    """At 0 it is E[v_0 | x_0]; where a = 0 the data are forgotten and their mean remains."""
    mixture = hf.GaussianMixturePotential(jnp.asarray(MEANS), jnp.asarray(STDS), jnp.asarray(WEIGHTS))
    mean, x = np.sum(WEIGHTS * MEANS), jnp.asarray(0.7)
    oscillation, straight = (hf.MixtureVelocity(mixture, flow) for flow in (hf.oscillation(2.0), hf.flow_matching()))
    assert float(oscillation(0.0, x)) == pytest.approx(0.0, abs=1e-12)
    assert float(straight(0.0, x)) == pytest.approx(-0.7, abs=1e-12)
    assert float(oscillation(math.pi / 4, x)) == pytest.approx(-2 * mean, abs=1e-12)
    assert float(straight(1.0, x)) == pytest.approx(0.7 - mean, abs=1e-12)


def test_mixture_velocity_on_images_is_minus_t_times_the_score_of_diffusion(x64):
    """THEORY 4: score = -V / t for a = 1, b = t; the score by autodiff of a density written here."""
    rng = np.random.default_rng(0)
    means, stds = jnp.asarray(rng.normal(size=(3, 2, 2, 2))), jnp.asarray(rng.uniform(0.3, 1.0, (3, 2, 2, 2)))

    def log_density(x, t):
        variance = stds**2 + t**2
        exponent = -0.5 * ((x[None] - means) ** 2 / variance + jnp.log(variance))
        return jax.nn.logsumexp(jnp.log(jnp.asarray(WEIGHTS)) + jnp.sum(exponent, axis=(1, 2, 3)))

    velocity = hf.MixtureVelocity(hf.GaussianMixturePotential(means, stds, jnp.asarray(WEIGHTS)), hf.diffusion())
    x = jnp.asarray(rng.normal(size=(2, 2, 2)))
    np.testing.assert_allclose(velocity(0.7, x), -0.7 * jax.jit(jax.grad(log_density))(x, 0.7), rtol=1e-10)


def test_mixture_velocity_far_out_stays_finite_in_single_precision():
    mixture = hf.GaussianMixturePotential(jnp.array([-1.0, 1.0]), jnp.array([0.1, 0.2]), jnp.array([0.5, 0.5]))
    velocity = hf.MixtureVelocity(mixture, hf.oscillation())
    for t in (0.0, 1e-6, math.pi / 2):
        assert np.all(np.isfinite(velocity(t, jnp.asarray(1e4)))), t


def test_mixture_velocity_refuses_what_it_does_not_know():
    mixture = hf.GaussianMixturePotential(jnp.zeros((1, 2)), jnp.ones(1), jnp.ones(1))
    with pytest.raises(ValueError, match="linear"):
        hf.MixtureVelocity(mixture, hf.reflection())
    velocity = hf.MixtureVelocity(mixture, hf.whitened_oscillation(jnp.array([[2.0, 0.5], [0.5, 1.0]])))
    with pytest.raises(ValueError, match="matrices"):
        velocity(0.3, jnp.ones(2))
