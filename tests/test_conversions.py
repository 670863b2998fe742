"""Velocity, denoiser, score and noise of laws that are known, each made of each."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from oracles import reflection_velocity, torus_flow, torus_velocity

import hamflow as hf

QUANTITIES = ("velocity", "denoiser", "score", "noise")
MEANS, STDS, WEIGHTS = (
    np.array([[0.5, -0.2], [-0.6, 0.3]]),
    np.array([[0.3, 0.5], [0.4, 0.2]]),
    np.array([0.4, 0.6]),
)


def mixture():
    return hf.GaussianMixturePotential(jnp.array(MEANS), jnp.array(STDS), jnp.array(WEIGHTS))


def posterior(a, b, x):
    """E[x_0 | x_t = x] and grad log q_t(x), by hand from the components of x_t = a x_0 + b e."""
    var = a**2 * STDS**2 + b**2
    gap = x - a * MEANS
    log_w = np.log(WEIGHTS) - 0.5 * np.sum(gap**2 / var + np.log(var), axis=1)
    w = np.exp(log_w - log_w.max())
    w = (w / w.sum())[:, None]
    return (w * (MEANS + a * STDS**2 / var * gap)).sum(0), (-w * gap / var).sum(0)


FLOWS = {  # with (a, b) at a time
    "diffusion": (lambda: hf.diffusion(80.0, 0.5), 0.7, (1.0, 0.7)),
    "flow matching": (hf.flow_matching, 0.7, (0.3, 0.7)),
    "oscillation": (lambda: hf.oscillation(2.0), 0.3, (math.cos(0.6), math.sin(0.6) / 2.0)),
}


@pytest.mark.parametrize("given", QUANTITIES)
@pytest.mark.parametrize("name", FLOWS)
def test_each_from_each(name, given, x64):
    build, t, (a, b) = FLOWS[name]
    flow, x = build(), jnp.array([0.21, -0.4])
    denoised, score = posterior(a, b, np.asarray(x))
    noise = (np.asarray(x) - a * denoised) / b
    known = {
        "velocity": hf.MixtureVelocity(mixture(), flow)(t, x),
        "denoiser": denoised,
        "score": score,
        "noise": noise,
    }
    for wanted in QUANTITIES:
        found = hf.convert(lambda t, x, c, k: jnp.asarray(known[given]), flow, given, wanted)(t, x)
        np.testing.assert_allclose(found, known[wanted], rtol=1e-10, atol=1e-12, err_msg=f"{given} to {wanted}")


def test_both_ends_are_safe_from_the_velocity(x64):
    """The denoiser at t = 0 is x itself, the noise at the end x / b."""
    for flow in (hf.flow_matching(), hf.oscillation(2.0)):
        velocity, x = hf.MixtureVelocity(mixture(), flow), jnp.array([0.3, 0.1])
        np.testing.assert_allclose(hf.convert(velocity, flow, "velocity", "denoiser")(0.0, x), x, atol=1e-12)
        b = float(flow.coefficients(flow.horizon)[1])
        np.testing.assert_allclose(hf.convert(velocity, flow, "velocity", "noise")(flow.horizon, x), x / b, atol=1e-9)


def test_matrices(x64):
    """Whitened: x_t = cos t x_0 + sin t C^1/2 e, for data N(0, C): the score is -C^-1 x at every time."""
    covariance = jnp.array([[2.0, 0.6], [0.6, 0.9]])
    flow, x = hf.whitened_oscillation(covariance), jnp.array([0.4, -1.1])
    score = hf.convert(lambda t, x, c, k: jnp.zeros_like(x), flow, "velocity", "score")(0.6, x)
    np.testing.assert_allclose(score, -jnp.linalg.solve(covariance, x), rtol=1e-10)
    back = hf.convert(lambda t, x, c, k: score, flow, "score", "velocity")(0.6, x)
    np.testing.assert_allclose(back, 0.0, atol=1e-10)


@pytest.mark.parametrize(
    ("build", "exact"), [(hf.reflection, reflection_velocity), (torus_flow, torus_velocity)], ids=["box", "torus"]
)
def test_walls_and_seams(build, exact, x64):
    narrow = hf.GaussianMixturePotential(jnp.array([[0.3], [-0.4]]), jnp.array([0.1, 0.2]), jnp.array([0.5, 0.5]))
    flow, velocity, x = build(), exact(narrow), jnp.array([0.83])
    score = jax.grad(lambda x: velocity.log_density(jnp.array(0.4), x))(x)
    np.testing.assert_allclose(hf.convert(velocity, flow, "velocity", "score")(0.4, x), score, rtol=1e-10)
    back = hf.convert(lambda t, x, c, k: score, flow, "score", "velocity")(0.4, x)
    np.testing.assert_allclose(back, velocity(jnp.array(0.4), x), rtol=1e-10)


def test_a_mass_in_the_heat_equation(x64):
    """Free motion with mass m: x_t = x_0 + t / sqrt(m) e, as a walled system that has no wall in reach."""
    system = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(4.0), hf.Box(-60.0, 60.0))
    flow = hf.Flow(system, hf.IndependentCoupling(), 3.0, hf.UniformPrior(-60.0, 60.0))
    t, x = 0.6, jnp.array([0.21, -0.4])
    _, score = posterior(1.0, t / 2.0, np.asarray(x))
    velocity = hf.convert(lambda t, x, c, k: jnp.asarray(score), flow, "score", "velocity")(t, x)
    np.testing.assert_allclose(velocity, -t * score / 4.0, rtol=1e-12)


def test_generates_from_a_score(x64):
    """The probability flow of an exact score is the flow of its velocity."""
    flow = hf.diffusion(20.0, 0.7)

    def score(t, x, condition=None, key=None):
        return jax.grad(lambda x: jax.nn.logsumexp(_log_components(t, x)))(x)

    samples = hf.generate(hf.convert(score, flow, "score", "velocity"), flow, jr.key(0), (4, 2))
    expected = hf.generate(hf.MixtureVelocity(mixture(), flow), flow, jr.key(0), (4, 2))
    np.testing.assert_allclose(samples, expected, rtol=1e-8)


def _log_components(t, x):
    var = jnp.asarray(STDS) ** 2 + t**2
    gap = x[None] - jnp.asarray(MEANS)
    return jnp.log(jnp.asarray(WEIGHTS)) - 0.5 * jnp.sum(gap**2 / var + jnp.log(var), axis=1)


def test_what_does_not_tell_the_other_is_refused():
    pendulum = hf.Flow(
        hf.Hamiltonian(hf.PendulumPotential(), hf.GaussianKinetic()),
        hf.IndependentCoupling(),
        1.0,
        hf.NormalPrior(),
        hf.Leapfrog(0.1),
    )
    for flow, wanted in ((pendulum, "score"), (hf.reflection(), "denoiser")):
        with pytest.raises(ValueError, match=f"the velocity does not give the {wanted}: that takes a linear flow"):
            hf.convert(lambda t, x, c, k: x, flow, "velocity", wanted)
