"""Laws of the training time, by Kolmogorov-Smirnov tests of what is drawn (each alarms falsely once in 10^4)."""

import math

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

import hamflow as hf

DRAWS = 20_000
ALARM = 1e-4
FLOWS = {  # and sigma(t), from b / a of the closed forms
    "diffusion": (hf.diffusion(), lambda t: t),
    "flow matching": (hf.flow_matching(), lambda t: t / (1 - t)),
    "oscillation": (hf.oscillation(), np.tan),
    "oscillation, w 2": (hf.oscillation(2.0), lambda t: np.tan(2 * t) / 2),
    "whitened": (hf.whitened_oscillation(0.09), lambda t: 0.3 * np.tan(t)),
}
RELATIVISTIC = hf.Flow(
    hf.Hamiltonian(hf.ZeroPotential(), hf.RelativisticKinetic(), hf.Box(-1.0, 1.0)),
    hf.IndependentCoupling(),
    3.0,
    hf.UniformPrior(-1.0, 1.0),
)


def draw(law, flow, seed=0, dtype=None):
    return np.asarray(law.sample(jr.key(seed), flow, (DRAWS,), dtype), np.float64)


@pytest.mark.parametrize("name", FLOWS)
def test_edm_law_is_lognormal_in_sigma(name, x64):
    flow, sigma = FLOWS[name]
    log_sigma = np.log(sigma(draw(hf.LogNormalNoise(), flow)))
    assert stats.kstest(log_sigma, stats.norm(-1.2, 1.2).cdf).pvalue > ALARM
    assert stats.kstest(log_sigma, stats.norm(-1.1, 1.2).cdf).pvalue < 1e-12  # the test can tell


def test_a_matrix_flow_uses_root_mean_squares(x64):
    """Whitened by C: a = cos t, b = C^1/2 sin t, so sigma^2 = tan^2 t tr C / d; its inverse is tabulated."""
    covariance = jnp.array([[0.5, 0.1], [0.1, 0.1]])
    t = draw(hf.LogNormalNoise(-0.5, 0.8), hf.whitened_oscillation(covariance))
    log_sigma = np.log(np.tan(t) * math.sqrt(0.3))
    assert stats.kstest(log_sigma, stats.norm(-0.5, 0.8).cdf).pvalue > ALARM


def test_where_the_flow_ends_before_the_law_does(x64):
    """A reflection has sigma = t <= 3: 2.8% of the draws are moved to the horizon, the others keep their law."""
    t = draw(hf.LogNormalNoise(), hf.reflection(horizon=3.0))
    law = stats.norm(-1.2, 1.2)
    beyond = law.sf(math.log(3.0))
    assert stats.binomtest(int(np.sum(t == 3.0)), DRAWS, beyond).pvalue > ALARM
    assert stats.kstest(np.log(t[t < 3.0]), lambda x: law.cdf(x) / (1 - beyond)).pvalue > ALARM


def test_a_flow_without_a_ratio_spreads_the_law_over_its_times(x64):
    """log sigma runs linearly from -3.6 to 1.2: t / T ~ N(1/2, 1/4^2), cut at both ends."""
    t = draw(hf.LogNormalNoise(), RELATIVISTIC) / 3.0
    inside = t[(t > 1e-10) & (t < 1)]
    assert stats.kstest(inside, stats.truncnorm(-2, 2, 0.5, 0.25).cdf).pvalue > ALARM
    for end in (t <= 1e-10, t == 1):
        assert stats.binomtest(int(np.sum(end)), DRAWS, stats.norm.sf(2)).pvalue > ALARM


@pytest.mark.parametrize("flow", [hf.diffusion(), hf.oscillation(2.0), RELATIVISTIC])
def test_uniform_law(flow):
    assert stats.kstest(draw(hf.UniformTime(), flow), stats.uniform(0, flow.horizon).cdf).pvalue > ALARM


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.3)])
def test_logit_normal_law(mean, std, x64):
    flow = hf.oscillation(2.0)
    fraction = draw(hf.LogitNormalTime(mean, std), flow) / flow.horizon
    assert stats.kstest(np.log(fraction / (1 - fraction)), stats.norm(mean, std).cdf).pvalue > ALARM


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "law",
    [
        hf.UniformTime(),
        *(hf.LogNormalNoise(mean, 1.0) for mean in (-60.0, -1.2, 60.0)),
        *(hf.LogitNormalTime(mean, 1.0) for mean in (-200.0, 0.0, 200.0)),
    ],
)
def test_times_are_after_zero_and_not_after_the_horizon(law, dtype):
    for flow in (*(flow for flow, _ in FLOWS.values()), RELATIVISTIC):
        t = law.sample(jr.key(0), flow, (500,), dtype)
        assert t.dtype == dtype
        assert np.all(t > 0)
        assert np.all(t <= jnp.asarray(flow.horizon, dtype))


def test_shape_dtype_and_key(x64):
    for law in (hf.UniformTime(), hf.LogNormalNoise(), hf.LogitNormalTime()):
        t = law.sample(jr.key(0), hf.oscillation(), (3, 4))
        assert t.shape == (3, 4)
        assert t.dtype == jnp.float64
        assert len(np.unique(t)) == 12
        assert not np.any(t == law.sample(jr.key(1), hf.oscillation(), (3, 4)))


@pytest.mark.parametrize("law", [hf.LogNormalNoise, hf.LogitNormalTime])
def test_parameters_may_be_arrays_of_another_dtype(law, x64):
    """Under strict promotion: a law kept in single precision draws times for data in double, and in half."""
    made = law(jnp.asarray(np.float32(0.25)), jnp.asarray(np.float32(0.5)))
    for dtype in (jnp.float64, jnp.bfloat16):
        assert made.sample(jr.key(0), hf.oscillation(), (3,), dtype).dtype == dtype
    numbers = law(0.25, 0.5).sample(jr.key(0), hf.oscillation(), (3,), jnp.float64)
    np.testing.assert_allclose(made.sample(jr.key(0), hf.oscillation(), (3,), jnp.float64), numbers, rtol=1e-14)


@pytest.mark.parametrize("law", [hf.LogNormalNoise, hf.LogitNormalTime])
def test_errors_name_the_parameter(law):
    for std in (0.0, -1.0):
        with pytest.raises(ValueError, match="std"):
            law(0.0, std)
    with pytest.raises(ValueError, match="mean"):
        law(float("nan"), 1.0)
    with pytest.raises(TypeError, match="mean"):
        law("0", 1.0)
