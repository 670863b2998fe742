"""Data in any unit: the same seeds give the same loss, times and samples, up to the unit.

A power of two scales floats exactly, so what is left is the rounding of logarithms and of divided numbers.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_network import TinyNetwork

import hamflow as hf

# Each flow for data of deviation s_d = k / 2 and covariance C k^2, by its own parameters.
C = np.array([[0.3, 0.1], [0.1, 0.2]])
NAMED = {
    "diffusion": lambda k: hf.diffusion(80.0 * k, 0.5 * k, jnp.array([0.3, -0.2]) * k),
    "poisson": lambda k: hf.poisson_flow(8.0, 80.0 * k, 0.5 * k),
    "flow matching": lambda k: hf.flow_matching(k),
    "oscillation": lambda k: hf.oscillation(2.0 / k),
    "reflection": lambda k: hf.reflection(-2.0 * k, 2.0 * k, 6.0 * k),
    "whitened": lambda k: hf.whitened_oscillation(jnp.asarray(C * k * k, float)),
    "whitened, diagonal": lambda k: hf.whitened_oscillation(jnp.asarray([0.3, 0.2], float) * k * k),
}
UNITS = (2.0**-10, 1.0, 2.0**10)


@jax.jit
def points(unit):
    return unit * jnp.clip(jr.normal(jr.key(0), (64, 2)) * jnp.array([[0.5, 0.4]]), -1.9, 1.9)


def measured(name, unit):
    flow, data = NAMED[name](unit), points(unit)
    model = hf.Preconditioned.from_data(TinyNetwork(2), flow, data, jr.key(1), num_draws=64)
    loss = jax.jit(lambda data, key: hf.velocity_matching_loss(model, flow, data, key))(data, jr.key(2))
    samples = hf.generate(model, flow, jr.key(3), (8, 2), 6)
    grids = [grid(flow, 6, data_std=model.deviation) for grid in (hf.rho_grid, hf.log_snr_grid, hf.cosine_grid)]
    return loss, samples / unit, [grid / flow.horizon for grid in grids]


@pytest.mark.parametrize("name", NAMED)
def test_the_unit_changes_no_loss_and_no_sample(name):
    """Reflection's 2,048-point tables and the eigenvectors of a matrix round a little more than the formulas."""
    (small, one, large) = (measured(name, unit) for unit in UNITS)
    for other in (small, large):
        np.testing.assert_allclose(other[0], one[0], rtol=1e-4)
        np.testing.assert_allclose(other[1], one[1], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(other[2], one[2], rtol=1e-3, atol=1e-6)


def test_a_solver_by_tolerance_counts_in_units_of_the_data(x64):
    """In data of 2^-10 an absolute tolerance of 1e-3 would be all of it, and one step would be enough.

    In double precision, where rounding does not decide which steps are taken.
    """
    evaluations = []
    for unit in UNITS:
        flow = NAMED["oscillation"](unit)
        model = hf.Preconditioned(TinyNetwork(2, dtype=np.float64), flow, 0.5 * unit)
        samples = hf.generate(model, flow, jr.key(3), (4, 2), tolerance=1e-3)
        encoded = hf.encode(model, flow, samples, tolerance=1e-3)
        likelihood = hf.log_likelihood(model, flow, samples, tolerance=1e-3)
        evaluations.append((samples / unit, encoded / unit, likelihood + 2.0 * np.log(unit)))
    for other in (evaluations[0], evaluations[2]):
        for got, expected in zip(other, evaluations[1], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_the_time_input_is_edms_for_ordinary_data_and_moves_with_far_units():
    """c_noise = ln(sigma / u) / 4, u the power of 1,024 next to 2 s_d, and sigma = t for a diffusion."""
    t = jnp.asarray(3.0)
    for std, unit, expected in ((0.5, None, 3.0), (4.0, None, 3.0), (700.0, None, 3.0 / 1024), (700.0, 0.5, 3.0)):
        model = hf.Preconditioned(TinyNetwork(2), hf.diffusion(), std, noise_unit=unit)
        assert float(model.scalings(t, jnp.zeros(2)).c_noise) == pytest.approx(np.log(expected) / 4, rel=1e-5)


def test_training_times_know_the_deviation_inside_a_wrapped_predictor():
    from hamflow.predictors import deviation_of

    model = hf.Preconditioned(TinyNetwork(2), hf.diffusion(), jnp.array([3.0, 4.0]))
    assert float(deviation_of(hf.Guided(model, 2.0))) == pytest.approx(np.sqrt(12.5))
    assert deviation_of(lambda t, x, condition, key: x) is None


def test_times_of_training_move_with_the_deviation():
    """The median of ln(sigma / (2 s_d)) is -1.2 for every deviation; sigma = t."""
    for std in (0.5, 500.0):
        law = hf.LogNormalNoise(data_std=std)
        t = law.sample(jr.key(0), hf.diffusion(160.0 * std, std), (20_000,))
        median = np.median(np.log(np.asarray(t) / (2.0 * std)))
        assert median == pytest.approx(-1.2, abs=5 * 1.2 * np.sqrt(np.pi / 2 / 20_000))  # five standard errors


def test_deviations_that_are_not_positive_are_refused_by_name():
    for call in (
        lambda: hf.LogNormalNoise(data_std=0.0),
        lambda: hf.rho_grid(hf.diffusion(), 4, data_std=-1.0),
    ):
        with pytest.raises(ValueError, match="data_std must be positive"):
            call()
    with pytest.raises(ValueError, match="noise_unit must be positive"):
        hf.Preconditioned(TinyNetwork(2), hf.diffusion(), 0.5, noise_unit=0.0)
