"""Couplings: the law of the first momentum given the data."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from systems import KINETICS, array

import hamflow as hf


def free(kinetic):
    return hf.Hamiltonian(hf.ZeroPotential(), kinetic)


@pytest.mark.parametrize("name", [name for name in KINETICS if name != "relativistic"])
def test_condot_goes_straight_to_a_draw_of_the_prior(name, x64):
    """x_0 + T v_0 is a draw of the prior, whatever x_0 is: the same draw for the same key."""
    system, horizon, prior = free(KINETICS[name]()), 2.5, hf.NormalPrior(0.3, array(0.5, 2.0))
    ends = []
    for data in (jnp.zeros((4, 2)), jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))):
        start = hf.CondOTCoupling().sample(jr.key(1), data, system, prior, horizon)
        np.testing.assert_array_equal(start.position, data)
        ends.append(data + horizon * jax.vmap(system.kinetic.velocity)(start.momentum))
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-14)
    expected = jax.vmap(lambda key: prior.sample(key, (2,)))(jr.split(jr.key(1), 4))
    np.testing.assert_allclose(ends[0], expected, atol=1e-14)  # one key a row, as `jr.split` makes them


def test_condot_with_a_force_is_affine_too(x64):
    """Only without a force does it arrive at the prior; the coefficients hold all the same."""
    system = hf.Hamiltonian(hf.HarmonicPotential(0.8), hf.GaussianKinetic(2.0))
    flow = hf.Flow(system, hf.CondOTCoupling(), 1.3, hf.NormalPrior(0.0, 0.7))
    w, t = 0.8 / np.sqrt(2.0), 0.6  # p_0 = 2 (.7 e - x_0) / 1.3, x_t = cos x_0 + sin / (2 w) p_0
    a, b, _, _ = flow.coefficients(t)
    assert float(a) == pytest.approx(np.cos(w * t) - np.sin(w * t) / w / 1.3)
    assert float(b) == pytest.approx(0.7 * np.sin(w * t) / w / 1.3)


@pytest.mark.parametrize("coupling", [hf.IndependentCoupling(), hf.CondOTCoupling()])
def test_momenta_take_the_dtype_of_the_data(coupling):
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            start = coupling.sample(
                jr.key(0), jnp.zeros((3, 2), dtype), free(hf.GaussianKinetic()), hf.NormalPrior(), 1.0
            )
            assert start.momentum.dtype == start.position.dtype == dtype


def test_independent_momenta_do_not_look_at_the_data():
    system = free(hf.RelativisticKinetic())
    first, second = (
        hf.IndependentCoupling().sample(jr.key(0), data, system, hf.NormalPrior(), 1.0).momentum
        for data in (jnp.zeros((3, 2)), jnp.ones((3, 2)))
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("coupling", [hf.IndependentCoupling(), hf.CondOTCoupling()])
def test_a_system_without_a_kinetic_energy_is_refused(coupling):
    system = hf.NonSeparableHamiltonian(lambda t, x, p: jnp.sum(x * p))
    with pytest.raises(ValueError, match="use a Hamiltonian or a ForcedSystem, or write a coupling"):
        coupling.require_system(system)


def test_a_coupling_of_ones_own():
    """Two methods make one: here every particle starts at rest, so nothing moves."""

    class AtRest(hf.AbstractCoupling):
        def sample(self, key, data, system, prior, horizon):
            return hf.PhaseState(data, jnp.zeros_like(data))

        def require_system(self, system):
            pass

    flow = hf.Flow(free(hf.GaussianKinetic()), AtRest(), 1.0, hf.NormalPrior())
    data = jnp.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(flow.sample_state(jr.key(0), data, jnp.ones(2)).position, data)
    assert not flow.is_linear
