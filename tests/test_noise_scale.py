"""One noise scale a flow: log sigma, its inverse, and what both do at the ends."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import FLOWS, array, spd

import hamflow as hf

CLOSED = {  # sigma(t) and its inverse, THEORY, section 4
    "diffusion": (hf.diffusion, lambda t: t, lambda s: s),
    "flow matching": (hf.flow_matching, lambda t: t / (1 - t), lambda s: s / (1 + s)),
    "oscillation": (hf.oscillation, np.tan, np.arctan),
    "oscillation, fast": (
        lambda: hf.oscillation(3.0),
        lambda t: np.tan(3.0 * t) / 3.0,
        lambda s: np.arctan(3.0 * s) / 3.0,
    ),
    "whitened": (  # x_T ~ N(0, C), so noise comes in units of C^1/2
        lambda: hf.whitened_oscillation(0.3),
        lambda t: np.tan(t) * math.sqrt(0.3),
        lambda s: np.arctan(s / math.sqrt(0.3)),
    ),
    "oscillation, mass": (  # w = 1.4, m = 2.5, p_0 ~ N(0, m)
        FLOWS["oscillation, mass"].build,
        lambda t: np.tan(1.4 * t) / (1.4 * math.sqrt(2.5)),
        lambda s: np.arctan(1.4 * math.sqrt(2.5) * s) / 1.4,
    ),
    "flow matching, mass": (  # a = 1 - t / T, b = .8 t / T, T = 2.5
        FLOWS["flow matching, mass"].build,
        lambda t: 0.8 * t / (2.5 - t),
        lambda s: 2.5 * s / (0.8 + s),
    ),
    "poisson": (  # the deviation of Student-t noise
        lambda: hf.poisson_flow(5.0),
        lambda t: t * math.sqrt(5.0 / 3.0),
        lambda s: s / math.sqrt(5.0 / 3.0),
    ),
    "reflection": (hf.reflection, lambda t: t, lambda s: s),  # of the straight line, walls or not
}


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
@pytest.mark.parametrize("name", CLOSED)
def test_sigma_and_its_inverse_in_closed_form(name, double):
    build, sigma, time = CLOSED[name]
    with jax.enable_x64(double):
        flow, tolerance = build(), (1e-12 if double else 2e-5)
        scale = flow.noise_scale
        t = np.linspace(0.001, 0.98, 50) * float(flow.horizon)
        np.testing.assert_allclose(scale.log_sigma(jnp.asarray(t, float)), np.log(sigma(t)), atol=tolerance)
        s = np.geomspace(2e-4, float(np.exp(scale.log_sigma(float(flow.horizon)))) * 0.99, 50)
        np.testing.assert_allclose(scale.time(jnp.asarray(np.log(s), float)), time(s), rtol=tolerance)


@eqx.filter_jit  # flows that differ in their domains only share one program
def there_and_back(scale, t):
    """log sigma at `t`; the times of values beyond both ends; values inside, their times, and log sigma there."""
    log_sigma = scale.log_sigma(t)
    low, high = log_sigma[0], log_sigma[-1]
    beyond = jnp.stack([jnp.full_like(low, -1e3), low - 1.0, high + 20.0, jnp.full_like(low, 1e3)])
    inside = jnp.linspace(low + 0.1, high - 0.1, 101)
    times = scale.time(jnp.concatenate([beyond, inside]))
    return log_sigma, times[:4], inside, times[4:], scale.log_sigma(times[4:])


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
@pytest.mark.parametrize("name", FLOWS)
def test_finite_increasing_and_inverted(name, double):
    """On all of [0, T], and beyond it in log sigma, for every flow; the round trip is exact up to the table's error."""
    with jax.enable_x64(double):
        flow = FLOWS[name].build()
        horizon = float(flow.horizon)
        t = jnp.asarray(np.linspace(0.0, 1.0, 301) * horizon, float)
        log_sigma, back, inside, times, again = (np.asarray(v, float) for v in there_and_back(flow.noise_scale, t))
        assert np.all(np.isfinite(log_sigma))
        assert np.all(np.diff(log_sigma) >= 0.0)
        assert log_sigma[-1] - log_sigma[0] > 4.0
        assert np.all((back >= 0.0) & (back <= horizon * (1.0 + 1e-6)))
        assert np.all(np.diff(times) > 0.0)
        np.testing.assert_allclose(again, inside, atol=2e-4)


@pytest.mark.parametrize(
    "build", [lambda: hf.whitened_oscillation(spd()), lambda: hf.whitened_oscillation(array(4, 0.1))]
)
def test_the_tabulated_inverse_against_its_closed_form(build, x64):
    """Root mean squares over the modes: sigma = tan(t) sqrt(tr C / d), whose inverse a table replaces here."""
    scale = build().noise_scale
    mean = math.sqrt(1.45) if build().system.kinetic.mass.ndim == 2 else math.sqrt(2.05)
    t = np.linspace(0.01, 0.98, 40) * math.pi / 2
    np.testing.assert_allclose(scale.log_sigma(jnp.asarray(t)), np.log(np.tan(t) * mean), atol=1e-12)
    s = np.geomspace(1e-3, 60.0, 200)
    np.testing.assert_allclose(scale.time(jnp.asarray(np.log(s))), np.arctan(s / mean), rtol=1e-4)


def test_the_scale_is_held_where_there_is_no_data_left():
    """sigma is infinite at the horizon of these: held at 80, as the horizon of EDM's diffusion; and at 1e-4 at 0."""
    for flow in (hf.flow_matching(), hf.oscillation(), hf.oscillation(2.0), hf.whitened_oscillation(0.3)):
        ends = flow.noise_scale.log_sigma(jnp.array([0.0, float(flow.horizon)]))
        np.testing.assert_allclose(ends, np.log([1e-4, 80.0]), rtol=1e-6)
    top = hf.diffusion(3.0).noise_scale.log_sigma(jnp.array([0.0, 3.0]))
    np.testing.assert_allclose(top, np.log([1e-4, 3.0]), rtol=1e-6)


def test_flows_without_a_ratio_use_time_itself():
    """log sigma from -3.6 to 1.2, EDM's mean -1.2 and two deviations of 1.2 to each side."""
    flow = FLOWS["reflection, relativistic"].build()
    got = flow.noise_scale.log_sigma(jnp.array([0.0, 1.5, 3.0]))
    np.testing.assert_allclose(got, [-3.6, -1.2, 1.2], atol=1e-6)
    np.testing.assert_allclose(
        flow.noise_scale.time(jnp.array([-3.6, -1.2, 1.2, 5.0])), [0.0, 1.5, 3.0, 3.0], atol=1e-6
    )


@pytest.mark.parametrize("name", ["oscillation", "whitened, diagonal", "reflection, relativistic"])
def test_times_of_any_shape(name):
    scale = FLOWS[name].build().noise_scale
    for shape in ((), (3,), (2, 2), (0,)):
        t = jnp.full(shape, 0.3)
        assert scale.log_sigma(t).shape == scale.time(scale.log_sigma(t)).shape == shape
    assert float(scale.log_sigma(0.3)) == pytest.approx(float(scale.log_sigma(jnp.array(0.3))))
    assert float(scale.time(-1.0)) == pytest.approx(float(scale.time(jnp.array(-1.0))))
