"""The velocity-matching loss: its minimiser, what reaches the predictor, weights, dtypes, errors."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fixed_draws import GivenTime, with_noise
from oracles import reflection_velocity
from tiny_network import TinyNetwork

import hamflow as hf

CASES = {  # E[v | x] = k x for data N(0, 1/4) at t = .7 (THEORY 6), and Var x, Cov(x, v), Var v there
    "zero force": (hf.diffusion(), 0.945946, (0.74, 0.7, 1.0)),
    "flow matching": (hf.flow_matching(), 1.219512, (0.09 / 4 + 0.49, 0.7 - 0.3 / 4, 1.25)),
    "oscillation": (hf.oscillation(), 0.658415, None),
    "whitened": (hf.whitened_oscillation(0.25), 0.0, (0.25, 0.0, 0.25)),
}


@pytest.mark.parametrize("name", CASES)
def test_best_linear_predictor_has_the_known_slope(name, x64):
    """The loss is a parabola in k; its minimum from three values is within 5 standard errors (alarm 6e-7)."""
    flow, slope, moments = CASES[name]
    if moments is None:
        c, s = math.cos(0.7), math.sin(0.7)
        moments = (c**2 / 4 + s**2, s * c * (1 - 1 / 4), s**2 / 4 + c**2)
    var, cov, var_v = moments
    assert cov / var == pytest.approx(slope, abs=1e-6)
    n = 200_000
    data = jnp.asarray(np.random.default_rng(0).normal(0, 0.5, n))

    @jax.jit
    @jax.vmap
    def loss(k):
        return hf.velocity_matching_loss(
            lambda t, x, condition, key: k * x, flow, data, jr.key(1), time_law=GivenTime(jnp.asarray(0.7))
        )

    below, middle, above = np.asarray(loss(jnp.array([-1.0, 0.0, 1.0])))
    found = (below - above) / (2 * (below + above - 2 * middle))
    error = math.sqrt((var_v - cov**2 / var) / (n * var))
    assert abs(found - slope) < 5 * error
    assert middle == pytest.approx(var_v, rel=5 * math.sqrt(2 / n))


MIXTURE = hf.GaussianMixturePotential(jnp.array([-0.4, 0.3]), jnp.array([0.1, 0.12]), jnp.array([0.4, 0.6]))
DIRECTIONS = (lambda t, x: 1.0, lambda t, x: x, lambda t, x: jnp.sin(3 * x), lambda t, x: t * x)
EXACT = {
    "diffusion": hf.diffusion(),
    "flow matching": hf.flow_matching(),
    "oscillation": hf.oscillation(2.0),
    "whitened": hf.whitened_oscillation(0.13),
    "reflection": hf.reflection(),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_velocity_is_a_minimum(name):
    """Along four directions the slope of the loss is 0 within 4.7 standard errors (alarm 1e-5 for all four).

    At the same predictor times 1.1 it is not, and a step along any direction raises the loss by E[w h^2] to 15%.
    """
    flow, batches = EXACT[name], 64
    exact = reflection_velocity(MIXTURE) if name == "reflection" else hf.MixtureVelocity(MIXTURE, flow)

    def loss(step, key, scale=1.0):
        key_data, key = jr.split(key)
        k = jr.bernoulli(key_data, 0.6, (4000,)).astype(int)
        data = MIXTURE.means[k] + MIXTURE.stds[k] * jr.normal(jr.fold_in(key_data, 1), (4000,))

        def predictor(t, x, condition, key):
            moved = sum(s * h(t, x) for s, h in zip(step, DIRECTIONS, strict=True))
            return scale * exact(t, x) + moved

        return hf.velocity_matching_loss(predictor, flow, data, key, time_law=hf.LogNormalNoise(-1.2, 0.8))

    @jax.jit
    def slopes_and_rises(keys):
        zero, steps = jnp.zeros(4), 0.5 * jnp.eye(4)

        def one(key):
            rise = jax.vmap(lambda step: loss(step, key))(steps) - loss(zero, key)
            return jax.grad(loss)(zero, key), jax.grad(loss)(zero, key, 1.1), rise

        return jax.lax.map(one, keys)

    exact_slopes, off_slopes, rises = (np.asarray(z) for z in slopes_and_rises(jr.split(jr.key(0), batches)))

    def z_scores(slopes):
        return np.abs(slopes.mean(0)) / (slopes.std(0) / math.sqrt(batches))

    assert np.all(z_scores(exact_slopes) < 4.7)
    if name != "whitened":  # where the velocity is small, a tenth of it is not seen
        assert np.max(z_scores(off_slopes)) > 6
    assert np.all(rises.mean(0) > 0)
    assert rises[:, 0].mean() == pytest.approx(0.25, rel=0.15)


def test_only_the_predictor_gets_a_gradient():
    """The state is a constant of the loss: no gradient into a frequency, and none needed through the trajectory."""
    data = jnp.ones((4, 2))

    def loss(frequency):
        system = hf.Hamiltonian(hf.HarmonicPotential(frequency), hf.GaussianKinetic())
        flow = hf.Flow(system, hf.IndependentCoupling(), 1.0, hf.NormalPrior())
        return hf.velocity_matching_loss(lambda t, x, condition, key: jnp.sin(x), flow, data, jr.key(0))

    value, slope = jax.jit(jax.value_and_grad(loss))(1.3)
    assert value > 0
    assert slope == 0


def test_a_preconditioned_network_learns_and_its_constants_do_not():
    system = hf.Hamiltonian(hf.HarmonicPotential(jnp.array(1.3)), hf.GaussianKinetic(jnp.array(0.7)))
    flow = hf.Flow(system, hf.IndependentCoupling(), 1.0, hf.NormalPrior())
    predictor = hf.Preconditioned(TinyNetwork(2), flow, jnp.array(0.5), jnp.array([0.1, 0.2]))
    data = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)
    grads = eqx.filter_jit(eqx.filter_grad(lambda p: hf.velocity_matching_loss(p, p.flow, data, jr.key(0))))(predictor)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads.network))
    rest = jax.tree.leaves((grads.flow, grads.data_std, grads.data_mean))
    assert len(rest) == 4
    assert all(np.all(leaf == 0) for leaf in rest)


N = 6
NOISE = jnp.asarray(np.random.default_rng(0).normal(size=(N, 2)), jnp.float32)
DATA = jnp.asarray(np.random.default_rng(1).normal(size=(N, 2)), jnp.float32)
TIMES = jnp.asarray(np.linspace(0.2, 1.4, N), jnp.float32)
FREE = with_noise(hf.diffusion(), NOISE)  # v = NOISE, x = DATA + t NOISE, row by row
LAW = GivenTime(TIMES)


@pytest.fixture(scope="module")
def loss():
    """The loss with every draw given, so that its value is one line of numpy."""

    def value(predictor, **options):
        return float(
            jax.jit(lambda: hf.velocity_matching_loss(predictor, FREE, DATA, jr.key(0), time_law=LAW, **options))()
        )

    return value


def test_time_and_position_reach_the_predictor(loss):
    x = np.asarray(DATA) + np.asarray(TIMES)[:, None] * np.asarray(NOISE)
    expected = np.mean((np.asarray(TIMES)[:, None] * x - np.asarray(NOISE)) ** 2)
    assert loss(lambda t, x, condition, key: t * x) == pytest.approx(expected, rel=1e-5)


def test_condition_reaches_the_predictor_row_by_row(loss):
    condition = {"shift": NOISE, "label": jnp.arange(N)}  # the right answer and a label, one an example

    def predictor(t, x, condition, key):
        return condition["shift"] + condition["label"].astype(x.dtype)

    assert loss(predictor, condition=condition) == pytest.approx(np.mean(np.arange(N) ** 2), rel=1e-5)
    assert loss(lambda t, x, condition, key: x if condition is None else jnp.nan) > 0


def test_each_example_gets_its_own_dropout_key():
    seen = []

    def predictor(t, x, condition, key):
        jax.debug.callback(lambda data: seen.append(tuple(np.asarray(data))), jr.key_data(key))
        return x

    for key in (jr.key(0), jr.key(1), jr.PRNGKey(2)):
        jax.block_until_ready(hf.velocity_matching_loss(predictor, FREE, DATA, key, time_law=LAW))
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 3 * N


def test_weights(loss):
    def predictor(t, x, condition, key):
        return jnp.zeros_like(x)

    squares, t = np.asarray(NOISE) ** 2, np.asarray(TIMES)[:, None]
    scale = jnp.array([1.0, 3.0])
    assert loss(predictor) == pytest.approx(squares.mean(), rel=1e-5)
    assert loss(predictor, weight=2.5) == pytest.approx(2.5 * squares.mean(), rel=1e-5)
    assert loss(predictor, weight=lambda t: t**2) == pytest.approx((t**2 * squares).mean(), rel=1e-5)
    per_coordinate = (t * np.asarray(scale) * squares).mean()
    assert loss(predictor, weight=lambda t: t * scale) == pytest.approx(per_coordinate, rel=1e-5)


def test_weight_defaults_to_the_predictors_own_and_can_be_replaced(loss):
    """A zero network leaves V = c_skip x, and the default weight is 1 / c_out^2 = (t^2 + s^2) / s^2."""
    predictor = hf.Preconditioned(lambda c, x, condition, key: jnp.zeros_like(x), hf.diffusion(), 0.5)
    t, v = np.asarray(TIMES, np.float64)[:, None], np.asarray(NOISE, np.float64)
    total = t**2 + 0.25
    squares = (t / total * (np.asarray(DATA) + t * v) - v) ** 2
    assert loss(predictor) == pytest.approx((total / 0.25 * squares).mean(), rel=1e-5)
    assert loss(predictor, weight=1.0) == pytest.approx(squares.mean(), rel=1e-5)
    assert loss(predictor, weight=lambda t: (t**2 + 0.25) / 0.25) == pytest.approx(loss(predictor), rel=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_loss_is_in_the_dtype_of_the_data(dtype, x64):
    network = TinyNetwork(48)
    flow = hf.oscillation(2.0)
    predictor = hf.Preconditioned(network, flow, jnp.asarray(np.float32(0.5)))

    def loss(data):
        return hf.velocity_matching_loss(predictor, flow, data, jr.key(0), condition=jnp.zeros((5, 0), dtype))

    shape = jax.eval_shape(loss, jax.ShapeDtypeStruct((5, 3, 4, 4), dtype))
    assert shape.shape == ()
    assert shape.dtype == dtype


def zero(t, x, condition, key):
    return jnp.zeros_like(x)


def test_bad_arguments_are_named():
    flow, key = hf.oscillation(), jr.key(0)
    with pytest.raises(TypeError, match="'data'"):
        hf.velocity_matching_loss(zero, flow, np.ones((4, 2), np.uint8), key)
    with pytest.raises(TypeError, match="'data'"):
        hf.velocity_matching_loss(zero, flow, jnp.asarray(1.0), key)
    with pytest.raises(TypeError, match="'flow'"):
        hf.velocity_matching_loss(zero, "oscillation", jnp.ones((4, 2)), key)
    with pytest.raises(TypeError, match="'key'"):
        hf.velocity_matching_loss(zero, flow, jnp.ones((4, 2)), 0)
    with pytest.raises(TypeError, match="'time_law'"):
        hf.velocity_matching_loss(zero, flow, jnp.ones((4, 2)), key, time_law="uniform")
    with pytest.raises(TypeError, match="'weight'"):
        hf.velocity_matching_loss(zero, flow, jnp.ones((4, 2)), key, weight=jnp.ones(4))
    with pytest.raises(ValueError, match="data is an empty batch"):
        hf.velocity_matching_loss(zero, flow, jnp.ones((0, 2)), key)


@pytest.mark.parametrize("condition", [np.ones(3), 1, {"a": np.ones((4, 2)), "b": np.ones((1, 4))}])
def test_conditions_must_be_one_an_example(condition):
    with pytest.raises(ValueError, match="condition has a leaf of shape"):
        hf.velocity_matching_loss(zero, hf.oscillation(), jnp.ones((4, 2)), jr.key(0), condition=condition)


@pytest.mark.parametrize("wrong", [lambda x: x[None], lambda x: x[:1], lambda x: x.sum()])
def test_a_predictor_that_returns_another_shape(wrong):
    with pytest.raises(ValueError, match="predictor returned shape"):
        hf.velocity_matching_loss(lambda t, x, condition, key: wrong(x), hf.oscillation(), jnp.ones((4, 2)), jr.key(0))


def test_data_outside_the_box_are_an_error():
    loss = eqx.filter_jit(lambda data: hf.velocity_matching_loss(zero, hf.reflection(), data, jr.key(0)))
    with pytest.raises(RuntimeError, match="outside the Box"):
        jax.block_until_ready(loss(3 * jnp.ones((4, 2))))
