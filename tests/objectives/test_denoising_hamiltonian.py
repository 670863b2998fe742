"""Scores of data with noise, learned by Hamiltonian score matching, and what they generate."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import hamflow as hf
from hamflow.distances import two_sample_distance

S = 0.5


class Pull(eqx.Module):
    """-a x / (s^2 + sigma^2): the score of N(0, s^2) with noise where a = 1."""

    a: jax.Array

    def __call__(self, sigma, x):
        return -self.a * x / (S**2 + sigma**2)


LEVELS = {"sigma_min": 0.1, "sigma_max": 2.0, "time_fraction": 0.1}


def parts(a):
    data, keys = S * jr.normal(jr.key(0), (40, 5000, 1)), jr.split(jr.key(1), 40)

    def loss(score, data, key):
        return hf.denoising_hamiltonian_score_matching_loss(score, data, key, **LEVELS)

    step = jax.jit(lambda g: eqx.filter_value_and_grad(loss)(Pull(jnp.array(a)), *g))
    values, gradients = jax.lax.map(step, (data, keys))
    return np.asarray(values, float), np.asarray(gradients.a, float)


def test_value_and_rest():
    """E sigma^2 (|S - s|^2 - |s|^2) = E[sigma^2 / (s^2 + sigma^2)] (a^2 - 2 a), and no gradient at a = 1."""
    levels = np.exp(np.linspace(np.log(0.1), np.log(2.0), 20_001))
    mean = np.mean(levels**2 / (S**2 + levels**2))
    for a in (1.0, 0.6):
        values, gradients = parts(a)
        error = values.std(ddof=1) / 40**0.5
        # The motion adds terms of order t^2 where a is not 1: time_fraction^2 / 3 at most.
        assert abs(values.mean() - mean * (a**2 - 2 * a)) < 4 * error + (1 - a) * 0.01
        if a == 1.0:
            assert abs(gradients.mean()) < 4 * gradients.std(ddof=1) / 40**0.5 + 0.0025 * mean  # leapfrog's t^2 / 4
        else:
            assert gradients.mean() == pytest.approx(mean * 2 * (a - 1), rel=0.05)


def test_generates():
    """A network trained so, followed by the diffusion that its scores make, draws the mixture."""
    truth = hf.GaussianMixturePotential(
        jnp.array([[0.9, 0.3], [-0.8, -0.4]]), jnp.array([0.25, 0.35]), jnp.array([0.5, 0.5])
    )
    flow = hf.diffusion(20.0, 0.9)
    model = hf.Preconditioned(hf.networks.MLP((2,), width=64, depth=2, key=jr.key(0)), flow, 0.9)
    parameters, static = eqx.partition(model, model.trainable())
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, 1500))

    def loss(parameters, data, key):
        score = hf.convert(eqx.combine(parameters, static), flow, "velocity", "score")
        return hf.denoising_hamiltonian_score_matching_loss(score, data, key, sigma_min=0.01, sigma_max=20.0)

    def step(carry, key):
        parameters, state = carry
        keys = jr.split(key)
        data = jax.vmap(lambda k: truth.sample(k, (2,)))(jr.split(keys[0], 256))
        updates, state = optimizer.update(jax.grad(loss)(parameters, data, keys[1]), state, parameters)
        return (optax.apply_updates(parameters, updates), state), None

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
        carry = (parameters, optimizer.init(parameters))
        (parameters, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, jr.split(jr.key(1), 1500)))(carry)
    samples = hf.generate(eqx.combine(parameters, static), flow, jr.key(2), (2000, 2))
    fresh = jax.vmap(lambda k: truth.sample(k, (2,)))(jr.split(jr.key(3), 2000))
    distance, floor = two_sample_distance(jr.key(4), samples, fresh)
    assert distance < floor + 0.05  # of a standard deviation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_min": 0.0}, "sigma_min and sigma_max must be positive and in order"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "sigma_min and sigma_max must be positive and in order"),
        ({"time_fraction": 1.6}, "time_fraction must be between 0 and a quarter of a swing"),
        ({"data": jnp.zeros((0, 2))}, "data must hold at least 1 example"),
        ({"score": lambda sigma, x: x[:1]}, "it must return one score"),
    ],
)
def test_bad_input(options, message):
    arguments = {"score": Pull(jnp.array(1.0)), "data": jnp.ones((4, 2)), **options}
    score, data = arguments.pop("score"), arguments.pop("data")
    with pytest.raises(ValueError, match=message):
        hf.denoising_hamiltonian_score_matching_loss(score, data, jr.key(0), **arguments)
