"""The grid of sampling times against Karras et al. 2022, equation 5, written in numpy."""

import inspect
import math

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import hamflow as hf

EDM = """80 57.586 40.7856 28.3746 19.3525 12.9101 8.40094 5.31519 3.25682 1.92334 1.08817 .585348 .296442 .139516
.0599473 .0229345 .00752802 .002 0"""


def edm_sigmas(n, smallest=0.002, largest=80.0, rho=7.0):
    ramp = np.arange(n) / (n - 1)
    return (largest ** (1 / rho) + ramp * (smallest ** (1 / rho) - largest ** (1 / rho))) ** rho


def test_diffusion_has_the_published_grid(x64):
    grid = hf.rho_grid(hf.diffusion(), 18)
    np.testing.assert_allclose(grid, [float(v) for v in EDM.split()], rtol=5e-6)
    np.testing.assert_allclose(grid[:-1], edm_sigmas(18), rtol=1e-12)


@pytest.mark.parametrize("w", [0.3, 1.0, 2.0])
def test_oscillation_grid_is_an_angle(w, x64):
    grid = hf.rho_grid(hf.oscillation(w), 18)
    np.testing.assert_allclose(grid[1:-1], np.arctan(w * edm_sigmas(18)[1:]) / w, rtol=1e-11)
    assert grid[0] == math.pi / (2 * w)


def test_flow_matching_grid(x64):
    sigma = edm_sigmas(18)[1:]
    np.testing.assert_allclose(hf.rho_grid(hf.flow_matching(), 18)[1:-1], sigma / (1 + sigma), rtol=1e-11)


def test_a_flow_with_less_noise_starts_at_its_own(x64):
    """A reflection has sigma = t, up to its horizon 3."""
    np.testing.assert_allclose(hf.rho_grid(hf.reflection(), 18)[:-1], edm_sigmas(18, largest=3.0), rtol=1e-11)


def test_a_matrix_flow_inverts_a_table(x64):
    """sigma = tan(t) sqrt(tr C / d); the inverse is interpolated, to about 1e-4."""
    grid = hf.rho_grid(hf.whitened_oscillation(jnp.array([[0.5, 0.1], [0.1, 0.1]])), 18)
    np.testing.assert_allclose(grid[1:-1], np.arctan(edm_sigmas(18)[1:] / math.sqrt(0.3)), rtol=2e-4)


def test_options(x64):
    grid = hf.rho_grid(hf.diffusion(), 7, sigma_min=0.1, sigma_max=10.0, rho=3.0)
    np.testing.assert_allclose(grid[1:-1], edm_sigmas(7, 0.1, 10.0, 3.0)[1:], rtol=1e-12)
    assert grid[0] == 80.0


def test_log_snr_grid(x64):
    """Even in log sigma, in numpy; of an oscillation the angle of that sigma."""
    sigma = np.geomspace(80.0, 0.002, 9)
    np.testing.assert_allclose(hf.log_snr_grid(hf.diffusion(), 9), [*sigma, 0.0], rtol=1e-12)
    grid = hf.log_snr_grid(hf.oscillation(2.0), 9, sigma_min=0.1, sigma_max=10.0)
    np.testing.assert_allclose(grid[1:-1], np.arctan(2.0 * np.geomspace(10.0, 0.1, 9)[1:]) / 2.0, rtol=1e-12)


def test_uniform_grid(x64):
    np.testing.assert_allclose(hf.uniform_grid(hf.reflection(horizon=3.0), 4), [3.0, 2.25, 1.5, 0.75, 0.0])


def test_cosine_grid(x64):
    """Even angles of sigma against `middle`: of an oscillation at 1 / middle, even times from that of sigma_max."""
    grid = hf.cosine_grid(hf.oscillation(2.0), 5, middle=0.5, sigma_max=10.0)
    first = np.arctan(2.0 * 10.0) / 2.0
    np.testing.assert_allclose(grid, [np.pi / 4, *(first * np.array([0.8, 0.6, 0.4, 0.2, 0.0]))], rtol=1e-11)
    grid = hf.cosine_grid(hf.diffusion(), 4)  # sqrt(.002 * 80) = .4
    angle = np.arctan(80.0 / 0.4)
    np.testing.assert_allclose(grid, [80.0, *(0.4 * np.tan(angle * np.array([0.75, 0.5, 0.25, 0.0])))], rtol=1e-11)


FLOWS = [
    hf.diffusion(),
    hf.flow_matching(),
    *map(hf.oscillation, (0.3, 1.0, 2.0)),
    hf.whitened_oscillation(0.09),
    hf.reflection(),
    hf.Flow(
        hf.Hamiltonian(hf.ZeroPotential(), hf.RelativisticKinetic(), hf.Box(-1.0, 1.0)),
        hf.IndependentCoupling(),
        3.0,
        hf.UniformPrior(-1.0, 1.0),
    ),
]


GRIDS = [hf.rho_grid, hf.log_snr_grid, hf.uniform_grid, hf.cosine_grid]


@pytest.mark.parametrize("make", GRIDS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("num_steps", [1, 2, 18, 300])
def test_from_the_horizon_exactly_down_to_zero(flow, num_steps, make):
    grid = make(flow, num_steps)
    assert grid.shape == (num_steps + 1,)
    assert grid.dtype == jnp.float32
    assert grid[0] == np.float32(flow.horizon)
    assert grid[-1] == 0
    assert np.all(np.diff(grid) < 0)


def test_default_float(x64):
    assert hf.rho_grid(hf.oscillation(), 3).dtype == jnp.float64


@pytest.mark.parametrize(
    ("num_steps", "options", "error", "message"),
    [
        (0, {}, ValueError, "num_steps"),
        (2.0, {}, TypeError, "num_steps"),
        (5, {"sigma_min": 0.0}, ValueError, "sigma_min"),
        (5, {"sigma_min": 90.0}, ValueError, "sigma_min"),
        (5, {"rho": 0.0}, ValueError, "rho"),
    ],
)
def test_bad_arguments_are_named(num_steps, options, error, message):
    with pytest.raises(error, match=message):
        hf.rho_grid(hf.oscillation(), num_steps, **options)


@pytest.mark.parametrize("make", GRIDS, ids=lambda make: make.__name__)
def test_bad_arguments_of_every_grid(make):
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        make(hf.oscillation(), 0)
    for name in ("sigma_min", "sigma_max", "middle"):
        if name in inspect.signature(make).parameters:
            with pytest.raises(ValueError, match=f"{name} must be positive"):
                make(hf.oscillation(), 3, **{name: -1.0})


def test_generate_takes_a_grid():
    """One Heun step and an Euler step, written out."""
    flow = hf.flow_matching()
    found = hf.generate(lambda t, x, c, k: -x, flow, jr.key(0), (1, 2), times=hf.uniform_grid(flow, 2))
    x = flow.prior.sample(jr.fold_in(jr.key(0), 0), (2,))
    np.testing.assert_allclose(found[0], x * (1 + 0.5 + 0.125) * 1.5, rtol=1e-6)


def test_a_flow_that_ends_below_sigma_min():
    with pytest.raises(ValueError, match="pass a smaller"):
        hf.rho_grid(hf.diffusion(horizon=0.001), 5, sigma_min=0.002)
    assert np.all(np.diff(hf.rho_grid(hf.diffusion(horizon=0.001), 5, sigma_min=1e-5)) < 0)
