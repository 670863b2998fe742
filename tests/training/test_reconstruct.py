"""Averages made of others: the inner products by quadrature, known paths of a model, and a bound that must hold."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize

from hamflow.training import PowerFunctionAverage, reconstruct_average, reconstruction_weights

NARROW, WIDE = PowerFunctionAverage.from_relative_width(0.05), PowerFunctionAverage.from_relative_width(0.10)
TIMES = [float(t) for t in np.linspace(1, 8, 8)]
STORED = [(average, t) for t in TIMES for average in (NARROW, WIDE)]
AVERAGES, IMAGES = [a for a, _ in STORED], [t for _, t in STORED]


def average_of_power(average, t, power):
    """The average after t of a model that is m^power after m: (gamma + 1)/(gamma + power + 1) t^power."""
    return (average.gamma + 1) / (average.gamma + power + 1) * t**power


def profile(average, t, m):
    return (average.gamma + 1) / t * (m / t) ** average.gamma if m <= t else 0.0


def test_a_stored_average_is_itself():
    weights, error = reconstruction_weights(AVERAGES, IMAGES, WIDE, 5.0)
    np.testing.assert_allclose(weights, np.eye(16)[STORED.index((WIDE, 5.0))], atol=1e-6)
    assert error < 1e-6


def test_the_weights_are_those_of_least_squares_with_the_sum_one():
    # The inner products by quadrature, and a general minimiser.
    averages, images = [NARROW, WIDE, WIDE], [3.0, 2.0, 3.0]
    wanted = PowerFunctionAverage.from_relative_width(0.07)
    stored = list(zip(averages, images, strict=True))

    def product(one, other):
        end = min(one[1], other[1])
        return quad(lambda m: profile(*one, m) * profile(*other, m), 0, end, epsabs=1e-12)[0]

    a = np.array([[product(one, other) for other in stored] for one in stored])
    b = np.array([product(one, (wanted, 2.5)) for one in stored])
    norm = product((wanted, 2.5), (wanted, 2.5))

    def distance(two):
        w = np.append(two, 1 - sum(two))
        return (norm - 2 * w @ b + w @ a @ w) / norm

    best = minimize(distance, [0.3, 0.3], tol=1e-14)
    weights, error = reconstruction_weights(averages, images, wanted, 2.5)
    np.testing.assert_allclose(weights, np.append(best.x, 1 - sum(best.x)), atol=1e-5)
    assert error == pytest.approx(np.sqrt(best.fun), rel=1e-5)


@pytest.mark.parametrize("width", [0.02, 0.07, 0.25])
def test_a_model_that_stands_still_is_its_own_average(width):
    wanted = PowerFunctionAverage.from_relative_width(width)
    models = [{"w": jnp.asarray([3.0])}] * 16
    found = reconstruct_average(models, AVERAGES, IMAGES, wanted, 6.5, max_error=1.0)
    np.testing.assert_allclose(found["w"], [3.0], rtol=1e-6)


@pytest.mark.parametrize("width", [0.06, 0.08, 0.15])
@pytest.mark.parametrize("power", [0, 1, 2, 3])
def test_a_known_path_is_averaged_as_if_it_had_been_kept(width, power):
    wanted, end = PowerFunctionAverage.from_relative_width(width), TIMES[-1]
    models = [{"w": jnp.asarray([average_of_power(a, t, power)])} for a, t in STORED]
    _, error = reconstruction_weights(AVERAGES, IMAGES, wanted, end)
    found = reconstruct_average(models, AVERAGES, IMAGES, wanted, end)["w"][0]
    # Cauchy-Schwarz: the error of the average is at most that of the profile times the norm of the path.
    gamma = wanted.gamma
    norm_of_profile = (gamma + 1) / np.sqrt((2 * gamma + 1) * end)
    norm_of_path = np.sqrt(end ** (2 * power + 1) / (2 * power + 1))
    expected = average_of_power(wanted, end, power)
    assert abs(found - expected) <= error * norm_of_profile * norm_of_path + 1e-4 * expected
    assert error < 0.05


def test_only_floating_point_arrays_are_combined():
    models = [{"w": jnp.asarray([v], jnp.bfloat16), "n": jnp.asarray(i), "f": jnp.tanh, "x": 2.0}
              for i, v in enumerate([1.0, 3.0])]  # fmt: skip
    found = reconstruct_average(models, [WIDE, WIDE], [1, 2], WIDE, 2)
    assert found["w"].dtype == jnp.bfloat16
    assert (float(found["w"][0]), int(found["n"]), found["f"], found["x"]) == (3.0, 1, jnp.tanh, 2.0)


def test_what_cannot_be_made_is_refused():
    narrower = PowerFunctionAverage.from_relative_width(0.005)
    models = [jnp.ones(1)] * 2
    with pytest.raises(ValueError, match=r"of relative width 0\.005 after 2 images is met to 0\.\d+ of its norm only"):
        reconstruct_average(models, [NARROW, WIDE], [2, 2], narrower, 2)
    with pytest.raises(ValueError, match="2 averages and 1 counts"):
        reconstruction_weights([NARROW, WIDE], [2], WIDE, 2)
    with pytest.raises(ValueError, match="at_images 0"):
        reconstruction_weights([WIDE], [2], WIDE, 0)
    with pytest.raises(ValueError, match="1 models for 2 averages"):
        reconstruct_average([jnp.ones(1)], [NARROW, WIDE], [2, 2], WIDE, 2)
