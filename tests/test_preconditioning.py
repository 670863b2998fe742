"""Preconditioned against the algebra of linear flows, written out here in numpy.

A linear flow is x = a x_0 + b e, v = a' x_0 + b' e. `motions` lists (a, b, a', b') by hand from the solutions of the
equations of motion; covariances follow. Scalings are read off a predictor whose network is a spy, so they are what a
network meets, not what a helper method says.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_network import TinyNetwork

import hamflow as hf

EYE = np.eye(2)
ROOT = np.array([[0.5, 0.0], [0.3, 0.2]])  # R, with R R^T the covariance of the data
COVARIANCE = ROOT @ ROOT.T
MASS = np.array([[2.0, 0.6], [0.6, 0.5]])


def root(matrix):
    values, vectors = np.linalg.eigh(np.atleast_2d(matrix))
    return vectors @ np.diag(np.sqrt(values)) @ vectors.T


def hamiltonian_flow(potential, mass, horizon):
    return hf.Flow(hf.Hamiltonian(potential, hf.GaussianKinetic(mass)), hf.IndependentCoupling(), horizon, PRIOR)


PRIOR = hf.NormalPrior()
TWO = np.array([1.5, -2.0])  # a mean a coordinate
HEAVY = np.array([2.0, 0.5])  # a mass a coordinate
SLOW = root(np.linalg.inv(MASS))  # v = M^-1 p and p ~ N(0, M), so v ~ N(0, M^-1)


def free(noise):  # x = x_0 + t v_0 with Cov v_0 = noise noise^T
    return lambda t: (EYE, t * noise, 0 * EYE, noise)


def oscillator(w, noise):  # w one number a coordinate
    w = np.diag(np.broadcast_to(w, 2)).astype(float)
    c, s = (lambda t: np.diag(np.cos(np.diag(w) * t))), (lambda t: np.diag(np.sin(np.diag(w) * t)))
    return lambda t: (c(t), s(t) @ np.linalg.inv(w) @ noise, -w @ s(t), c(t) @ noise)


def straight(t):
    return (1 - t) * EYE, t * EYE, -EYE, EYE


class Motion(NamedTuple):
    flow: object
    horizon: float
    motion: object


def motions(dtype):
    """Every linear flow with its horizon and its (a, b, a', b'), all as 2 x 2 matrices."""

    def array(value):
        return jnp.asarray(np.asarray(value), dtype)

    harmonic, zero = hf.HarmonicPotential, hf.ZeroPotential()
    tall = np.array([0.25, 4.0])
    return {
        "diffusion": Motion(hf.diffusion(), 80.0, free(EYE)),
        "diffusion, mass 4": Motion(hamiltonian_flow(zero, 4.0, 5.0), 5.0, free(EYE / 2)),
        "diffusion, diagonal mass": Motion(hamiltonian_flow(zero, array(HEAVY), 5.0), 5.0, free(np.diag(HEAVY**-0.5))),
        "diffusion, matrix mass": Motion(hamiltonian_flow(zero, array(MASS), 5.0), 5.0, free(SLOW)),
        "flow matching": Motion(hf.flow_matching(), 1.0, straight),
        "oscillation, w 1": Motion(hf.oscillation(), math.pi / 2, oscillator(1.0, EYE)),
        "oscillation, w 2": Motion(hf.oscillation(2.0), math.pi / 4, oscillator(2.0, EYE)),
        "oscillation, w .3": Motion(hf.oscillation(0.3), math.pi / 0.6, oscillator(0.3, EYE)),
        "oscillation, mass 4": Motion(hamiltonian_flow(harmonic(3.0), 4.0, 1.0), 1.0, oscillator(1.5, EYE / 2)),
        "oscillation, diagonal": Motion(
            hamiltonian_flow(harmonic(array([3.0, 1.0])), array([4.0, 0.25]), 0.7),
            0.7,
            oscillator([1.5, 2.0], np.diag([0.5, 2.0])),
        ),
        "whitened, number": Motion(hf.whitened_oscillation(0.09), math.pi / 2, oscillator(1.0, 0.3 * EYE)),
        "whitened, diagonal": Motion(
            hf.whitened_oscillation(array(tall)), math.pi / 2, oscillator(1.0, np.diag(tall**0.5))
        ),
        "whitened, matrix": Motion(
            hf.whitened_oscillation(array(COVARIANCE)), math.pi / 2, oscillator(1.0, root(COVARIANCE))
        ),
    }


NAMES = tuple(motions(np.float32))
STDS = {"number": (0.5, 0.5 * EYE), "diagonal": (np.array([0.5, 2.0]), np.diag([0.5, 2.0])), "matrix": (ROOT, ROOT)}


def covariances(motion, t, data_root):
    a, b, a_dot, b_dot = motion(t)
    x, v = np.hstack([a @ data_root, b]), np.hstack([a_dot @ data_root, b_dot])
    return x @ x.T, v @ x.T, v @ v.T


class Seen(NamedTuple):
    c_in: np.ndarray
    c_skip: np.ndarray
    c_out: np.ndarray
    c_noise: np.ndarray


def read_off(flow, std, times, dtype=np.float64, **options) -> Seen:
    """The scalings of Preconditioned at each time as the network meets them, as matrices (for centred data)."""

    def look(t, value, x):
        seen = []

        def network(c_noise, x, condition, key):
            seen.append((c_noise, x))
            return value

        velocity = hf.Preconditioned(network, flow, std, **options)(t, x)
        assert velocity.dtype == dtype
        return velocity, *seen[0]

    def at(t):
        basis, zero = jnp.eye(2, dtype=dtype), jnp.zeros((2, 2), dtype)
        values, positions = jnp.concatenate([zero, basis]), jnp.concatenate([basis, zero])
        velocity, c_noise, inputs = jax.vmap(lambda value, x: look(t, value, x))(values, positions)
        return inputs[:2].T, velocity[:2].T, velocity[2:].T, c_noise[0]

    padded = jnp.asarray(np.resize(times, 5), dtype)  # one number of times for all tests: what is compiled is shared
    return Seen(*(np.asarray(z, np.float64)[: len(times)] for z in jax.vmap(at)(padded)))


# A number is a diagonal of equal entries, so it is tried where it takes a path of its own; single precision where large
# noise or a matrix could lose digits.
CASES = [
    *((name, std, np.float64) for name in NAMES for std in ("diagonal", "matrix")),
    *((name, "number", np.float64) for name in ("oscillation, mass 4", "flow matching", "whitened, number")),
    *((name, "matrix", np.float32) for name in ("diffusion", "diffusion, matrix mass", "whitened, matrix")),
]


@pytest.mark.parametrize(("name", "std", "dtype"), CASES)
def test_network_sees_unit_input_and_unit_uncorrelated_target(name, std, dtype, x64):
    flow, horizon, motion = motions(dtype)[name]
    value, data_root = STDS[std]
    value = value if isinstance(value, float) else jnp.asarray(value, dtype)
    tolerance = 2e-10 if dtype == np.float64 else 1e-3
    times = np.asarray([0.0, 1e-12, 0.002 * horizon, 0.4 * horizon, horizon], dtype)
    for t, c_in, c_skip, c_out, _ in zip(times, *read_off(flow, value, times, dtype), strict=True):
        var, cov, var_v = covariances(motion, float(t), data_root)
        np.testing.assert_allclose(c_in @ var @ c_in.T, EYE, atol=tolerance)
        # Cov(v - c_skip x, x), as a correlation.
        scale = np.sqrt(np.outer(np.diag(var_v), np.diag(var)))
        np.testing.assert_allclose((cov - c_skip @ var) / scale, 0 * EYE, atol=tolerance)
        residual = var_v - cov @ np.linalg.solve(var, cov.T)
        normalise = np.linalg.inv(c_out)
        np.testing.assert_allclose(normalise @ residual @ normalise.T, EYE, atol=tolerance)


@pytest.mark.parametrize("name", ["diffusion, matrix mass", "flow matching", "oscillation, w 2", "whitened, matrix"])
def test_the_same_by_simulation_for_data_far_from_normal(name):
    """Data on four points, states from `sample_state`: 20 sample moments within 5 standard errors (alarm 1e-5)."""
    flow, horizon, _ = motions(np.float32)[name]
    n, t, mean = 40_000, 0.6 * horizon, np.array([1.0, -2.0])
    corners = np.random.default_rng(0).choice([-1.0, 1.0], (n, 2))
    data = jnp.asarray(mean + corners @ ROOT.T, jnp.float32)
    state = flow.sample_state(jr.key(1), data, jnp.full(n, t))
    velocity = jax.vmap(flow.velocity)(state)

    def one(x, v):
        seen = []

        def network(c_noise, x, condition, key):
            seen.append(x)
            return jnp.zeros_like(x)

        predictor = hf.Preconditioned(network, flow, jnp.asarray(ROOT, jnp.float32), jnp.asarray(mean, jnp.float32))
        skipped = predictor(t, x)
        return seen[0], predictor.normalise_error(t, v - skipped)

    inputs, target = (np.asarray(z, np.float64) for z in jax.vmap(one)(state.position, velocity))
    both = np.concatenate([inputs, target], axis=1)
    products = both[:, :, None] * both[:, None, :]
    for sample, expected in ((both, np.zeros(4)), (products, np.eye(4))):
        error = np.abs(sample.mean(0) - expected)
        assert np.all(error <= 5 * sample.std(0) / math.sqrt(n))


@pytest.mark.parametrize(
    ("sigma", "c_skip", "c_out"),
    [(0.5, 1.0, 0.70710678), (1.0, 0.8, 0.44721360), (80.0, 0.0124995, 0.00624988)],
)
def test_edm_scalings_of_the_velocity(sigma, c_skip, c_out, x64):
    seen = read_off(hf.diffusion(), 0.5, [sigma])
    assert seen.c_skip[0, 0, 0] == pytest.approx(c_skip, rel=4e-6)
    assert seen.c_out[0, 0, 0] == pytest.approx(c_out, rel=4e-6)
    assert seen.c_in[0, 0, 0] == pytest.approx((sigma**2 + 0.25) ** -0.5, rel=1e-12)
    assert seen.c_noise[0] == pytest.approx(math.log(sigma) / 4, abs=1e-12)


@pytest.mark.parametrize(
    ("sigma", "c_skip", "c_out"),
    [(0.5, 0.5, 0.35355339), (1.0, 0.2, 0.44721360), (80.0, 3.906e-5, 0.49999023)],
)
def test_edm_scalings_of_the_denoiser(sigma, c_skip, c_out, x64):
    """D = x - t V: c_skip_D = 1 - t c_skip and c_out_D = -t c_out, whose squared inverse is EDM's weight."""
    seen = read_off(hf.diffusion(), 0.5, [sigma])
    assert 1 - sigma * seen.c_skip[0, 0, 0] == pytest.approx(c_skip, rel=1e-4)  # the digits of the table
    denoiser_out = sigma * seen.c_out[0, 0, 0]
    assert denoiser_out == pytest.approx(c_out, rel=2e-8)
    karras_weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    assert karras_weight * denoiser_out**2 == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("data_std", [0.25, 0.5, 3.0])
def test_oscillation_at_one_over_data_std_needs_nothing(data_std, x64):
    flow = hf.oscillation(1 / data_std)
    seen = read_off(flow, data_std, np.linspace(0, flow.horizon, 5))
    for matrices, expected in ((seen.c_in, 1 / data_std), (seen.c_skip, 0.0), (seen.c_out, 1.0)):
        np.testing.assert_allclose(matrices, np.broadcast_to(expected * EYE, (5, 2, 2)), atol=1e-12)


@pytest.mark.parametrize(
    ("flow", "sigma"),
    [
        (hf.diffusion(), lambda t: t),
        (hf.flow_matching(), lambda t: t / (1 - t)),
        (hf.oscillation(2.0), lambda t: np.tan(2 * t) / 2),
        (hf.whitened_oscillation(0.09), lambda t: 0.3 * np.tan(t)),
        (hf.reflection(), lambda t: t),
    ],
)
def test_time_input_is_a_quarter_of_log_sigma(flow, sigma, x64):
    options = {} if flow.is_linear else {"moments": flat_moments(flow.horizon)}
    times = np.array([0.01, 0.3, 0.7, 0.0, flow.horizon])
    c_noise = read_off(flow, 0.5, times, **options).c_noise
    np.testing.assert_allclose(c_noise[:3], np.log(sigma(times[:3])) / 4, atol=1e-10)
    assert np.all(np.isfinite(c_noise))


def flat_moments(horizon):
    from hamflow.predictors import Moments

    zero, one = jnp.zeros(2), jnp.ones(2)
    return Moments(jnp.array([0.0, horizon]), zero, zero, one, zero, one)


@pytest.mark.parametrize(
    ("name", "mean"),
    [("diffusion", 1.5), ("flow matching", TWO), ("oscillation, w 2", TWO), ("whitened, matrix", TWO)],
)
def test_mean_of_the_data_is_taken_out(name, mean, x64):
    """m_x = a mu, m_v = a' mu: there the network sees zero, and a zero network predicts m_v."""
    flow, horizon, motion = motions(np.float64)[name]
    value, mu = mean if isinstance(mean, float) else jnp.asarray(mean), np.broadcast_to(mean, 2)

    def look(t, x):
        seen = []

        def network(c_noise, x, condition, key):
            seen.append(x)
            return jnp.zeros_like(x)

        return hf.Preconditioned(network, flow, 0.5, value)(t, x), seen[0]

    times = np.array([0.0, 0.3 * horizon, horizon])
    a, _, a_dot, _ = (np.stack(z) for z in zip(*map(motion, times), strict=True))
    velocity, seen = jax.jit(jax.vmap(look))(jnp.asarray(times), jnp.asarray(a @ mu))
    np.testing.assert_allclose(seen, 0, atol=1e-12)
    np.testing.assert_allclose(velocity, a_dot @ mu, atol=1e-12)


@pytest.mark.parametrize("std", ["number", "diagonal"])
def test_weight_is_one_over_c_out_squared(std, x64):
    flow, horizon, _ = motions(np.float64)["oscillation, diagonal"]
    value = STDS[std][0]
    value = value if isinstance(value, float) else jnp.asarray(value)
    predictor, error = hf.Preconditioned(TinyNetwork(2), flow, value), jnp.array([0.3, -2.0])
    t = 0.8 * horizon
    weight, normalised = jax.jit(lambda: (predictor.weight(t, error), predictor.normalise_error(t, error)))()
    c_out = np.diag(read_off(flow, value, [t]).c_out[0])
    np.testing.assert_allclose(weight, c_out**-2.0, rtol=1e-12)
    np.testing.assert_allclose(normalised, error / c_out, rtol=1e-12)


def test_a_matrix_is_no_weight_but_normalises(x64):
    flow, error = hf.diffusion(), jnp.array([0.3, -2.0])
    predictor = hf.Preconditioned(TinyNetwork(2), flow, jnp.asarray(ROOT))
    with pytest.raises(ValueError, match="normalise_error"):
        jax.eval_shape(lambda: predictor.weight(1.0, error))
    expected = np.linalg.solve(read_off(flow, jnp.asarray(ROOT), [1.0]).c_out[0], error)
    np.testing.assert_allclose(jax.jit(lambda: predictor.normalise_error(1.0, error))(), expected, rtol=1e-10)
