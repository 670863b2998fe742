"""Data in other units, pixels from 0 to 255 or metres: a flow in the same units samples them as well."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import norm

import hamflow as hf

NOISE = 1.63 / math.sqrt(4000)  # a Kolmogorov-Smirnov distance that 4,000 draws exceed once in a hundred times


def two_bumps(unit):
    """Standard deviation 1.02 units."""
    means, stds = jnp.array([-1.2, 0.8]), jnp.array([0.3, 0.2])
    return hf.GaussianMixturePotential(unit * means, unit * stds, jnp.array([0.4, 0.6]))


def distance(x, unit):
    x = np.sort(np.asarray(x, float)) / unit
    exact = 0.4 * norm.cdf(x, -1.2, 0.3) + 0.6 * norm.cdf(x, 0.8, 0.2)
    return np.abs(exact - (np.arange(x.size) + 0.5) / x.size).max()


RECIPES = {
    "diffusion": lambda unit: hf.diffusion(160.0 * unit, unit),
    "oscillation": lambda unit: hf.oscillation(1.0 / unit),
    "whitened": lambda unit: hf.whitened_oscillation(unit**2),
    "flow matching": lambda unit: hf.Flow(
        hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic()), hf.CondOTCoupling(), 1.0, hf.NormalPrior(0.0, unit)
    ),
}


@pytest.mark.parametrize("unit", [0.01, 85.0])
@pytest.mark.parametrize("name", RECIPES)
def test_the_default_grid_samples_data_in_any_unit(name, unit):
    """With the exact velocity; a grid of fixed sigmas was .73 away for diffusion of pixels from 0 to 255."""
    flow = RECIPES[name](unit)
    x = hf.generate(hf.MixtureVelocity(two_bumps(unit), flow), flow, jr.key(0), (4000,), 30)
    assert distance(x, unit) < NOISE + 0.01


@pytest.mark.parametrize("unit", [0.01, 85.0])
@pytest.mark.parametrize("name", RECIPES)
def test_the_noise_scale_moves_with_the_unit(name, unit):
    """sigma in units of the data is the same function of t / T, wherever it is not held at an end."""
    flow, one = RECIPES[name](unit), RECIPES[name](1.0)
    part = np.linspace(0.001, 0.9, 20)
    found = flow.noise_scale.log_sigma(jnp.asarray(part * float(flow.horizon), float))
    expected = one.noise_scale.log_sigma(jnp.asarray(part * float(one.horizon), float))
    np.testing.assert_allclose(found - math.log(unit), expected, atol=2e-5)


def test_pixels_in_a_box_of_256_values():
    """The first step of reflection must not cross most of the time (it went from T = 382 to sigma = 80)."""
    grid = hf.rho_grid(hf.reflection(0.0, 255.0, 382.5), 18)
    assert grid[1] > 0.6 * grid[0]


@pytest.mark.parametrize(
    "build",
    [
        lambda: (hf.HarmonicPotential(1.0), 2.0),
        lambda: (hf.HarmonicPotential(jnp.array([1.0, 3.0])), math.pi / 2),
        lambda: (hf.HarmonicPotential(1.0), math.pi),
    ],
    ids=["past the quarter period", "two frequencies", "half a period"],
)
def test_sigma_that_falls_again_is_no_noise_scale(build):
    """b / a is infinite on the way and comes back: log sigma is then affine in t / T and covers all of it."""
    potential, horizon = build()
    flow = hf.Flow(hf.Hamiltonian(potential, hf.GaussianKinetic()), hf.IndependentCoupling(), horizon, hf.NormalPrior())
    t = jnp.linspace(0.0, horizon, 11)
    np.testing.assert_allclose(flow.noise_scale.log_sigma(t), np.linspace(-3.6, 1.2, 11), atol=1e-5)
    np.testing.assert_allclose(flow.noise_scale.time(flow.noise_scale.log_sigma(t)), t, atol=1e-5)


def test_past_the_quarter_period_the_samples_are_right():
    """Normal data of deviation .3, T = 2: x_T ~ N(0, (.3 cos 2)^2 + sin^2 2), and the exact velocity leads back."""
    std = math.hypot(0.3 * math.cos(2.0), math.sin(2.0))
    system = hf.Hamiltonian(hf.HarmonicPotential(1.0), hf.GaussianKinetic())
    flow = hf.Flow(system, hf.IndependentCoupling(), 2.0, hf.NormalPrior(0.0, std))
    one = hf.GaussianMixturePotential(jnp.array([0.0]), jnp.array([0.3]), jnp.array([1.0]))
    x = hf.generate(hf.MixtureVelocity(one, flow), flow, jr.key(0), (4000,), 60)
    assert np.std(x) == pytest.approx(0.3, rel=0.05)  # four standard errors are .045


def test_a_spring_of_no_stiffness_is_free():
    system = hf.Hamiltonian(hf.HarmonicPotential(0.0), hf.GaussianKinetic())
    flow = hf.Flow(system, hf.IndependentCoupling(), 80.0, hf.NormalPrior())
    np.testing.assert_allclose(flow.noise_scale.time(jnp.log(jnp.array([0.3, 7.0]))), [0.3, 7.0], rtol=1e-5)
    np.testing.assert_allclose(hf.rho_grid(flow, 18), hf.rho_grid(hf.diffusion(), 18), rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_trains_at_small_noise_as_well(dtype):
    """The law of ln sigma is N(-1.2, 1.2^2): half of the draws below exp(-1.2), a twentieth below exp(-1.2 - 1.97)."""
    t = hf.LogNormalNoise().sample(jr.key(0), hf.diffusion(), (20_000,), dtype)
    assert t.dtype == dtype
    t = np.asarray(t, float)
    assert np.mean(t < math.exp(-1.2)) == pytest.approx(0.5, abs=0.02)
    assert np.mean(t < math.exp(-1.2 - 1.2 * 1.645)) == pytest.approx(0.05, abs=0.01)
    assert np.isfinite(np.asarray(hf.diffusion().noise_scale.log_sigma(jnp.zeros((), dtype)), float))


def test_the_tabulated_time_has_the_gradient_of_the_formula(x64):
    """sigma = tan(w t) / w, so dt/dw = (-arctan(w s) / w + s / (1 + (w s)^2)) / w: one number, and two equal ones."""

    def time(w):
        system = hf.Hamiltonian(hf.HarmonicPotential(w), hf.GaussianKinetic())
        return hf.Flow(system, hf.IndependentCoupling(), 1.7, hf.NormalPrior()).noise_scale.time(-0.5)

    w, s = 0.9, math.exp(-0.5)
    expected = (-math.atan(w * s) / w + s / (1 + (w * s) ** 2)) / w
    assert float(jax.grad(time)(jnp.array(w))) == pytest.approx(expected, rel=1e-9)
    assert float(jnp.sum(jax.grad(time)(jnp.array([w, w])))) == pytest.approx(expected, rel=1e-4)
