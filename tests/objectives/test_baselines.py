"""The baselines on N(0, s^2 I) with the score -a x, where every one of them is a number."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import hamflow as hf

S, A, D, SIGMA = 0.5, 3.0, 2, 0.3
DATA = S * jr.normal(jr.key(0), (100_000, D))
ENERGY = hf.HarmonicPotential(A**0.5)
TRUTH = hf.HarmonicPotential(1.0 / S)

EXPECTED = {
    "explicit": (
        lambda score, data, key: hf.explicit_score_matching_loss(score, data, key, truth=TRUTH),
        D * (A - 1 / S**2) ** 2 * S**2,
    ),
    "implicit": (hf.implicit_score_matching_loss, D * (A**2 * S**2 - 2 * A)),
    "sliced": (hf.sliced_score_matching_loss, D * (A**2 * S**2 - 2 * A)),
    "sliced, normal": (
        lambda score, data, key: hf.sliced_score_matching_loss(score, data, key, num_slices=3, gaussian=True),
        D * (A**2 * S**2 - 2 * A),
    ),
    "denoising": (
        lambda score, data, key: hf.denoising_score_matching_loss(score, data, key, sigma=SIGMA),
        D * (A**2 * (S**2 + SIGMA**2) - 2 * A + 1 / SIGMA**2),
    ),
    "denoising, pairs": (
        lambda score, data, key: hf.denoising_score_matching_loss(score, data, key, sigma=SIGMA, antithetic=True),
        D * (A**2 * (S**2 + SIGMA**2) - 2 * A + 1 / SIGMA**2),
    ),
    "denoising, several": (
        lambda score, data, key: hf.denoising_score_matching_loss(score, data, key, sigma=(0.1, SIGMA)),
        D * np.mean([s**2 * (A**2 * (S**2 + s**2) - 2 * A + 1 / s**2) for s in (0.1, SIGMA)]),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_values(name):
    """Within five standard errors, from fifty parts of the data (alarm 1e-6 a case)."""
    loss, expected = EXPECTED[name]
    parts, keys = DATA.reshape(50, -1, D), jr.split(jr.key(1), 50)
    values = np.asarray(jax.jit(lambda p, k: jax.lax.map(lambda g: loss(ENERGY, *g), (p, k)))(parts, keys))
    assert abs(values.mean() - expected) < 5 * values.std(ddof=1) / 50**0.5


@pytest.mark.parametrize("name", EXPECTED)
def test_a_force_and_a_function_are_scores_too(name):
    loss, _ = EXPECTED[name]
    data, key = DATA[:64].reshape(64, D), jr.key(2)
    network = eqx.nn.Linear(D, D, key=jr.key(3))
    of_force = loss(hf.NetworkForce(network), data, key)
    assert loss(network, data, key) == of_force
    gradient = eqx.filter_grad(loss)(network, data, key)
    assert all(bool(jnp.all(jnp.isfinite(leaf)) & jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient))


def test_pictures():
    """Any shape: the divergence of -a x is -a a coordinate."""
    data = jr.normal(jr.key(4), (8, 1, 3, 3))
    expected = float(jnp.mean(jnp.sum((A * data) ** 2, axis=(1, 2, 3))) - 2 * A * 9)
    assert hf.implicit_score_matching_loss(ENERGY, data) == pytest.approx(expected, rel=1e-5)
    assert hf.sliced_score_matching_loss(ENERGY, data, jr.key(0)) == pytest.approx(expected, rel=1e-5)  # signs: exact


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hf.implicit_score_matching_loss(ENERGY, DATA[:0]), "data must hold at least 1 example, got 0"),
        (lambda: hf.sliced_score_matching_loss(ENERGY, DATA.at[3].set(jnp.nan), jr.key(0)), "data must be finite"),
        (lambda: hf.sliced_score_matching_loss(ENERGY, DATA, jr.key(0), num_slices=0), "num_slices must be at least 1"),
        (lambda: hf.denoising_score_matching_loss(ENERGY, DATA, jr.key(0), sigma=0.0), "sigma must be positive"),
        (lambda: hf.denoising_score_matching_loss(ENERGY, DATA, jr.key(0), sigma=()), "sigma must be positive"),
        (lambda: hf.denoising_score_matching_loss(ENERGY, DATA, jr.key(0), sigma=(0.1, np.inf)), "sigma must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
