"""Times far from 0, in single precision: differences to all digits, or a refusal by name. Steps are counted anew."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_systems import Driven

import hamflow as hf
from hamflow._errors import ArgumentError

START = hf.PhaseState(jnp.array([1.0]), jnp.array([0.0]))
SPRING = hf.Hamiltonian(hf.HarmonicPotential(1.0), hf.GaussianKinetic())
UNIX = 1.7e9


@pytest.mark.parametrize("t0", [0.0, 1e8, UNIX, -UNIX, int(UNIX)])
def test_integrate_ends_at_the_cosine(t0):
    """x'' = -x from (1, 0) for a time of 5: cos 5 = .2837; leapfrog's own error is h^2 t / 24 = 2e-5."""
    end = hf.integrate(SPRING, START, t0, t0 + 5, 500)
    assert float(end.position[0]) == pytest.approx(math.cos(5.0), abs=1e-4)
    back = hf.integrate(SPRING, end, t0 + 5, t0, 500, adjoint="reversible")
    np.testing.assert_allclose(back.position, START.position, atol=1e-4)


def closed_form():
    return hf.Flow(SPRING, hf.IndependentCoupling(), math.pi / 2, hf.NormalPrior())


def stepped(horizon=10.0):
    return hf.Flow(SPRING, hf.IndependentCoupling(), horizon, hf.NormalPrior(), hf.Leapfrog(0.01))


@pytest.mark.parametrize("build", [closed_form, stepped])
@pytest.mark.parametrize("t0", [0.0, 1e8, UNIX])
def test_evolve_and_trajectory_count_from_the_start(build, t0):
    flow = build()
    assert float(flow.evolve(START, t0 + 5, t0).position[0]) == pytest.approx(math.cos(5.0), abs=1e-4)
    ts = t0 + np.linspace(0.0, 5.0, 6)
    path = flow.trajectory(START, ts, t0)
    np.testing.assert_allclose(path.position[:, 0], np.cos(ts - t0), atol=1e-4)


def test_forces_that_ask_for_the_time_are_refused():
    system = hf.Hamiltonian(Driven(0.7), hf.GaussianKinetic())
    flow = hf.Flow(system, hf.IndependentCoupling(), 2.0, hf.NormalPrior(), hf.Leapfrog(0.01))
    for call in (
        lambda: hf.integrate(system, START, UNIX, UNIX + 5, 500),
        lambda: flow.evolve(START, UNIX + 5, UNIX),
        lambda: flow.trajectory(START, UNIX + np.linspace(0.0, 1.0, 3), UNIX),
    ):
        with pytest.raises(ArgumentError, match=r"t0 and the times after it.*float32 cannot tell them apart.*float64"):
            call()
    near = hf.integrate(system, START, 100.0, 105.0, 500)  # what single precision resolves, it does
    assert bool(jnp.all(jnp.isfinite(near.position)))


def test_times_to_save_that_are_one_number_are_refused():
    with pytest.raises(ArgumentError, match=r"t0 is 1700000000\.0 and the times to save"):
        hf.integrate(SPRING, START, UNIX, UNIX + 5, 500, save_every=100)


def test_in_double_precision_all_of_it_works(x64):
    state = hf.PhaseState(jnp.array([1.0]), jnp.array([0.0]))
    system = hf.Hamiltonian(Driven(0.7), hf.GaussianKinetic())
    far = hf.integrate(system, state, UNIX, UNIX + 5, 500)
    # x'' = .7 cos t or the like: whatever the drive is, that of the same phase near 0.
    assert bool(jnp.all(jnp.isfinite(far.position)))
    trajectory = hf.integrate(SPRING, state, UNIX, UNIX + 5, 5000, save_every=1000)
    np.testing.assert_allclose(trajectory.states.position[:, 0], np.cos(np.asarray(trajectory.times) - UNIX), atol=1e-5)


def test_a_replaced_horizon_or_integrator_counts_its_own_steps():
    """x(20) = cos 20 = .4081, on a flow that was built for ten steps of 1 and has twenty steps now."""
    flow = hf.Flow(SPRING, hf.IndependentCoupling(), 10.0, hf.NormalPrior(), hf.Leapfrog(0.01))
    longer = eqx.tree_at(lambda f: f.horizon, flow, 20.0)
    assert (flow.num_steps, longer.num_steps) == (1000, 2000)
    assert float(longer.evolve(START, 20.0).position[0]) == pytest.approx(math.cos(20.0), abs=1e-3)
    finer = eqx.tree_at(lambda f: f.integrator, flow, hf.Leapfrog(0.005))
    assert finer.num_steps == 2000
    jitted = eqx.filter_jit(lambda flow: flow.evolve(START, 20.0).position[0])
    assert float(jitted(longer)) == pytest.approx(math.cos(20.0), abs=1e-3)


def test_a_traced_horizon_is_that_of_the_build_or_refused():
    flow = hf.Flow(SPRING, hf.IndependentCoupling(), jnp.asarray(10.0), hf.NormalPrior(), hf.Leapfrog(0.01))
    jitted = eqx.filter_jit(lambda flow: flow.evolve(START, 10.0).position[0])
    assert float(jitted(flow)) == pytest.approx(math.cos(10.0), abs=1e-3)
    changed = eqx.tree_at(lambda f: f.horizon, flow, jnp.asarray(20.0))
    with pytest.raises(RuntimeError, match=r"horizon is not 10\.0, for which this flow counted its 1000 steps"):
        jax.block_until_ready(jitted(changed))
    assert float(changed.evolve(START, 20.0).position[0]) == pytest.approx(math.cos(20.0), abs=1e-3)


def test_the_noise_scale_follows_a_replaced_horizon():
    """sigma = tan t grows up to pi / 2 and not beyond: past it log sigma is affine in the time."""
    flow = hf.Flow(SPRING, hf.IndependentCoupling(), 1.0, hf.NormalPrior())
    past = eqx.tree_at(lambda f: f.horizon, flow, 2.5)
    anew = hf.Flow(SPRING, hf.IndependentCoupling(), 2.5, hf.NormalPrior())
    t = jnp.linspace(0.1, 0.9, 5)
    np.testing.assert_allclose(past.noise_scale.log_sigma(t), anew.noise_scale.log_sigma(t))
    np.testing.assert_allclose(past.noise_scale.log_sigma(t), -3.6 + 4.8 * t / 2.5, rtol=1e-5)


def test_langevin_counts_from_the_start():
    """With hardly any friction and heat, cos 5; float32 has one number for both times."""
    end = hf.langevin(SPRING, START, UNIX + 5, 500, jax.random.key(0), friction=1e-6, temperature=1e-6, t0=UNIX)
    assert float(end.position[0]) == pytest.approx(math.cos(5.0), abs=0.02)


def test_degrees_of_freedom_that_were_replaced_decide():
    """Above 2 there is a variance and the flow is linear, below there is none."""
    flow = hf.poisson_flow(5.0, 3.0, 0.5)
    heavy = eqx.tree_at(lambda f: f.coupling.degrees_of_freedom, flow, 1.5)
    assert flow.is_linear
    assert not heavy.is_linear
