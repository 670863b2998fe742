"""generate as a numerical method: its steps, evaluations, order, solvers, keys, shapes and errors."""

import itertools
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from oracles import mixture_quantile
from scipy import special

import hamflow as hf

KEY = jr.key(0)


def curved(t, x, condition=None, key=None):
    """A velocity with no structure to hide behind."""
    return jnp.sin(3 * x) + t * x[::-1] - 0.3


def curved_numpy(t, x):
    return np.sin(3 * x) + t * x[:, ::-1] - 0.3


def starts(flow, key, shape):
    return np.stack([np.asarray(flow.prior.sample(jr.fold_in(key, i), shape[1:])) for i in range(shape[0])])


def heun_numpy(velocity, x, times):
    for t, t_next in itertools.pairwise(times):
        slope = velocity(t, x)
        if t_next > 0:
            slope = (slope + velocity(t_next, x + (t_next - t) * slope)) / 2
        x = x + (t_next - t) * slope
    return x


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_steps_are_heuns_with_an_euler_last(num_steps, x64):
    flow, shape = hf.oscillation(2.0), (3, 2)
    times = np.asarray(hf.rho_grid(flow, num_steps))
    expected = heun_numpy(curved_numpy, starts(flow, KEY, shape), times)
    np.testing.assert_allclose(hf.generate(curved, flow, KEY, shape, num_steps), expected, rtol=1e-10)


def test_times_replace_the_grid(x64):
    flow, shape, times = hf.oscillation(), (3, 2), np.array([math.pi / 2, 1.0, 0.2, 0.0])
    expected = heun_numpy(curved_numpy, starts(flow, KEY, shape), times)
    for given in (times, jnp.asarray(times)):
        np.testing.assert_allclose(hf.generate(curved, flow, KEY, shape, times=given), expected, rtol=1e-10)
    inside = jax.jit(lambda times: hf.generate(curved, flow, KEY, shape, times=times))(times)
    np.testing.assert_allclose(inside, expected, rtol=1e-10)


def test_eighteen_steps_are_thirty_five_evaluations_none_at_zero():
    seen = []

    def counted(t, x, condition, key):
        jax.debug.callback(lambda t: seen.append(float(t)), t, ordered=True)
        return -x

    flow = hf.oscillation()
    jax.block_until_ready(hf.generate(counted, flow, KEY, (1, 2)))
    jax.effects_barrier()
    grid = [float(t) for t in hf.rho_grid(flow, 18)]
    assert len(seen) == 35
    assert seen == [grid[0]] + [t for t in grid[1:-1] for _ in range(2)]


# In one dimension the flow keeps the order of points, so x_0 is the quantile of the data that x_T is of the law at T.
MEANS, STDS, WEIGHTS = np.array([-2.0, 2.0]), np.array([1.0, 1.0]), np.array([0.4, 0.6])


@pytest.fixture(scope="module")
def transport():
    """Four rows of the exact flow, in double precision: the predictor, the flow and where its rows must arrive."""
    with jax.enable_x64(True):
        mixture = hf.GaussianMixturePotential(jnp.asarray(MEANS), jnp.asarray(STDS), jnp.asarray(WEIGHTS))
        flow = hf.oscillation()
        first = starts(flow, KEY, (4,))
    return hf.MixtureVelocity(mixture, flow), flow, mixture_quantile(special.ndtr(first), MEANS, STDS, WEIGHTS)


@pytest.mark.parametrize("evenly", [False, True])
def test_second_order(transport, evenly, x64):
    """Halving the steps quarters the error: slopes of 2 within .25, on either kind of grid."""
    predictor, flow, exact = transport
    errors = []
    for n in (80, 160) if evenly else (40, 80, 160):
        times = np.linspace(flow.horizon, 0, n + 1) if evenly else None
        errors.append(np.max(np.abs(hf.generate(predictor, flow, KEY, (4,), n, times=times) - exact)))
    np.testing.assert_allclose(np.log2(errors[:-1]) - np.log2(errors[1:]), 2.0, atol=0.25)


@pytest.mark.parametrize(
    ("solver", "steps", "error"),
    [
        (diffrax.Euler(), 200, 0.05),
        (diffrax.Heun(), 100, 5e-3),
        (diffrax.Dopri5(), 50, 1e-6),
        (diffrax.Kvaerno3(root_finder=diffrax.VeryChord(rtol=1e-5, atol=1e-5)), 50, 1e-5),
    ],
)
def test_any_diffrax_solver(transport, solver, steps, error, x64):
    """One step an interval of even times: Dopri5 has eight digits where Heun's method has three."""
    predictor, flow, exact = transport
    times = np.linspace(flow.horizon, 0, steps + 1)
    found = hf.generate(predictor, flow, KEY, (4,), solver=solver, times=times)
    np.testing.assert_allclose(found, exact, atol=error)


def test_diffrax_takes_one_step_an_interval(x64):
    flow, shape = hf.oscillation(2.0), (3, 2)
    times = np.asarray(hf.rho_grid(flow, 6))
    x = starts(flow, KEY, shape)
    for t, t_next in itertools.pairwise(times):
        x = x + (t_next - t) * curved_numpy(t, x)
    np.testing.assert_allclose(hf.generate(curved, flow, KEY, shape, 6, diffrax.Euler()), x, rtol=1e-10)


@pytest.mark.parametrize("solver", [None, diffrax.Heun()])
def test_a_row_does_not_depend_on_the_batch(solver):
    flow = hf.oscillation()
    all_rows = hf.generate(curved, flow, KEY, (7, 2), 6, solver)
    for n in (1, 4) if solver is None else (1,):
        np.testing.assert_allclose(hf.generate(curved, flow, KEY, (n, 2), 6, solver), all_rows[:n], atol=1e-5)
    assert len(np.unique(all_rows[:, 0])) == 7


def test_one_key_folds_in_the_row_and_an_array_of_keys_is_one_a_row():
    flow = hf.oscillation()
    rows = hf.generate(curved, flow, KEY, (5, 2), 6)
    keys = jax.vmap(lambda i: jr.fold_in(KEY, i))(jnp.arange(5))
    order = np.array([3, 0, 4])
    np.testing.assert_array_equal(hf.generate(curved, flow, keys, (5, 2), 6), rows)
    np.testing.assert_allclose(hf.generate(curved, flow, keys[order], (3, 2), 6), rows[order], atol=1e-5)
    legacy = jr.PRNGKey(0)
    np.testing.assert_array_equal(hf.generate(curved, flow, legacy, (5, 2), 6), rows)
    np.testing.assert_array_equal(hf.generate(curved, flow, jr.key_data(keys), (5, 2), 6), rows)


def test_condition_is_one_a_row():
    """V = c: x_0 = x_T - T c, with c read from two leaves of a tree."""
    flow, shape = hf.oscillation(), (4, 2)
    condition = {"shift": np.arange(8.0, dtype=np.float32).reshape(4, 2), "label": np.arange(4)}

    def predictor(t, x, condition, key):
        assert key is None
        return condition["shift"] - 3 * condition["label"].astype(x.dtype)

    shift = condition["shift"] - 3 * np.arange(4)[:, None]
    expected = starts(flow, KEY, shape) - math.pi / 2 * shift
    for solver in (None, diffrax.Heun()):
        found = hf.generate(predictor, flow, KEY, shape, 5, solver, condition=condition)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("solver", [None, diffrax.Euler()])
@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4, 4)])
def test_shape_and_default_dtype(shape, solver):
    def still(t, x, condition, key):
        return jnp.zeros_like(x)

    for x64 in (False, True):
        with jax.enable_x64(x64):
            found = jax.eval_shape(lambda: hf.generate(still, hf.diffusion(), KEY, shape, 3, solver))
        assert found.shape == shape
        assert found.dtype == (jnp.float64 if x64 else jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_a_predictor_may_answer_in_another_dtype(dtype, x64):
    flow = hf.oscillation()
    rows = hf.generate(lambda t, x, condition, key: curved(t, x).astype(dtype), flow, KEY, (3, 2), 6)
    assert rows.dtype == jnp.float64
    np.testing.assert_allclose(rows, hf.generate(curved, flow, KEY, (3, 2), 6), atol=0.1)


def test_inside_jit_with_a_flow_that_is_an_argument():
    def build(w):
        system = hf.Hamiltonian(hf.HarmonicPotential(w), hf.GaussianKinetic())
        return hf.Flow(system, hf.IndependentCoupling(), math.pi / 2 / w, hf.NormalPrior(0.0, 1 / w))

    @jax.jit
    def inside(w, key):
        return hf.generate(curved, build(w), key, (3, 2), 6)

    outside = hf.generate(curved, hf.oscillation(2.0), KEY, (3, 2), 6)
    np.testing.assert_allclose(inside(jnp.asarray(2.0), KEY), outside, atol=1e-5)
    jitted = eqx.filter_jit(lambda flow, keys: hf.generate(curved, flow, keys, (3, 2), 6))
    keys = jax.vmap(lambda i: jr.fold_in(KEY, i))(jnp.arange(3))
    np.testing.assert_allclose(jitted(hf.oscillation(2.0), keys), outside, atol=1e-5)


def test_differentiable_in_the_predictor(x64):
    flow = hf.oscillation()

    def total(a):
        return jnp.sum(hf.generate(lambda t, x, condition, key: a * curved(t, x), flow, KEY, (2, 2), 4))

    slope = jax.grad(total)(0.7)
    assert float(slope) == pytest.approx(float(total(0.7 + 1e-6) - total(0.7 - 1e-6)) / 2e-6, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"flow": "oscillation"}, TypeError, "'flow'"),
        ({"key": 0}, TypeError, "key"),
        ({"key": jnp.zeros(2)}, TypeError, "key"),
        ({"key": jr.split(KEY, 2)}, ValueError, "key"),
        ({"key": jr.split(KEY, (3, 1))}, ValueError, "key"),
        ({"shape": ()}, ValueError, "shape"),
        ({"shape": (0, 2)}, ValueError, "shape"),
        ({"shape": [3, 2]}, TypeError, "'shape'"),
        ({"shape": (3.0, 2)}, TypeError, "'shape'"),
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"num_steps": 1.5}, TypeError, "'num_steps'"),
        ({"solver": "heun"}, TypeError, "'solver'"),
        ({"condition": jnp.ones(2)}, ValueError, "condition"),
        ({"condition": 1}, ValueError, "condition"),
        ({"times": np.array([1.0, 0.0])}, ValueError, "times"),
        ({"times": np.array([math.pi / 2, 0.5])}, ValueError, "times"),
        ({"times": np.array([math.pi / 2, 0.5, 0.7, 0.0])}, ValueError, "times"),
        ({"times": np.array([0.0, math.pi / 2])}, ValueError, "times"),
        ({"times": np.array([math.pi / 2])}, ValueError, "times"),
        ({"times": np.array([math.pi / 2, float("nan"), 0.0])}, ValueError, "times"),
        ({"times": np.array([1, 0])}, TypeError, "'times'"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    good = {"predictor": curved, "flow": hf.oscillation(), "key": KEY, "shape": (3, 2), "num_steps": 3}
    with pytest.raises(error, match=message):
        hf.generate(**{**good, **arguments})


@pytest.mark.parametrize("solver", [None, diffrax.Euler()])
@pytest.mark.parametrize("wrong", [lambda x: x[None], lambda x: x[:1], lambda x: x.sum()])
def test_a_predictor_that_returns_another_shape(wrong, solver):
    with pytest.raises(ValueError, match="predictor returned shape"):
        hf.generate(lambda t, x, condition, key: wrong(x), hf.oscillation(), KEY, (3, 2), 3, solver)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 3)])
def test_a_prior_of_another_shape(shape):
    oscillation = hf.oscillation()
    prior = hf.NormalPrior(jnp.zeros(2))
    flow = hf.Flow(oscillation.system, oscillation.coupling, oscillation.horizon, prior)
    with pytest.raises(ValueError, match="shape"):
        hf.generate(lambda t, x, condition, key: -x, flow, KEY, shape, 3)


def test_traced_times_that_do_not_fall_are_an_error():
    generate = eqx.filter_jit(lambda times: hf.generate(curved, hf.oscillation(), KEY, (2, 2), times=times))
    with pytest.raises(RuntimeError, match="times must fall"):
        jax.block_until_ready(generate(jnp.array([math.pi / 2, 0.5, 0.7, 0.0])))
