"""Linear flows: x_t = a x_0 + b e, v_t = a' x_0 + b' e with e white and independent of x_0."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from systems import FLOWS, array, spd

import hamflow as hf
from hamflow.rescheduled import RescheduledCoupling

# Walls, shifts and the speed of light make a motion that is not linear, and so does CondOT to a prior not N(0, ...).
NOT_LINEAR = (
    "integrator",
    "box",
    "torus",
    "reflection",
    "relativistic",
    "student-t",
    "gravity",
    "driven",
    "shifted",
    "uniform",
    "free force",
    "minibatch",
)
LINEAR = [name for name in FLOWS if not any(word in name for word in NOT_LINEAR)]
OTHERS = [name for name in FLOWS if name not in LINEAR]


def matrix(value, shape):
    """A number, a diagonal or a matrix as the full (size, size) matrix, by numpy."""
    size, value = math.prod(shape), np.asarray(value, float)
    if value.ndim == 0:
        return value * np.eye(size)
    return np.diag(value.ravel()) if value.shape == shape else value.reshape(size, size)


def first_momentum(flow, shape, x, e):
    """p_0 from x_0 and white noise, from the definition of the coupling."""
    system, coupling = flow.system, flow.coupling
    if isinstance(coupling, RescheduledCoupling):
        system, coupling = system.system, coupling.coupling
    mass = matrix(system.kinetic.mass, shape)
    if isinstance(coupling, hf.IndependentCoupling):  # p ~ N(0, M)
        return np.linalg.cholesky(mass) @ e
    if isinstance(flow.coupling, hf.StudentTCoupling):  # p = M^1/2 z, Cov z = nu / (nu - 2)
        nu = flow.coupling.degrees_of_freedom
        return math.sqrt(nu / (nu - 2.0)) * np.linalg.cholesky(mass) @ e
    return mass @ (matrix(flow.prior.scale, shape) @ e - x) / float(flow.horizon)  # v_0 = (x_T - x_0) / T


def coefficient_matrices(flow, t, shape):
    return [matrix(value, shape) for value in flow.coefficients(t, shape)]


@pytest.mark.parametrize("name", LINEAR)
def test_coefficients_are_the_motion_that_evolve_makes(name, x64):
    flow, shape = FLOWS[name].build(), FLOWS[name].shape
    rng = np.random.default_rng(0)
    x, e = rng.normal(size=(2, math.prod(shape)))
    p = first_momentum(flow, shape, x, e)
    for t in (0.0, 0.31 * flow.horizon, flow.horizon):
        start = hf.PhaseState(jnp.asarray(x.reshape(shape)), jnp.asarray(p.reshape(shape)))
        state = flow.evolve(start, t)
        a, b, a_dot, b_dot = coefficient_matrices(flow, t, shape)
        scale = 1.0 + np.max(np.abs(b))
        np.testing.assert_allclose(a @ x + b @ e, np.ravel(state.position), atol=1e-11 * scale)
        np.testing.assert_allclose(a_dot @ x + b_dot @ e, np.ravel(flow.velocity(state, t)), atol=1e-11 * scale)


@pytest.mark.parametrize("name", LINEAR)
def test_derivatives_of_coefficients_are_finite_differences(name, x64):
    flow, shape = FLOWS[name].build(), FLOWS[name].shape
    t, h = 0.43 * flow.horizon, 1e-5
    after, before = coefficient_matrices(flow, t + h, shape), coefficient_matrices(flow, t - h, shape)
    _, _, a_dot, b_dot = coefficient_matrices(flow, t, shape)
    np.testing.assert_allclose(a_dot, (after[0] - before[0]) / (2 * h), atol=1e-8)
    np.testing.assert_allclose(b_dot, (after[1] - before[1]) / (2 * h), atol=1e-8)


@pytest.mark.parametrize("name", ["diffusion", "flow matching, mass", "oscillation", "whitened, diagonal"])
@pytest.mark.parametrize("shape", [(), (5,), (2,), (2, 2), (2, 3), (1, 2, 2), (0,)])
def test_times_of_any_shape_come_first(name, shape, x64):
    """Square shapes of times must not be taken for matrices, nor lengths of 2 for the positions'."""
    flow = FLOWS[name].build()
    t = np.linspace(0.1, 0.9, math.prod(shape)).reshape(shape) * flow.horizon
    expected = [flow.coefficients(float(one)) for one in t.ravel()]
    for i, got in enumerate(flow.coefficients(jnp.asarray(t))):
        event = jnp.shape(flow.coefficients(0.1)[i])
        assert got.shape == shape + event
        rows = np.stack([e[i] for e in expected]) if expected else np.zeros((0, *event))
        np.testing.assert_allclose(got.reshape(-1, *event), rows, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_flows_say_so(name):
    assert FLOWS[name].build().is_linear


@pytest.mark.parametrize("name", OTHERS)
def test_other_flows_refuse_coefficients(name):
    flow = FLOWS[name].build()
    assert not flow.is_linear
    with pytest.raises(
        ValueError, match=r"is not a linear flow x_t = a x_0 \+ b e, so it has no coefficients: use Pre"
    ):
        flow.coefficients(0.1)


@pytest.mark.parametrize(
    "name", ["diffusion", "flow matching", "oscillation", "oscillation, slow", "whitened, diagonal"]
)
def test_the_three_named_flows_have_unit_wronskian(name, x64):
    """W = a b' - a' b = 1 (THEORY, section 4); for the whitened one W = C^1/2."""
    flow = FLOWS[name].build()
    expected = np.sqrt([4.0, 0.1]) if name.startswith("whitened") else 1.0
    for t in np.linspace(0.0, 1.0, 5) * flow.horizon:
        a, b, a_dot, b_dot = flow.coefficients(t)
        np.testing.assert_allclose(a * b_dot - a_dot * b, expected, rtol=1e-12)


def test_closed_forms_of_the_named_flows(x64):
    t = array(0.0, 0.2, 0.7, 1.0)
    zero, one = np.zeros(4), np.ones(4)
    for flow, expected in (
        (hf.diffusion(), (one, t, zero, one)),
        (hf.flow_matching(), (1 - t, t, -one, one)),
        (hf.oscillation(1.5), (np.cos(1.5 * t), np.sin(1.5 * t) / 1.5, -1.5 * np.sin(1.5 * t), np.cos(1.5 * t))),
    ):
        np.testing.assert_allclose(flow.coefficients(t), np.stack(expected), atol=1e-15)
    massive = FLOWS["oscillation, mass"].build()  # w = 1.4, m = 2.5, p_0 ~ N(0, m)
    expected = (np.cos(1.4 * t), np.sin(1.4 * t) / 1.4 / math.sqrt(2.5))
    np.testing.assert_allclose(massive.coefficients(t)[:2], np.stack(expected), atol=1e-15)


@pytest.mark.parametrize("covariance", [0.3, (4.0, 0.1), "dense"])
def test_whitened_oscillation_keeps_the_covariance_at_every_time(covariance, x64):
    """Cov x_t = C, Cov v_t = C and Cov(x_t, v_t) = 0 (THEORY, section 4), for data of covariance C."""
    c = spd() if covariance == "dense" else covariance if isinstance(covariance, float) else array(*covariance)
    flow = hf.whitened_oscillation(c)
    assert float(flow.horizon) == pytest.approx(math.pi / 2, abs=1e-15)
    full = matrix(c, (2,))
    for t in np.linspace(0.0, 1.0, 7) * flow.horizon:
        a, b, a_dot, b_dot = coefficient_matrices(flow, t, (2,))
        np.testing.assert_allclose(a @ full @ a.T + b @ b.T, full, atol=1e-14 * 4)
        np.testing.assert_allclose(a_dot @ full @ a_dot.T + b_dot @ b_dot.T, full, atol=1e-14 * 4)
        np.testing.assert_allclose(a_dot @ full @ a.T + b_dot @ b.T, 0.0, atol=1e-14 * 4)


# THEORY, section 6: E[v | x] = k x for data N(0, s^2), s = .5, at t = .7.
TABLE = {"diffusion": 0.945946, "flow matching": 1.219512, "oscillation": 0.658415}
BUILD = {"diffusion": hf.diffusion, "flow matching": hf.flow_matching, "oscillation": hf.oscillation}


@pytest.mark.parametrize("name", TABLE)
def test_mean_velocity_of_the_table(name, x64):
    a, b, a_dot, b_dot = BUILD[name]().coefficients(0.7)
    assert float((a * a_dot * 0.25 + b * b_dot) / (a**2 * 0.25 + b**2)) == pytest.approx(TABLE[name], abs=5e-7)


@pytest.mark.parametrize("name", TABLE)
def test_mean_velocity_by_regression_on_samples(name):
    """Five standard errors: a false alarm in 2 million."""
    flow, n = BUILD[name](), 20_000
    data = 0.5 * np.random.default_rng(1).normal(size=(n, 1)).astype(np.float32)
    state = flow.sample_state(jr.key(2), data, np.full(n, 0.7, np.float32))
    x, v = np.ravel(state.position).astype(float), np.ravel(jax.vmap(flow.velocity)(state)).astype(float)
    k = x @ v / (x @ x)
    standard_error = np.sqrt(np.sum((v - k * x) ** 2) / n / (x @ x))
    assert abs(k - TABLE[name]) < 5.0 * standard_error
    assert standard_error < 0.01


STATISTICS = [
    "diffusion",
    "flow matching, dense mass and scale",
    "oscillation, mass",
    "whitened, dense",
    "inverted oscillator",
]


@pytest.mark.parametrize("name", STATISTICS)
def test_samples_from_one_datum_have_the_moments_of_the_coefficients(name, x64):
    """Mean (a, a') x_0 and covariance (b, b')(b, b')^T of (x_t, v_t); each entry within 5 standard errors."""
    flow, shape, n = FLOWS[name].build(), FLOWS[name].shape, 8000
    x = np.random.default_rng(3).normal(size=shape)
    t = 0.6 * flow.horizon
    state = eqx.filter_jit(flow.sample_state)(jr.key(4), np.broadcast_to(x, (n, *shape)), np.full(n, t))
    v = jax.vmap(flow.velocity)(state)
    got = np.concatenate([np.reshape(state.position, (n, -1)), np.reshape(v, (n, -1))], axis=1)
    a, b, a_dot, b_dot = coefficient_matrices(flow, t, shape)
    mean, root = np.concatenate([a, a_dot]) @ x.ravel(), np.concatenate([b, b_dot])
    covariance = root @ root.T
    variance = np.diag(covariance)
    assert np.all(np.abs(got.mean(0) - mean) < 5.0 * np.sqrt(variance / n))
    error = np.cov(got.T, bias=True) - covariance
    assert np.all(np.abs(error) < 5.0 * np.sqrt((np.outer(variance, variance) + covariance**2) / n))


def test_square_positions_need_their_shape(x64):
    """One mass a pixel of a (2, 2) picture looks like a matrix; `shape` says that it is not."""
    mass = array([1.0, 2.0], [3.0, 4.0])
    system = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(mass))
    flow = hf.Flow(system, hf.IndependentCoupling(), 1.0, hf.NormalPrior())
    np.testing.assert_allclose(flow.coefficients(0.5, (2, 2))[1], 0.5 / np.sqrt(mass), rtol=1e-14)
    state = flow.evolve(hf.PhaseState(jnp.zeros((2, 2)), jnp.ones((2, 2))), 0.5)
    np.testing.assert_allclose(state.position, 0.5 / np.asarray(mass), rtol=1e-14)
