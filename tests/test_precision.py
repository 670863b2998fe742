"""The data decide the precision, whatever the parameters and jax's default are; positions of any rank will do."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from systems import FLOWS
from test_laws import measured

import hamflow as hf


def outputs(flow, shape, dtype):
    """Everything a flow answers with, traced but not compiled."""
    data = jnp.zeros((2, *shape), dtype)
    times = jnp.full(2, 0.3, dtype)

    def run(data, times):
        state = flow.sample_state(jr.key(0), data, times)
        first = jax.tree.map(lambda leaf: leaf[0], state)
        answers = {
            "sample_state": state,
            "evolve": flow.evolve(first, 0.2),
            "evolve to an array": flow.evolve(first, jnp.ones(()), jnp.zeros((), jnp.float32)),
            "trajectory": flow.trajectory(first, times),
            "velocity": flow.velocity(first),
            "log_sigma": flow.noise_scale.log_sigma(times),
            "time": flow.noise_scale.time(times),
        }
        return answers | ({"coefficients": flow.coefficients(times[0], shape)} if flow.is_linear else {})

    return jax.eval_shape(run, data, times)


def in_dtype(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if isinstance(leaf, (float, jax.Array)) else leaf, tree)


@pytest.mark.parametrize("name", FLOWS)
def test_dtype_of_the_data_is_the_dtype_of_everything(name):
    """Strict promotion is on: a silent promotion anywhere is an error."""
    entry = FLOWS[name]
    assert_dtype(outputs(entry.build(), entry.shape, jnp.float32), jnp.float32)
    with jax.enable_x64(True):
        flow = entry.build()
        for parameters, dtype in ((jnp.float32, jnp.float64), (jnp.float64, jnp.float32)):
            assert_dtype(outputs(in_dtype(flow, parameters), entry.shape, dtype), dtype)
        assert_dtype(outputs(flow, entry.shape, jnp.float32), jnp.float32)  # with its Python numbers


def assert_dtype(answers, dtype):
    for path, leaf in jax.tree_util.tree_leaves_with_path(answers):
        assert leaf.dtype == dtype, jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", FLOWS)
def test_single_precision_agrees_with_double(name):
    """To a few units in the last place of the largest number on the way: the unfolded position, t |v|."""
    got, flow = measured(name), FLOWS[name].build()
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], jnp.float32), got["start"])
    end = flow.evolve(start, 0.83 * flow.horizon)
    largest = 1.0 + float(flow.horizon) * np.max(np.abs(got["velocity"])) + np.max(np.abs(got["end"].position))
    np.testing.assert_allclose(end.position, got["end"].position[0], rtol=0.0, atol=1e-6 * largest)
    np.testing.assert_allclose(end.momentum, got["end"].momentum[0], rtol=0.0, atol=1e-6 * largest)


SCALAR_FLOWS = {
    "diffusion": hf.diffusion,
    "flow matching": hf.flow_matching,
    "oscillation": hf.oscillation,
    "whitened": lambda: hf.whitened_oscillation(0.3),
    "poisson": hf.poisson_flow,
    "student-t": lambda: hf.Flow(
        hf.Hamiltonian(hf.ZeroPotential(), hf.StudentTKinetic(3.0)), hf.IndependentCoupling(), 1.0, hf.NormalPrior()
    ),
    "reflection": hf.reflection,
    "relativistic": lambda: hf.Flow(
        hf.Hamiltonian(hf.ZeroPotential(), hf.RelativisticKinetic()), hf.IndependentCoupling(), 1.0, hf.NormalPrior()
    ),
}


@pytest.mark.parametrize("name", SCALAR_FLOWS)
def test_positions_of_any_shape(name):
    flow = SCALAR_FLOWS[name]()

    def run(data):
        state = flow.sample_state(jr.key(0), data, jnp.full(3, 0.4))
        one = jax.tree.map(lambda leaf: leaf[1], state)
        path = flow.trajectory(one, jnp.linspace(0.0, 0.5, 4))
        density, draw = flow.prior.log_prob(one.position), flow.prior.sample(jr.key(1), data.shape[1:])
        return state.position, state.momentum, flow.velocity(one), path.position, density, draw

    for shape in ((), (1,), (5,), (2, 2), (2, 3), (3, 4, 4), (2, 1, 2, 3), (0,)):
        got = [answer.shape for answer in jax.eval_shape(run, jnp.full((3, *shape), 0.25))]
        assert got == [(3, *shape), (3, *shape), shape, (4, *shape), (), shape]


def test_half_precision_moves_too():
    """Factorisations run in single precision, since LAPACK has no half; the answer is in the data's dtype."""
    flow = hf.whitened_oscillation(np.array([[2.0, 0.6], [0.6, 0.9]], np.float32))
    exact = flow.evolve(hf.PhaseState(jnp.ones(2), jnp.ones(2)), 0.5)
    for dtype, tolerance in ((jnp.bfloat16, 3e-2), (jnp.float16, 4e-3)):
        state = flow.evolve(hf.PhaseState(jnp.ones(2, dtype), jnp.ones(2, dtype)), 0.5)
        assert state.position.dtype == state.momentum.dtype == dtype
        np.testing.assert_allclose(state.position.astype(jnp.float32), exact.position, atol=tolerance)
