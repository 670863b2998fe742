"""The power-function average against its profile: masses of cells, moments by quadrature, the plain mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from hamflow.training import PowerFunctionAverage


def weights_of_models(average, num_steps, batch_size):
    """How much the model after each step counts in the average at the end, the recursion run on unit vectors."""

    def step(ema, n):
        return average.update(ema, jax.nn.one_hot(n, num_steps, dtype=ema.dtype), n * batch_size, batch_size), None

    start = jnp.full(num_steps, 1e6)  # of which no trace may be left
    steps = jnp.arange(num_steps, dtype=jnp.uint32)
    return jax.lax.scan(step, start, steps)[0]


@pytest.mark.parametrize("gamma", [0.0, 1, 6.94, 16.97])
def test_each_model_counts_as_the_profile_says(x64, gamma):
    # The recursion telescopes: model j of n has the mass of ((j - 1)/n, j/n] under (gamma + 1) u^gamma.
    n = 200
    edges = np.linspace(0, 1, n + 1) ** (gamma + 1)
    found = weights_of_models(PowerFunctionAverage(gamma), n, 32)
    # The first step is ema + 1 (model - ema), which rounds off 1e6 to 1e-10.
    np.testing.assert_allclose(found, np.diff(edges), atol=1e-9)


def test_gamma_zero_is_the_mean_of_all_models():
    average, ema = PowerFunctionAverage(0), {"w": jnp.asarray([100.0])}
    for n, value in enumerate([3.0, 5.0, 10.0, 2.0]):
        ema = average.update(ema, {"w": jnp.asarray([value])}, jnp.uint32(16 * n), 16)
    np.testing.assert_allclose(ema["w"], [5.0], rtol=1e-5)


@pytest.mark.parametrize("gamma", [0, 0.5, 3.0, 6.94, 16.97, 120.0])
def test_the_relative_width_is_the_standard_deviation_of_the_profile(gamma):
    moment = [quad(lambda u, p=p: (gamma + 1) * u ** (gamma + p), 0, 1, points=[0.9, 0.99])[0] for p in (0, 1, 2)]
    assert moment[0] == pytest.approx(1, rel=1e-10)
    expected = np.sqrt(moment[2] - moment[1] ** 2)
    assert PowerFunctionAverage(gamma).relative_width == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("width", [1e-4, 0.01, 0.05, 0.1, 0.2, 0.288])
def test_the_width_is_inverted(width):
    average = PowerFunctionAverage.from_relative_width(width)
    assert average.relative_width == pytest.approx(width, rel=1e-9)
    # (gamma + 2)^2 (gamma + 3) = sigma^-2 (gamma + 1), multiplied out.
    s = width**-2
    assert average.gamma == pytest.approx(np.roots([1, 7, 16 - s, 12 - s]).real.max(), rel=1e-6)


def test_the_widths_of_the_paper():
    # Karras et al. 2024, section 3.1: sigma_rel = .05 and .10 are gamma = 16.97 and 6.94.
    assert round(PowerFunctionAverage.from_relative_width(0.05).gamma, 2) == 16.97
    assert round(PowerFunctionAverage.from_relative_width(0.10).gamma, 2) == 6.94
    assert PowerFunctionAverage.from_relative_width(12**-0.5).gamma == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 6.94])
def test_decay_by_hand(gamma):
    average = PowerFunctionAverage(gamma)
    assert average.decay(jnp.uint32(0), 64) == 0
    np.testing.assert_allclose(average.decay(jnp.uint32(64), 64), 0.5 ** (gamma + 1), rtol=1e-5)
    np.testing.assert_allclose(average.decay(jnp.uint32(64 * 9), 64), 0.9 ** (gamma + 1), rtol=1e-5)


def test_one_step_of_a_large_batch_is_two_of_half_of_it_where_the_model_stands_still():
    average, model = PowerFunctionAverage(3.0), {"w": jnp.zeros(1)}
    whole = average.update({"w": jnp.ones(1)}, model, jnp.uint32(1000), 200)
    half = average.update({"w": jnp.ones(1)}, model, jnp.uint32(1000), 100)
    half = average.update(half, model, jnp.uint32(1100), 100)
    np.testing.assert_allclose(whole["w"], [(1000 / 1200) ** 4], rtol=1e-6)
    np.testing.assert_allclose(half["w"], whole["w"], rtol=1e-6)


def test_late_in_a_long_training_nothing_is_rounded_off():
    # 1 - beta = 1 - (1 - x)^8 = 8 x to first order, x = 64/4e9 = 1.6e-8; beta itself is 1 in float32 but for two units.
    average = PowerFunctionAverage(7.0)
    moved = average.update({"w": jnp.zeros(1)}, {"w": jnp.ones(1)}, jnp.uint32(4_000_000_000), 64)
    np.testing.assert_allclose(moved["w"], [8 * 64 / 4_000_000_064], rtol=1e-6)


@pytest.mark.parametrize("gamma", [-0.1, float("nan"), float("inf")])
def test_bad_gamma(gamma):
    with pytest.raises(ValueError, match="gamma"):
        PowerFunctionAverage(gamma)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.2887, float("nan")])
def test_bad_width(width):
    with pytest.raises(ValueError, match=r"relative_width is .*0\.2886"):
        PowerFunctionAverage.from_relative_width(width)
