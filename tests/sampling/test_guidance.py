"""Guidance against laws that are known: scores that are combined, tilted Gaussians, a picture known in part."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from systems import array, spd

import hamflow as hf

S = 0.6
FLOWS = {"oscillation": hf.oscillation, "flow matching": hf.flow_matching, "diffusion": lambda: hf.diffusion(20.0)}


def gaussian(mean=0.0, std=S, shape=()):
    means = jnp.full((1, *shape), mean, float)
    return hf.GaussianMixturePotential(means, jnp.full(1, std, float), jnp.ones(1, float))


class ByCondition:
    """The exact velocity of N(1, S^2) with a condition, and of N(0, (2 S)^2) without."""

    def __init__(self, flow):
        self.with_it = hf.MixtureVelocity(gaussian(1.0), flow)
        self.without = hf.MixtureVelocity(gaussian(0.0, 2 * S), flow)

    def __call__(self, t, x, condition=None, key=None):
        return (self.without if condition is None else self.with_it)(t, x)


@pytest.mark.parametrize("name", FLOWS)
def test_guiding_the_velocity_guides_the_score(name, x64):
    """score_u + g (score_c - score_u), each in closed form: -(x - a m) / (a^2 s^2 + b^2)."""
    flow, g = FLOWS[name](), 2.5
    a, b, _, _ = (float(c) for c in flow.coefficients(0.3 * float(flow.horizon)))
    t, x = jnp.asarray(0.3 * float(flow.horizon)), jnp.asarray(0.7)
    guided = hf.convert(hf.Guided(ByCondition(flow), g), flow, "velocity", "score")(t, x, 1.0)
    with_it, without = -(0.7 - a) / (a**2 * S**2 + b**2), -0.7 / (a**2 * 4 * S**2 + b**2)
    assert float(guided) == pytest.approx(without + g * (with_it - without), rel=1e-9)


def test_scales_and_the_weaker_predictor(x64):
    flow = hf.oscillation()
    strong, weak = hf.MixtureVelocity(gaussian(1.0), flow), hf.MixtureVelocity(gaussian(-1.0), flow)
    t, x = jnp.asarray(0.4), jnp.asarray(0.2)
    for scale, expected in ((1.0, strong(t, x)), (0.0, weak(t, x)), (3.0, 3 * strong(t, x) - 2 * weak(t, x))):
        assert float(hf.Guided(strong, scale, weak)(t, x)) == pytest.approx(float(expected), rel=1e-12)


def test_a_condition_a_row():
    flow = hf.oscillation()
    model = ByCondition(flow)
    found = hf.generate(hf.Guided(model, 1.0), flow, jr.key(0), (4,), 30, condition=jnp.ones(4))
    plain = hf.generate(hf.MixtureVelocity(gaussian(1.0), flow), flow, jr.key(0), (4,), 30)
    np.testing.assert_allclose(found, plain, atol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_a_linear_energy_tilts_a_gaussian_exactly(name):
    """exp(c x_0) N(0, s^2) is N(c s^2, s^2): the same noise ends c s^2 further."""
    flow, c = FLOWS[name](), 1.7
    predictor = hf.MixtureVelocity(gaussian(), flow)
    guided = hf.EnergyGuided(predictor, flow, lambda x: -c * x)
    found = np.asarray(hf.generate(guided, flow, jr.key(0), (3000,), 60), float)
    assert found.mean() == pytest.approx(c * S**2, abs=4 * S / 3000**0.5 + 0.01)
    assert found.std() == pytest.approx(S, rel=0.06)


@pytest.mark.parametrize("name", FLOWS)
def test_a_picture_known_in_part(name):
    """Two independent normal pixels, the left one known as y with deviation s: N(y / (1 + s^2), s^2 / (1 + s^2)) there
    and N(0, 1) on the right, exactly, since the guess of the spread is right."""
    flow, y, s = FLOWS[name](), 1.2, 0.5
    predictor = hf.MixtureVelocity(gaussian(0.0, 1.0, (2,)), flow)
    energy = hf.painted(array(y, 9.0), array(1.0, 0.0), std=s)
    guided = hf.EnergyGuided(predictor, flow, energy, data_std=1.0)
    found = np.asarray(hf.generate(guided, flow, jr.key(0), (3000, 2), 80), float)
    std = s / (1 + s**2) ** 0.5
    assert found[:, 0].mean() == pytest.approx(y / (1 + s**2), abs=4 * std / 3000**0.5 + 0.01)
    assert found[:, 0].std() == pytest.approx(std, rel=0.06)
    assert found[:, 1].mean() == pytest.approx(0.0, abs=4 / 3000**0.5)
    assert found[:, 1].std() == pytest.approx(1.0, rel=0.06)


def test_what_is_known_pulls_what_is_not():
    """Correlated pixels, r = .9: the right one follows the left one, near r times its value."""
    r, flow = 0.9, hf.oscillation()
    covariance = np.array([[1.0, r], [r, 1.0]])

    def predictor(t, x, condition=None, key=None):  # Cov(v, x) Var(x)^-1 x, x_t = cos t x_0 + sin t e
        c, eye = jnp.asarray(covariance, x.dtype), jnp.eye(2, dtype=x.dtype)
        var = jnp.cos(t) ** 2 * c + jnp.sin(t) ** 2 * eye
        return jnp.sin(t) * jnp.cos(t) * (eye - c) @ jnp.linalg.solve(var, x)

    energy = hf.painted(array(1.2, 0.0), array(1.0, 0.0), std=0.3)
    guided = hf.EnergyGuided(predictor, flow, energy, data_std=1.0)
    found = np.asarray(hf.generate(guided, flow, jr.key(0), (2000, 2), 60), float)
    mean = 1.2 / (1 + 0.3**2)
    assert found[:, 0].mean() == pytest.approx(mean, rel=0.1)
    assert found[:, 1].mean() == pytest.approx(r * mean, rel=0.1)


def test_painting_by_blocks():
    """A = the mean of two pixels: the energy and its zero."""
    energy = hf.painted(jnp.array([1.0]), 1.0, std=0.5, measure=lambda x: jnp.mean(x, keepdims=True))
    assert float(energy(jnp.array([0.5, 1.5]))) == 0.0
    assert float(energy(jnp.array([0.0, 1.0]))) == pytest.approx(0.5, rel=1e-6)  # (1/2)^2 / (2 (1/2)^2)


@pytest.mark.parametrize("name", FLOWS)
def test_a_mean_that_is_known(name):
    """The mean m of two independent normal pixels is N(0, 1/2), and known as y with deviation s it is
    N(y / 2 / (1/2 + s^2), s^2 / 2 / (1/2 + s^2)); their difference stays N(0, 2)."""
    flow, y, s = FLOWS[name](), 1.2, 0.5
    predictor = hf.MixtureVelocity(gaussian(0.0, 1.0, (2,)), flow)
    energy = hf.painted(array(y), 1.0, std=s, measure=lambda x: jnp.mean(x, keepdims=True))
    guided = hf.EnergyGuided(predictor, flow, energy, data_std=1.0)
    found = np.asarray(hf.generate(guided, flow, jr.key(0), (3000, 2), 80), float)
    mean, difference = found.mean(axis=1), found[:, 0] - found[:, 1]
    std = s / (2 * (0.5 + s**2)) ** 0.5
    assert mean.mean() == pytest.approx(y / 2 / (0.5 + s**2), abs=4 * std / 3000**0.5 + 0.01)
    assert mean.std() == pytest.approx(std, rel=0.06)
    assert difference.mean() == pytest.approx(0.0, abs=4 * (2 / 3000) ** 0.5)
    assert difference.std() == pytest.approx(2**0.5, rel=0.06)


def test_the_spread_of_what_is_measured():
    """Of sums over rows of weights W it is W^2 var: with an error of 1 the energy is 1 / (2 (std^2 + W^2 var))."""
    weights, variance = array([1.0, 2.0, 0.0], [0.5, 0.0, 3.0]), array(0.3, 0.7, 0.2)
    for row, expected in enumerate((1.0 * 0.3 + 4.0 * 0.7, 0.25 * 0.3 + 9.0 * 0.2)):
        mask = jnp.zeros(2).at[row].set(1.0)
        energy = hf.painted(jnp.ones(2), mask, std=0.5, measure=lambda x: weights @ x)
        assert float(energy(jnp.zeros(3), variance)) == pytest.approx(0.5 / (0.25 + expected), rel=1e-6)


def test_bad_input():
    flow = hf.oscillation()
    model = ByCondition(flow)
    with pytest.raises(ValueError, match=r"give condition=\.\.\. \(one a row\)"):
        hf.generate(hf.Guided(model, 2.0), flow, jr.key(0), (2,), 3)
    network = hf.Preconditioned(hf.networks.MLP((2,), width=8, depth=1, key=jr.key(0)), flow, data_std=1.0)
    with pytest.raises(ValueError, match="condition"):  # a network without classes
        hf.generate(hf.Guided(network, 2.0), flow, jr.key(0), (2, 2), 3, condition=jnp.zeros(2, int))
    classes = hf.networks.MLP((2,), width=8, depth=1, num_classes=3, key=jr.key(0))
    classy = hf.Preconditioned(classes, flow, data_std=1.0)
    with pytest.raises(Exception, match="label"):  # a class that is not there
        jax.block_until_ready(
            hf.generate(hf.Guided(classy, 2.0), flow, jr.key(0), (2, 2), 3, condition=jnp.array([1, 7]))
        )
    for bad in (hf.reflection(), hf.whitened_oscillation(spd())):
        with pytest.raises(ValueError, match="EnergyGuided needs"):
            hf.EnergyGuided(model, bad, lambda x: x)
    with pytest.raises(ValueError, match="energy must return one number"):
        hf.EnergyGuided(model, flow, lambda x: x)(0.3, jnp.ones(2))
    with pytest.raises(ValueError, match=r"mask has shape \(3,\), and known \(2,\)"):
        hf.painted(jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match="data_std must be positive"):
        hf.EnergyGuided(model, flow, lambda x: x, data_std=0.0)
    with pytest.raises(ValueError, match="std must be positive"):
        hf.painted(jnp.ones(2), jnp.ones(2), std=0.0)
    with pytest.raises(ValueError, match="known has shape"):
        hf.painted(jnp.ones(2), jnp.ones(2))(jnp.ones(3))


def test_what_is_not_known_may_be_anything():
    """NaN, the usual mark of what is missing, counts nothing where the mask is 0; booleans are numbers too."""
    known, x = jnp.array([0.5, jnp.nan]), jnp.array([0.2, 3.0])
    for mask in (jnp.array([1.0, 0.0]), np.array([True, False]), [1, 0]):
        energy = hf.painted(np.asarray(known), mask, std=0.1)
        value, slope = jax.value_and_grad(energy)(x)
        assert float(value) == pytest.approx(4.5, rel=1e-5)
        np.testing.assert_allclose(slope, [-30.0, 0.0], rtol=1e-5)


def test_masks_that_say_nothing_are_refused():
    known = jnp.array([0.5, jnp.nan])
    for mask, error, message in (
        (jnp.array([255, 0], jnp.uint8), ValueError, r"mask must lie in \[0, 1\]"),
        (jnp.array([jnp.nan, 0.0]), ValueError, "mask must be finite"),
        ("left", TypeError, "mask must be a number or an array"),
        (None, TypeError, "mask must be a number or an array"),
        (jnp.ones(2), ValueError, "known is not finite where the mask says"),
    ):
        with pytest.raises(error, match=message):
            hf.painted(known, mask)


def test_a_potential_steers_as_its_energy_does():
    flow, potential = hf.oscillation(), hf.QuarticPotential(0.7)

    def predictor(t, x, condition=None, key=None):
        return 0.3 * x - t

    x = jnp.array([0.4, -1.0])
    by_potential = hf.EnergyGuided(predictor, flow, potential)
    by_function = hf.EnergyGuided(predictor, flow, lambda x: potential.energy(0.0, x))
    np.testing.assert_allclose(by_potential(0.6, x), by_function(0.6, x), rtol=1e-6)
    assert float(jnp.max(jnp.abs(by_potential(0.6, x) - predictor(0.6, x)))) > 0.01
