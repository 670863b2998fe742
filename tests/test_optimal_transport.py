"""Minibatch optimal transport: the pairs against scipy and sorting, the marginals against the prior, the paths against
closed forms. Every test states a false-alarm rate below 1e-4, or is exact."""

import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from brief_training import trained, two_sides
from scipy import optimize, stats

import hamflow as hf
from hamflow.distances import two_sample_distance

pytest.importorskip("ott")

HORIZON = 2.5
EXACT, ENTROPIC = hf.MinibatchOTCoupling(), hf.MinibatchOTCoupling("entropic")


def flow_of(coupling, prior=None, horizon=1.0, mass=1.0):
    system = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(mass))
    return hf.Flow(system, coupling, horizon, hf.NormalPrior() if prior is None else prior)


@eqx.filter_jit
def pairs(coupling, key, data):
    """The first states, and where they lead to."""
    flow = flow_of(coupling, horizon=HORIZON, mass=2.0)
    start = coupling.sample(key, data, flow.system, flow.prior, HORIZON)
    return start, data + HORIZON * jax.vmap(flow.velocity)(start)


def normal(seed, *shape, dtype=float):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def cost_matrix(data, ends):
    x, y = (np.asarray(rows, np.float64).reshape(len(rows), -1) for rows in (data, ends))
    return np.sum((x[:, None] - y[None]) ** 2, axis=-1)


def order_of(ends, drawn):
    """Which of the rows of `drawn` each end is."""
    return np.argmin(cost_matrix(ends, drawn), axis=1)


@pytest.mark.parametrize("shape", [(40, 2), (17, 2, 3, 3)])
def test_exact_is_the_assignment_of_least_cost(shape, x64):
    data = normal(0, *shape) * 0.5 + 0.3
    start, ends = pairs(EXACT, jr.key(1), data)
    drawn = pairs(hf.CondOTCoupling(), jr.key(1), data)[1]
    np.testing.assert_array_equal(start.position, data)
    order = order_of(ends, drawn)
    assert sorted(order) == list(range(len(data)))  # the noise of CondOTCoupling with the same key, permuted
    np.testing.assert_allclose(ends, drawn[order], atol=1e-13)
    cost = cost_matrix(data, drawn)
    rows, columns = optimize.linear_sum_assignment(cost)
    found = np.sum(cost[np.arange(len(data)), order])
    assert found == pytest.approx(np.sum(cost[rows, columns]), rel=1e-12)
    assert found < 0.9 * np.trace(cost)


def test_in_one_dimension_the_pairs_are_sorted(x64):
    data = normal(2, 50)
    ends = pairs(EXACT, jr.key(3), data)[1]
    np.testing.assert_array_equal(np.argsort(ends), np.argsort(data))


def test_data_far_from_the_prior_are_matched_as_well():
    """A common shift leaves the best assignment what it is; |x|^2 = 1e8 would leave single precision no digits."""
    near = jnp.round(normal(4, 30, 2, dtype=jnp.float32) * 1024) / 1024  # so that the shift is exact
    far = near + 8192.0
    orders = [order_of(pairs(EXACT, jr.key(5), data)[1], normal_draws(5, data)) for data in (near, far)]
    np.testing.assert_array_equal(*orders)
    plans = [pairs(ENTROPIC, jr.key(5), data)[1] for data in (near, far)]
    np.testing.assert_allclose(*plans, atol=5e-3)  # rounding of 8192 is 5e-4


def normal_draws(seed, data):
    return jax.vmap(lambda key: jr.normal(key, data.shape[1:]))(jr.split(jr.key(seed), len(data)))


def test_a_batch_of_many_blocks_is_matched_in_each(x64):
    data = normal(6, 10, 2)
    order = order_of(pairs(hf.MinibatchOTCoupling(block_size=4), jr.key(7), data)[1], drawn := normal_draws(7, data))
    for block in (slice(0, 4), slice(4, 7), slice(7, 10)):  # as equal as possible
        cost = cost_matrix(data[block], drawn[block])
        np.testing.assert_array_equal(order[block] - block.start, optimize.linear_sum_assignment(cost)[1])
    single = pairs(hf.MinibatchOTCoupling(block_size=1), jr.key(7), data)[1]
    np.testing.assert_allclose(single, drawn, atol=1e-13)
    blocks = pairs(hf.MinibatchOTCoupling("entropic", 1e6, block_size=4), jr.key(7), data)[1]
    drawn = pairs(hf.CondOTCoupling(), jr.split(jr.key(7))[0], data)[1]
    order = order_of(blocks, drawn)
    np.testing.assert_allclose(blocks, drawn[order], atol=1e-13)
    assert [i // 4 if i < 4 else 1 + (i - 4) // 3 for i in order] == [0] * 4 + [1] * 3 + [2] * 3


@pytest.mark.parametrize("coupling", [EXACT, ENTROPIC])
def test_a_batch_of_one_is_condot(coupling):
    data = normal(8, 1, 3)
    key = jr.key(9) if coupling is EXACT else jr.split(jr.key(9))[0]
    np.testing.assert_array_equal(pairs(coupling, jr.key(9), data)[1], pairs(hf.CondOTCoupling(), key, data)[1])


# -- entropic --------------------------------------------------------------------------------------------------------


@eqx.filter_jit
def costs(coupling, keys, data):
    """The mean squared way of a batch, for each key."""
    return jax.vmap(lambda key: jnp.mean(jnp.sum((pairs(coupling, key, data)[1] - data) ** 2, axis=1)))(keys)


def test_entropic_lies_between_exact_and_independent():
    """With epsilon = e of the mean cost c, cost(P) - e c H(P) of the plan is at most that of the best permutation, and
    the entropy H of a plan lies between log n and 2 log n: cost(P) exceeds exact's by at most e c log n."""
    data, keys = normal(10, 24, 2) * 0.5 + 0.4, jr.split(jr.key(11), 50)
    draws = jax.vmap(lambda key: jr.split(key)[0])(keys)  # the same noise for all couplings
    exact, apart = costs(EXACT, draws, data), costs(hf.CondOTCoupling(), draws, data)
    small, middle, large = (costs(hf.MinibatchOTCoupling("entropic", e), keys, data) for e in (4e-3, 0.2, 1e4))

    def error(values):
        return 4.5 * float(jnp.std(values)) / len(keys) ** 0.5

    scale = float(jnp.mean(apart))
    gap = float(jnp.mean(small - exact))
    assert -error(small - exact) <= gap <= 4e-3 * scale * np.log(24) + error(small - exact)
    # Independent pairs of one batch, on average: E|x_0|^2 + E|x_T|^2 - 2 (E x_0) . (E x_T), whose noise has mean 0.
    noise = jax.vmap(lambda key: pairs(hf.CondOTCoupling(), key, data)[1])(draws)
    means = jnp.sum(jnp.mean(data, axis=0)[None] * jnp.mean(noise, axis=1), axis=1)
    expected = jnp.mean(jnp.sum(data**2, axis=1)) + jnp.mean(jnp.sum(noise**2, axis=2), axis=1) - 2.0 * means
    assert abs(float(jnp.mean(large - expected))) <= error(large - expected)
    assert float(jnp.mean(exact)) < 0.9 * float(jnp.mean(middle)) < 0.8 * scale


@pytest.mark.parametrize("coupling", [EXACT, ENTROPIC])
def test_the_noise_is_drawn_from_the_prior(coupling):
    """A row at random of each of 2,000 batches: independent draws of the prior. One and the same row is not."""
    data, keys = normal(12, 16, 2) * 0.5 + 0.4, jr.split(jr.key(13), 2000)
    ends = np.asarray(eqx.filter_jit(jax.vmap(lambda key: pairs(coupling, key, data)[1]))(keys))
    rows = np.random.default_rng(14).integers(0, 16, 2000)
    for coordinate in range(2):
        assert stats.kstest(ends[np.arange(2000), rows, coordinate], "norm").pvalue > 1e-5
    i, j = np.unravel_index(np.argmax(np.abs(data)), data.shape)
    assert stats.kstest(ends[:, i, j], "norm").pvalue < 1e-10


# -- what it is for --------------------------------------------------------------------------------------------------


def test_velocity_of_normal_data_is_that_of_a_deterministic_map():
    """N(0, s^2) to N(0, 1): x_T = x_0 / s, so x_t = (1 - t + t/s) x_0 and V = (1/s - 1) / (1 - t + t/s) x."""
    s, t, n = 0.5, 0.5, 4096
    data = s * normal(15, n)
    flow = flow_of(hf.MinibatchOTCoupling(block_size=256))
    state = eqx.filter_jit(flow.sample_state)(jr.key(16), data, jnp.full((n,), t))
    x, v = np.asarray(state.position), np.asarray(jax.vmap(flow.velocity)(state))
    # The deviations of noise and data are known to sqrt(1/2n) each, rho = 1/s to .031, the slope to .014. The slope of
    # independent pairs is (t - (1 - t) s^2) / (t^2 + (1 - t)^2 s^2) = 1.2.
    slope = np.sum(x * v) / np.sum(x * x)
    assert slope == pytest.approx((1 / s - 1) / (1 - t + t / s), abs=0.07)
    assert np.std(v - slope * x) < 0.25 * np.std(v)


def test_a_trained_predictor_needs_one_step():
    """With independent pairs one Euler step from T leads to E x_0 = 0, whatever x_T; with optimal ones to the data."""
    data = two_sides(jr.key(17), 4000)

    velocity = hf.MixtureVelocity(
        hf.GaussianMixturePotential(jnp.array([[1.5, 0.0], [-1.5, 0.0]]), jnp.full(2, 0.3), jnp.full(2, 0.5)),
        hf.flow_matching(),
    )

    def distance(predictor, flow):
        samples = hf.generate(predictor, flow, jr.key(19), (2000, 2), 1, hf.Euler())
        return two_sample_distance(jr.key(20), samples, data[:2000])[0]

    independent = distance(velocity, velocity.flow)
    assert independent > 0.7  # E|x| / std of the first coordinate is .98 from a point
    flow = flow_of(EXACT)
    assert distance(trained(flow, data, jr.key(18), steps=160, batch_size=64), flow) < 0.3 * independent


def test_the_flow_is_not_linear_and_its_noise_scale_is_affine():
    flow = flow_of(EXACT)
    assert not flow.is_linear
    with pytest.raises(ValueError, match=r"use Preconditioned\.from_data"):
        hf.Preconditioned(lambda c, x, condition, key: x, flow, 1.0)
    log_sigma = np.asarray(flow.noise_scale.log_sigma(jnp.linspace(0.0, 1.0, 9)))
    np.testing.assert_allclose(np.diff(log_sigma), np.diff(log_sigma)[0], rtol=1e-4)
    with pytest.raises(ValueError, match="MinibatchOTCoupling leads to the prior that the flow has"):
        hf.fit_prior(flow, normal(0, 500, 2), jr.key(0), num_draws=500)


# -- how it is used --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", [EXACT, ENTROPIC])
def test_every_dtype_with_rows_left_as_they_are(coupling):
    for wide, dtype in ((True, jnp.float32), (False, jnp.float16), (False, jnp.bfloat16)):
        with jax.enable_x64(wide):
            data = normal(24, 6, 2, dtype=dtype)
            start = pairs(coupling, jr.key(25), data)[0]
            assert start.position.dtype == start.momentum.dtype == dtype
            np.testing.assert_array_equal(start.position, data)


@pytest.mark.parametrize("coupling", [EXACT, ENTROPIC])
def test_no_gradient_passes_through_the_matching(coupling, x64):
    """With the pairs held, v_0 = (mean + e - x_0) / horizon: derivatives -1 and 1 over the horizon."""
    data = normal(26, 8, 2)
    system = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic())

    def momenta(data, mean):
        return coupling.sample(jr.key(27), data, system, hf.NormalPrior(mean), HORIZON).momentum

    by_data, by_mean = jax.jit(jax.jacfwd(momenta, argnums=(0, 1)))(data, jnp.zeros(2))
    np.testing.assert_allclose(by_data.reshape(16, 16), -np.eye(16) / HORIZON, atol=1e-14)
    np.testing.assert_allclose(by_mean, np.broadcast_to(np.eye(2) / HORIZON, (8, 2, 2)), atol=1e-14)
    back = jax.jit(jax.grad(lambda data: jnp.sum(momenta(data, jnp.zeros(2)))))(data)
    np.testing.assert_allclose(back, -np.ones((8, 2)) / HORIZON, atol=1e-14)


def test_data_that_are_not_finite_show_in_the_states_and_do_not_hang():
    for coupling in (EXACT, ENTROPIC):
        start = pairs(coupling, jr.key(28), normal(29, 8, 2).at[3, 1].set(jnp.nan))[0]
        assert np.isnan(start.momentum[3, 1])
        assert np.sum(np.isnan(start.momentum)) == 1


SHARDED = """
import jax, jax.numpy as jnp, jax.random as jr, numpy as np, equinox as eqx, hamflow as hf
from hamflow.training import device_mesh, shard_batch
assert len(jax.devices()) == 2
free = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic())
data = np.random.default_rng(0).normal(size=(16, 2)).astype("float32")
for coupling in (hf.MinibatchOTCoupling(), hf.MinibatchOTCoupling("entropic")):
    flow = hf.Flow(free, coupling, 1.0, hf.NormalPrior())
    loss = eqx.filter_jit(lambda data: hf.velocity_matching_loss(lambda t, x, c, k: x, flow, data, jr.key(1)))
    batch = shard_batch(data, device_mesh())
    assert len(batch.sharding.device_set) == 2
    np.testing.assert_allclose(loss(batch), loss(jnp.asarray(data)), rtol=1e-5)
"""


def test_a_batch_shared_by_two_devices_gives_the_same_loss():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=os.environ | flags)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_is_refused():
    for arguments, message in (
        (("greedy",), "method must be 'exact' or 'entropic', got 'greedy'"),
        (("exact", 0.1), "epsilon is of method='entropic'"),
        (("entropic", 0.0), r"epsilon must be positive, got 0\.0"),
        (("entropic", -1.0), "epsilon must be positive"),
        (("entropic", float("nan")), "epsilon must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            hf.MinibatchOTCoupling(*arguments)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        hf.MinibatchOTCoupling(block_size=0)
    relativistic = hf.Hamiltonian(hf.ZeroPotential(), hf.RelativisticKinetic())
    with pytest.raises(ValueError, match="MinibatchOTCoupling needs a momentum for every velocity"):
        hf.Flow(relativistic, EXACT, 1.0, hf.NormalPrior())
    with pytest.raises(ValueError, match="use a Hamiltonian or a ForcedSystem"):
        EXACT.require_system(hf.NonSeparableHamiltonian(lambda t, x, p: jnp.sum(x * p)))


def test_iterations_that_do_not_converge_are_an_error():
    with pytest.raises(RuntimeError, match="do not converge at epsilon=1e-07: take a larger epsilon"):
        pairs(hf.MinibatchOTCoupling("entropic", 1e-7), jr.key(30), normal(31, 12, 2))[0].momentum.block_until_ready()


@pytest.mark.parametrize("coupling", [EXACT, ENTROPIC])
def test_without_ott_the_error_says_what_to_install(monkeypatch, coupling):
    monkeypatch.setitem(sys.modules, "ott", None)
    flow = flow_of(coupling)
    with pytest.raises(ImportError, match=r"pip install ott-jax, or hamflow\[ot\]"):
        flow.sample_state(jr.key(0), jnp.zeros((3, 2)), jnp.zeros(3))


@pytest.mark.parametrize("coupling", [EXACT, hf.MinibatchOTCoupling("entropic", 0.3, block_size=7)])
def test_saved_and_loaded(coupling, tmp_path):
    hf.save(tmp_path / "flow.safetensors", flow_of(coupling))
    assert eqx.tree_equal(hf.load(tmp_path / "flow.safetensors"), flow_of(coupling))
