"""Preconditioned.from_data: what it measures, against the data's own moments and the exact ones of a reflection.

The exact law in a box is the heat kernel with reflecting walls: from x_0, with u = x - lower, mode n of the law,
cos(n pi u / L), decays by exp(-(n pi t / L)^2 / 2). With u and u^2 in cosine series that gives E x_t and E x_t^2 over
the very data used; since v = dx/dt, E v_t = d/dt E x_t and Cov(x_t, v_t) = 1/2 d/dt Var x_t; |v_t| = |p_0| gives
E v_t^2 = 1.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_network import TinyNetwork

import hamflow as hf

LOWER, UPPER = np.array([-1.0, 0.0]), np.array([2.0, 1.0])
DRAWS = 20_000


def exact_moments(data, times):
    """(E x, E v, E x^2, E x v) a coordinate, each of shape (times, 2), for data in the box LOWER to UPPER."""
    length = UPPER - LOWER
    n = np.arange(1, 200)[:, None]
    c = np.cos(n[:, None] * np.pi * (data - LOWER)[None] / length).mean(axis=1)  # (modes, 2)
    rate = (n * np.pi / length) ** 2
    decay = np.exp(-rate * times[:, None, None] ** 2 / 2) * c
    slope = -rate * times[:, None, None] * decay
    odd, sign = n % 2, (-1.0) ** n

    def u_and_square(modes, constant):
        u = constant * length / 2 - 4 * length / np.pi**2 * np.sum(odd * modes / n**2, axis=1)
        square = constant * length**2 / 3 + 4 * length**2 / np.pi**2 * np.sum(sign * modes / n**2, axis=1)
        return u, square

    (u, square), (u_dot, square_dot) = u_and_square(decay, 1.0), u_and_square(slope, 0.0)
    return LOWER + u, u_dot, square + 2 * LOWER * u + LOWER**2, square_dot / 2 + LOWER * u_dot


@pytest.fixture(scope="module")
def box_data():
    rng = np.random.default_rng(1)
    first = np.where(rng.random(2000) < 0.7, rng.normal(-0.5, 0.1, 2000), rng.uniform(1.0, 2.0, 2000))
    return np.stack([np.clip(first, -1, 2), rng.beta(5.0, 2.0, 2000)], axis=1).astype(np.float32)


@pytest.mark.parametrize("per_coordinate", [False, True])
def test_moments_of_a_reflection_are_those_of_the_reflected_heat_kernel(box_data, per_coordinate):
    """Each of 5 x 12 moments within 5.5 standard errors: a false alarm once in 10^5."""
    flow = hf.reflection(jnp.asarray(LOWER, jnp.float32), jnp.asarray(UPPER, jnp.float32), horizon=2.0)
    predictor = hf.Preconditioned.from_data(
        TinyNetwork(2), flow, box_data, jr.key(0), per_coordinate=per_coordinate, num_times=12, num_draws=DRAWS
    )
    got = predictor.moments
    times = np.asarray(got.times, np.float64)
    np.testing.assert_allclose(times, 2.0 * (np.arange(12) / 11) ** 2, rtol=1e-6)
    x, v, square, product = exact_moments(box_data.astype(np.float64), times)
    if not per_coordinate:  # one law for all coordinates: the moments are averages over them
        x, v, square, product = (m.mean(axis=1) for m in (x, v, square, product))
    a, b, g = square - x**2, product - x * v, 1 - v**2
    n = DRAWS * (1 if per_coordinate else 2)
    # Fourth moments: x is bounded and no more peaked than a normal (kurtosis < 3), and E v^4 = 3.
    errors = [
        np.sqrt(a / n),
        np.sqrt(g / n),
        a * math.sqrt(2 / n),
        np.sqrt(3 * a / n),
        np.full_like(g, math.sqrt(2 / n)),
    ]
    found = (got.mean_position, got.mean_velocity, got.variance, got.covariance, got.velocity_variance)
    for name, value, expected, error in zip("xvABG", found, (x, v, a, b, g), errors, strict=True):
        assert value.shape == expected.shape
        assert np.all(np.abs(np.asarray(value, np.float64) - expected) <= 5.5 * error), name


def test_the_exact_moments_above_are_right(box_data):
    """B = half the slope of A, by differences; and at t = 0 they are the data's own."""
    data, times, h = box_data.astype(np.float64), np.array([0.3, 1.1]), 1e-5
    variance = [(m[2] - m[0] ** 2) for m in (exact_moments(data, times + s) for s in (-h, h))]
    x, v, _, product = exact_moments(data, times)
    np.testing.assert_allclose(product - x * v, (variance[1] - variance[0]) / (4 * h), atol=1e-8)
    start = exact_moments(data, np.array([0.0]))
    np.testing.assert_allclose(start[0][0], data.mean(0), atol=5e-3)  # the series is cut at 200 modes
    np.testing.assert_allclose(start[2][0], (data**2).mean(0), atol=5e-3)


@pytest.fixture(scope="module")
def measured(box_data):
    """A spy network that returns what it sees, in a box, with the default grid of 64 times."""
    flow = hf.reflection(jnp.asarray(LOWER, jnp.float32), jnp.asarray(UPPER, jnp.float32), horizon=2.0)
    return flow, hf.Preconditioned.from_data(TinyNetwork(2), flow, box_data, jr.key(0), per_coordinate=True)


def test_network_sees_unit_input_and_target_between_the_grid_points(box_data, measured):
    """On fresh states at times off the grid, mean 0, variance 1, no correlation, to 3%: the two errors are about 1%."""
    flow, predictor = measured
    n = 40_000
    data = jnp.asarray(box_data[np.random.default_rng(2).integers(0, len(box_data), n)])

    def one(t, x, v):
        seen = []

        def network(c_noise, x, condition, key):
            seen.append(x)
            return jnp.zeros_like(x)

        spy = eqx.tree_at(lambda p: p.network, predictor, network)
        skipped = spy(t, x)
        return seen[0], predictor.normalise_error(t, v - skipped)

    @jax.jit
    def at(t, key):
        state = flow.sample_state(key, data, jnp.full(n, t))
        return jax.vmap(lambda x, v: one(t, x, v))(state.position, jax.vmap(flow.velocity)(state))

    for t in (0.003, 0.17, 0.9, 1.9):
        inputs, target = (np.asarray(z, np.float64) for z in at(t, jr.key(3)))
        np.testing.assert_allclose(inputs.mean(0), 0.0, atol=0.03)
        np.testing.assert_allclose(target.mean(0), 0.0, atol=0.03)
        np.testing.assert_allclose(inputs.std(0), 1.0, atol=0.03)
        np.testing.assert_allclose(target.std(0), 1.0, atol=0.03)
        np.testing.assert_allclose((inputs * target).mean(0), 0.0, atol=0.03)


def test_velocity_is_finite_at_both_ends_and_beyond(measured):
    flow, predictor = measured
    times = jnp.array([0.0, 1e-12, flow.horizon, 1.5 * flow.horizon])
    values = jax.jit(jax.vmap(lambda t: predictor(t, jnp.array([-1.0, 1.0]))))(times)
    assert np.all(np.isfinite(values))
    np.testing.assert_array_equal(values[2], values[3])


def test_gradient_reaches_the_network_and_not_the_moments(measured):
    _, predictor = measured
    grads = eqx.filter_jit(eqx.filter_grad(lambda p: jnp.sum(p(0.5, jnp.array([0.3, 0.8])) ** 2)))(predictor)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads.network))
    rest = jax.tree.leaves((grads.flow, grads.moments, grads.data_std, grads.data_mean))
    assert len(rest) >= 8
    assert all(np.all(leaf == 0) for leaf in rest)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_of_data_and_of_positions(dtype, x64):
    data = np.random.default_rng(0).uniform(-1, 1, (10, 2)).astype(dtype)
    predictor = hf.Preconditioned.from_data(TinyNetwork(2), hf.reflection(), data, jr.key(0), num_times=3, num_draws=9)
    assert predictor.moments.variance.dtype == dtype
    for other in (np.float32, np.float64):
        assert eqx.filter_eval_shape(predictor, 0.3, jnp.ones(2, other)).dtype == other


@pytest.mark.parametrize("flow", [hf.diffusion(), hf.flow_matching(), hf.oscillation(2.0)])
@pytest.mark.parametrize("per_coordinate", [False, True])
def test_linear_flows_need_only_mean_and_deviation(flow, per_coordinate):
    data = np.random.default_rng(0).normal([1.0, -3.0], [0.5, 2.0], (500, 2)).astype(np.float32)
    predictor = hf.Preconditioned.from_data(TinyNetwork(2), flow, data, jr.key(0), per_coordinate=per_coordinate)
    axis = 0 if per_coordinate else None
    assert predictor.moments is None
    assert np.shape(predictor.data_std) == ((2,) if per_coordinate else ())
    np.testing.assert_allclose(predictor.data_mean, data.astype(np.float64).mean(axis), rtol=1e-5)
    np.testing.assert_allclose(predictor.data_std, data.astype(np.float64).std(axis), rtol=1e-5)
    assert eqx.filter_eval_shape(predictor, 0.3, jnp.zeros(2)).shape == (2,)


def test_images_and_one_moment_for_all_pixels():
    data = np.random.default_rng(0).uniform(-1, 1, (50, 3, 4, 4)).astype(np.float32)
    predictor = hf.Preconditioned.from_data(
        TinyNetwork(48), hf.reflection(), data, jr.key(0), num_times=4, num_draws=64
    )
    assert predictor.moments.variance.shape == (4,)
    assert eqx.filter_eval_shape(predictor, 0.3, jnp.asarray(data[0])).shape == (3, 4, 4)


def test_flow_matching_towards_a_prior_off_centre_is_measured():
    """Its shift is outside x = a x_0 + b e, so `from_data` measures it: E x_t = (1 - t) E x_0 + t mean."""
    straight = hf.flow_matching()
    flow = hf.Flow(straight.system, straight.coupling, 1.0, hf.NormalPrior(5.0))
    data = np.random.default_rng(0).normal(-1, 0.5, (400, 2)).astype(np.float32)
    moments = hf.Preconditioned.from_data(TinyNetwork(2), flow, data, jr.key(0), num_times=3, num_draws=4000).moments
    t = np.asarray(moments.times)
    np.testing.assert_allclose(moments.mean_position, (1 - t) * data.mean() + 5 * t, atol=0.06)  # 5 errors
    np.testing.assert_allclose(moments.mean_velocity, 5 - data.mean(), atol=0.07)
    np.testing.assert_allclose(moments.variance, 0.25 * (1 - t) ** 2 + t**2, rtol=0.1)


DATA = np.random.default_rng(0).uniform(-1, 1, (8, 2)).astype(np.float32)
CONSTANT_COORDINATE = DATA * np.array([1, 0], np.float32)


@pytest.mark.parametrize("flow", [hf.reflection(), hf.oscillation()])
@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (DATA[:1], {}, "two examples"),
        (np.where(np.eye(8, 2) > 0, np.nan, DATA).astype(np.float32), {}, "finite"),
        (np.where(np.eye(8, 2) > 0, np.inf, DATA).astype(np.float32), {}, "finite"),
        (np.full((8, 2), 0.5, np.float32), {}, "do not vary"),
        (CONSTANT_COORDINATE, {"per_coordinate": True}, "do not vary"),
        (DATA, {"num_times": 1}, "num_times"),
        (DATA, {"num_draws": 1}, "num_draws"),
    ],
)
def test_data_that_cannot_be_measured(flow, data, options, message):
    with pytest.raises(ValueError, match=message):
        hf.Preconditioned.from_data(TinyNetwork(2), flow, data, jr.key(0), **options)


def test_a_constant_coordinate_is_fine_for_one_moment_over_all():
    for flow in (hf.reflection(), hf.oscillation()):
        predictor = hf.Preconditioned.from_data(
            TinyNetwork(2), flow, CONSTANT_COORDINATE, jr.key(0), num_times=3, num_draws=9
        )
        assert predictor.data_std == pytest.approx(float(CONSTANT_COORDINATE.std()), rel=1e-5)


def test_data_outside_the_box_are_an_error():
    with pytest.raises(RuntimeError, match="outside the Box"):
        hf.Preconditioned.from_data(TinyNetwork(2), hf.reflection(), 3 * DATA, jr.key(0), num_times=3, num_draws=9)


def test_integers_are_an_error_that_names_data():
    with pytest.raises(TypeError, match="data"):
        hf.Preconditioned.from_data(TinyNetwork(2), hf.oscillation(), np.ones((8, 2), np.uint8), jr.key(0))
