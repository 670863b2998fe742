"""The thermostat: against the laws of linear stochastic equations, and against the leapfrog without a bath.

Keys are fixed. Statistics are of independent chains, at 4.5 standard errors: a false alarm in 150,000 per number.
"""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
from own_systems import Driven
from systems import Swirl, array

import hamflow as hf

CHAINS = 4000


def well(mass=1.0, frequency=1.3):
    return hf.Hamiltonian(hf.HarmonicPotential(frequency), hf.GaussianKinetic(mass))


def ends(system, position, momentum, t1, num_steps, seed=0, **options):
    """The last (positions, momenta) of many chains from one start."""
    state = hf.PhaseState(position, momentum)
    run = jax.vmap(lambda key: hf.langevin(system, state, t1, num_steps, key, **options))
    end = run(jr.split(jr.key(seed), CHAINS))
    return np.asarray(end.position, float), np.asarray(end.momentum, float)


def assert_covariance(draws, expected, slack=0.0):
    """Every second moment within 4.5 of its standard errors (of normal draws), and `slack` for the step."""
    got = draws.T @ draws / len(draws)
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(draws))
    assert np.all(np.abs(got - expected) < 4.5 * error + slack)


@pytest.mark.parametrize("solver", [None, diffrax.ShOULD(), diffrax.QUICSORT()])
def test_the_stationary_law_of_a_well(solver):
    """<x^2> = T / k and <p^2> = m T, from a start that is nowhere near; the step of .1 costs less than 1 %."""
    mass, temperature, stiffness = np.array([0.5, 2.0]), 0.7, 1.3**2
    x, p = ends(
        well(array(*mass)), array(2.0, -2.0), array(0.0, 0.0), 15.0, 150, friction=1.2, temperature=temperature,
        solver=solver,
    )  # fmt: skip
    expected = np.diag([temperature / stiffness] * 2 + list(mass * temperature))
    assert_covariance(np.concatenate([x, p], 1), expected, 0.01 * np.max(expected))
    assert np.all(np.abs(np.mean(x, 0)) < 4.5 * np.sqrt(temperature / stiffness / CHAINS))


def test_weak_friction_does_not_heat():
    """A step of half a radian and a friction of .02: the leapfrog inside keeps <p^2> = T, and <x^2> to h^2 / 4."""
    x, p = ends(well(frequency=1.0), array(1.0), array(0.0), 250.0, 500, friction=0.02)
    assert_covariance(p, np.eye(1))
    assert_covariance(x, np.eye(1) / (1 - 0.5**2 / 4), 0.02)


def test_a_bare_force_has_its_own_law():
    """F = -k x + a turn, which no energy has: the stationary covariance solves A S + S A^T = -2 friction T."""
    k, turn, friction, temperature = 1.2, 0.5, 1.5, 0.8

    class Stirred(hf.AbstractForce):
        swirl: Swirl

        def force(self, t, position):
            return self.swirl.force(t, position) - k * position

    system = hf.ForcedSystem(Stirred(Swirl(turn)), hf.GaussianKinetic(2.0))
    x, p = ends(system, array(0.0, 0.0), array(0.0, 0.0), 15.0, 150, friction=friction, temperature=temperature)
    drift = np.block(
        [
            [np.zeros((2, 2)), np.eye(2) / 2.0],
            [-k * np.eye(2) + turn * np.array([[0, -1], [1, 0]]), -friction * np.eye(2)],
        ]
    )
    noise = np.diag([0.0, 0.0, 1.0, 1.0]) * 2 * friction * 2.0 * temperature
    expected = scipy.linalg.solve_continuous_lyapunov(drift, -noise)
    assert abs(expected[0, 3]) > 0.1  # the bath turns with it
    assert_covariance(np.concatenate([x, p], 1), expected, 0.01 * np.max(expected))


@pytest.mark.parametrize("friction", [0.4, (0.3, 1.1)])
def test_the_law_at_a_time(friction):
    """Mean and covariance of a linear equation from a fixed start, by the matrix exponential."""
    mass, k, temperature, t = np.array([0.5, 2.0]), 1.3**2, 0.7, 1.7
    x, p = ends(
        well(array(*mass)), array(1.0, -0.5), array(0.3, 0.8), t, 100, temperature=temperature,
        friction=friction if isinstance(friction, float) else array(*friction),
    )  # fmt: skip
    for i, rate in enumerate(np.broadcast_to(friction, 2)):
        drift = np.array([[0.0, 1.0 / mass[i]], [-k, -rate]])
        mean = scipy.linalg.expm(drift * t) @ [[1.0, -0.5][i], [0.3, 0.8][i]]
        stationary = np.diag([temperature / k, mass[i] * temperature])
        decay = scipy.linalg.expm(drift * t)
        expected = stationary - decay @ stationary @ decay.T
        draws = np.stack([x[:, i], p[:, i]], 1) - mean
        assert np.all(np.abs(np.mean(draws, 0)) < 4.5 * np.sqrt(np.diag(expected) / CHAINS) + 1e-3)
        assert_covariance(draws, expected, 0.005)


@pytest.mark.parametrize("system", [well(0.7), hf.Hamiltonian(Driven(0.9), hf.GaussianKinetic(0.7))])
def test_without_friction_it_is_the_leapfrog(system, x64):
    """Kicks and drifts, step for step, the clock of a driven force included; so energy is kept as there."""
    start = hf.PhaseState(array(0.4, -0.9), array(0.3, 0.8))
    end = hf.langevin(system, start, 3.3, 30, jr.key(0), friction=0.0, t0=0.6)
    expected = hf.integrate(system, start, 0.6, 3.3, 30)
    np.testing.assert_allclose(end.position, expected.position, atol=1e-12)
    np.testing.assert_allclose(end.momentum, expected.momentum, atol=1e-12)


def test_without_friction_energy_stays(x64):
    start = hf.PhaseState(array(0.4, -0.9), array(0.3, 0.8))
    system = well()
    energies = [
        float(system.energy(0.0, hf.langevin(system, start, 50.0, 5000, jr.key(0), friction=0.0, solver=solver)))
        for solver in (None, diffrax.QUICSORT())
    ]
    np.testing.assert_allclose(energies, float(system.energy(0.0, start)), rtol=1e-4)


def test_the_key_is_the_noise():
    start = hf.PhaseState(array(0.4), array(0.3))
    draws = [hf.langevin(well(), start, 1.0, 10, jr.key(i), friction=1.0).position for i in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0].dtype == jnp.float32
    assert draws[0].shape == (1,)


def test_terms_for_diffrax_itself(x64):
    """With a path that knows its noise again: saved times, and gradients backward, against finite differences."""
    system, start = well(0.7), hf.PhaseState(array(0.4, -0.9), array(0.3, 0.8))
    path = diffrax.VirtualBrownianTree(0.0, 2.0, 1e-4, (2,), jr.key(0), diffrax.SpaceTimeLevyArea)

    def solve(friction):
        (x, _), (v, _) = diffrax.diffeqsolve(
            hf.langevin_terms(system, friction, 0.6, path),
            diffrax.ALIGN(),
            0.0,
            2.0,
            0.1,
            hf.langevin_state(system, start),
            saveat=diffrax.SaveAt(ts=jnp.linspace(0.0, 2.0, 5)),
            max_steps=32,
        ).ys
        return jnp.sum(x[-1] ** 2), (x, jax.vmap(system.kinetic.momentum)(v))

    reach = jax.jit(jax.value_and_grad(solve, has_aux=True))  # compiled once: that is what takes the time
    ((above, _), _), ((below, _), _), ((_, (x, p)), gradient) = (
        reach(jnp.asarray(0.8 + s, float)) for s in (1e-5, -1e-5, 0.0)
    )
    assert x.shape == p.shape == (5, 2)
    np.testing.assert_allclose((x[0], p[0]), (start.position, start.momentum), rtol=1e-15)
    assert float(gradient) == pytest.approx(float(above - below) / 2e-5, rel=1e-6)


def test_what_does_not_fit_is_refused():
    start, zero = hf.PhaseState(array(0.4, 0.2), array(0.3, 0.1)), hf.ZeroPotential()

    def run(system, t1=1.0, num_steps=4, **options):
        return hf.langevin(system, start, t1, num_steps, jr.key(0), **{"friction": 1.0} | options)

    for domain in (hf.Box(-1.0, 1.0), hf.Torus(-1.0, 1.0)):
        with pytest.raises(ValueError, match="cannot fold one at the ends of"):
            run(hf.Hamiltonian(zero, hf.GaussianKinetic(), domain))
    with pytest.raises(ValueError, match="a number or diagonal, and this one is a matrix"):
        run(well(array([2.0, 0.6], [0.6, 0.9])))
    with pytest.raises(TypeError, match="a GaussianKinetic, got RelativisticKinetic"):
        run(hf.Hamiltonian(zero, hf.RelativisticKinetic()))
    with pytest.raises(ValueError, match="a friction of its own"):
        run(hf.ForcedSystem(zero, hf.GaussianKinetic(), friction=0.1))
    with pytest.raises(TypeError, match="use a Hamiltonian or a ForcedSystem"):
        run(hf.NonSeparableHamiltonian(hf.MagneticEnergy(zero, 1.0)))
    with pytest.raises(TypeError, match=r"solver must be diffrax\.ALIGN"):
        run(well(), solver=diffrax.ShARK())
    for options, message in (
        ({"friction": -1.0}, "friction must not be negative"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": array(1.0, 1.0)}, "temperature must be one number"),
        ({"t1": 0.0}, "t1 must be after t0"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"friction": array(1.0, 1.0, 1.0)}, "friction has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            run(well(), **options)


def test_a_state_that_runs_away_is_an_error():
    start = hf.PhaseState(array(1.0), array(0.0))
    with pytest.raises(RuntimeError, match="non-finite"):
        hf.langevin(well(frequency=1e6), start, 100.0, 100, jr.key(0), friction=0.1)
