"""Fitted priors: the moments that theory gives, and a misfit that tells a good fit from a bad one."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import hamflow as hf


def stepped(potential, horizon, step=0.05):
    return hf.Flow(
        hf.Hamiltonian(potential, hf.GaussianKinetic()),
        hf.IndependentCoupling(),
        horizon,
        hf.NormalPrior(),
        hf.Leapfrog(step),
    )


DATA = jr.normal(jr.key(0), (6000, 2)) * jnp.array([[0.5, 1.2]]) + jnp.array([[1.0, 0.0]])


def test_a_normal_law_is_found(capsys):
    """An oscillator of frequency 1.3 over a third of its quarter period: mean and deviation in closed form."""
    w, t = 1.3, 0.4
    fitted = hf.fit_prior(stepped(hf.HarmonicPotential(w), t), DATA, jr.key(1))
    mean = math.cos(w * t) * np.array([1.0, 0.0])
    std = np.sqrt((math.cos(w * t) * np.array([0.5, 1.2])) ** 2 + (math.sin(w * t) / w) ** 2)
    # 4,000 draws: 4.5 standard errors of a mean are .07 deviations, of a deviation .05 of it.
    np.testing.assert_allclose(fitted.flow.prior.mean, mean, atol=0.07 * std.max())
    covariance = fitted.flow.prior.scale @ fitted.flow.prior.scale.T
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), std, rtol=0.06)
    assert fitted.misfit < fitted.noise_floor + 0.05
    assert fitted.flow.num_steps == 8
    printed = capsys.readouterr().out
    assert printed == f"{fitted}\n"
    assert f"misfit {fitted.misfit:.3f}" in printed


def test_a_law_that_is_not_normal_shows_its_misfit_and_a_mixture_takes_it(capsys):
    """Two bumps at -1.5 and 1.5 that have hardly moved."""
    bumps = 1.5 * jr.rademacher(jr.key(2), (6000, 2)).astype(float) + 0.1 * jr.normal(jr.key(3), (6000, 2))
    flow = stepped(hf.ZeroPotential(), 0.3)
    normal = hf.fit_prior(flow, bumps, jr.key(4), show=False)
    mixture = hf.fit_prior(flow, bumps, jr.key(4), components=4, show=False)
    assert capsys.readouterr().out == ""
    assert normal.misfit > 0.2 > 0.1 > mixture.misfit
    means = np.asarray(mixture.flow.prior.means)
    np.testing.assert_allclose(np.sort(np.abs(means).ravel()), 1.5, atol=0.1)
    assert np.unique(np.sign(means), axis=0).shape == (4, 2)
    np.testing.assert_allclose(mixture.flow.prior.stds, math.hypot(0.1, 0.3), atol=0.06)
    assert "mixture of 4" in str(mixture)


def test_pictures_get_one_deviation_a_coordinate():
    data = jr.normal(jr.key(5), (400, 3, 10, 10)) * 0.5
    fitted = hf.fit_prior(stepped(hf.ZeroPotential(), 1.0, 0.5), data, jr.key(6), num_draws=800, show=False)
    assert fitted.flow.prior.scale.shape == (3, 10, 10)
    np.testing.assert_allclose(np.mean(np.asarray(fitted.flow.prior.scale) ** 2), 1.25, rtol=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hf.fit_prior(hf.reflection(-5.0, 5.0), DATA, jr.key(0)), "would leave the Box"),
        (lambda: hf.fit_prior(hf.flow_matching(), DATA, jr.key(0)), "leads to the prior that the flow has"),
        (lambda: hf.fit_prior(hf.oscillation(), DATA, jr.key(0), components=0), "at least 100 a component"),
        (lambda: hf.fit_prior(hf.oscillation(), DATA.at[0, 0].set(jnp.nan), jr.key(0)), "data must be finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_path_that_explodes_is_named():
    class Hill(hf.AbstractPotential):
        def energy(self, t, position):
            return -jnp.sum(position**4)

    with pytest.raises(RuntimeError, match="the state became non-finite on the way"):
        hf.fit_prior(stepped(Hill(), 20.0), DATA, jax.random.key(0))
