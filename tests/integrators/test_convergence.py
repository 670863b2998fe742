"""Orders, published errors, conservation over long times, and the way back."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mechanics import FORCES, METHODS, ORDERS, PROBLEMS, HenonHeiles, Kepler, Pendulum, reference, start, unit

import hamflow as hf
from hamflow.integrators.stages import kick

# Steps for a time of 2 at which the error is well above rounding and the leading term rules.
STEPS = {1: (200, 400), 2: (40, 80), 4: (20, 40), 6: (16, 32), 8: (20, 40)}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", METHODS)
def test_order_of_convergence(name, problem, x64):
    """From Runge-Kutta of another library; these problems have no symmetry that hides an order."""
    build, (x, p) = PROBLEMS[problem]
    exact = np.concatenate(reference(FORCES[problem], x, p, 2.0))
    errors = []
    for n in STEPS[ORDERS[name]]:
        end = hf.integrate(build(), start(x, p), 0.0, 2.0, n, METHODS[name]())
        errors.append(np.linalg.norm(np.concatenate([end.position, end.momentum]) - exact))
    assert errors[1] > 1e-14
    assert abs(math.log2(errors[0] / errors[1]) - ORDERS[name]) < 0.35
    assert METHODS[name]().method_order() == ORDERS[name]


def test_pendulum_at_one(x64):
    end = hf.integrate(unit(Pendulum()), start([math.pi / 2], [0.0]), 0.0, 1.0, 20, hf.Yoshida8())
    assert abs(float(end.position[0]) - 1.0749116843722) < 2e-12


@pytest.mark.parametrize(
    ("name", "error"),
    [("SymplecticEuler", 2.31e-2), ("Leapfrog", 9.58e-5), ("Yoshida4", 7.60e-7), ("Suzuki4", 1.07e-8)],
)
def test_errors_on_the_oscillator(name, error, x64):
    """k = .5, q = .5, p = 0, ten steps of .1: the numbers of THEORY, section 6."""
    system = unit(hf.HarmonicPotential(math.sqrt(0.5)))
    end = hf.integrate(system, start([0.5], [0.0]), 0.0, 1.0, 10, METHODS[name]())
    exact = 0.5 * math.cos(math.sqrt(0.5))
    assert abs(float(end.position[0]) - exact) / 0.5 == pytest.approx(error, rel=5e-3)


@pytest.mark.parametrize("name", METHODS)
def test_stages_of_a_step_sum_to_one_and_the_clock_fits(name):
    stages = METHODS[name]().stages()
    for action in {stage.action for stage in stages}:
        assert sum(s.coefficient for s in stages if s.action == action) == pytest.approx(1.0, abs=1e-14)
    reached = 0.0  # a kick asks at the time that the drifts have reached, the rest in the middle of its own span
    for stage in stages:
        span = 0.0 if stage.action is kick else stage.coefficient
        assert stage.time == pytest.approx(reached + span / 2.0, abs=1e-14)
        reached += span


@pytest.mark.parametrize("name", METHODS)
def test_the_inverse_retraces(name, x64):
    build, (x, p) = PROBLEMS["sway"]
    method = METHODS[name]()
    end = hf.integrate(build(), start(x, p), 0.3, 2.3, 25, method)
    back = hf.integrate(build(), end, 2.3, 0.3, 25, method.inverse())
    np.testing.assert_allclose(back.position, x, atol=1e-13)
    np.testing.assert_allclose(back.momentum, p, atol=1e-13)
    assert method.inverse().inverse().stages() == method.stages()
    if name == "SymplecticEuler":  # the one that is not symmetric: the step turned round is not its inverse
        turned = hf.integrate(build(), end, 2.3, 0.3, 25, method)
        assert abs(float(turned.position[0]) - x[0]) > 1e-2


@pytest.mark.parametrize("name", ["SymplecticEuler", "Leapfrog", "Suzuki4", "Yoshida8", "ImplicitMidpoint"])
def test_merged_steps_are_the_steps_one_by_one(name, x64):
    build, (x, p) = PROBLEMS["sway"]
    system, method = build(), METHODS[name]()
    state = start(x, p)
    for i in range(6):
        state = method.advance(system, 0.3 + 0.25 * i, state, 0.25)
    for n in (6, 3, 1):
        end = hf.integrate(system, start(x, p), 0.3, 0.3 + 0.25 * n, n, method)
        saved = hf.integrate(system, start(x, p), 0.3, 0.3 + 0.25 * n, n, method, save_every=1)
        np.testing.assert_allclose(saved.states.position[-1], end.position, rtol=1e-13)
        assert saved.times.shape == (n + 1,)
    np.testing.assert_allclose(
        hf.integrate(system, start(x, p), 0.3, 1.8, 6, method).position, state.position, rtol=1e-13
    )


@pytest.mark.parametrize("name", ["Leapfrog", "Yoshida4", "BlanesMoan4"])
def test_energy_does_not_drift_over_a_hundred_thousand_steps(name, x64):
    """The error of a symplectic method stays in a band. A method of order 4 that is not symplectic drifts."""
    system = unit(HenonHeiles())
    first = start([0.1, 0.25], [0.3, -0.2])
    run = hf.integrate(
        system, first, 0.0, 1e4, 100_000, METHODS[name](), save_every=50, observables=system.energy, save_states=False
    )
    error = np.asarray(run.observables) - float(system.energy(0.0, first))
    assert run.states is None
    early, late = np.abs(error[:200]).max(), np.abs(error[-200:]).max()
    assert late < 1.5 * early
    slope = np.polyfit(np.asarray(run.times), error, 1)[0]
    assert abs(slope) * 1e4 < 0.1 * early

    def runge_kutta(z, _):
        def f(z):
            return system.vector_field(0.0, z)

        def step(k, h):
            return jax.tree.map(lambda a, b: a + h * b, z, k)

        k1 = f(z)
        k2 = f(step(k1, 0.05))
        k3 = f(step(k2, 0.05))
        k4 = f(step(k3, 0.1))
        return jax.tree.map(lambda z, a, b, c, d: z + (a + 2 * b + 2 * c + d) / 60.0, z, k1, k2, k3, k4), None

    drifted = eqx.filter_jit(lambda z: jax.lax.scan(runge_kutta, z, None, length=100_000)[0])(first)
    assert abs(float(system.energy(0.0, drifted) - system.energy(0.0, first))) > 1e-4


def kepler(eccentricity, t):
    """Position and velocity on the unit orbit from its near point, by Kepler's equation."""
    anomaly = t
    for _ in range(50):
        anomaly -= (anomaly - eccentricity * math.sin(anomaly) - t) / (1.0 - eccentricity * math.cos(anomaly))
    rate = 1.0 / (1.0 - eccentricity * math.cos(anomaly))
    b = math.sqrt(1.0 - eccentricity**2)
    position = [math.cos(anomaly) - eccentricity, b * math.sin(anomaly)]
    return position, [-math.sin(anomaly) * rate, b * math.cos(anomaly) * rate]


def test_kepler(x64):
    """The exact orbit, its angular momentum to rounding, and its energy in a band over a hundred periods."""
    system, first = unit(Kepler()), start(*kepler(0.5, 0.0))
    end = hf.integrate(system, first, 0.0, 1.7, 200, hf.Yoshida8())
    exact = kepler(0.5, 1.7)
    np.testing.assert_allclose(end.position, exact[0], atol=1e-10)
    np.testing.assert_allclose(end.momentum, exact[1], atol=1e-10)

    def kept(t, state):
        (x, y), (u, v) = state.position, state.momentum
        return x * v - y * u, system.energy(t, state)

    periods = 2.0 * math.pi * 100
    run = hf.integrate(system, first, 0.0, periods, 40_000, hf.Yoshida4(), save_every=40, observables=kept)
    spin, energy = map(np.asarray, run.observables)
    np.testing.assert_allclose(spin, spin[0], rtol=1e-11)
    assert np.abs(energy[-100:] + 0.5).max() < 1.2 * np.abs(energy[:100] + 0.5).max() < 1e-3


def test_friction_and_force_are_followed_together(x64):
    """x'' = -x - g x': the damped oscillator in closed form, and its phase volume shrinks by exp(-g t)."""
    friction, t = 0.4, 1.5
    system = hf.ForcedSystem(hf.HarmonicPotential(1.0), hf.GaussianKinetic(), friction=friction)
    w = math.sqrt(1.0 - friction**2 / 4.0)
    x, p = 0.7, -0.3
    decay = math.exp(-friction * t / 2.0)
    exact = decay * (x * math.cos(w * t) + (p + friction * x / 2.0) / w * math.sin(w * t))

    def end(z, n):
        last = hf.integrate(system, hf.PhaseState(z[:1], z[1:]), 0.0, t, n, hf.Suzuki4())
        return jnp.concatenate([last.position, last.momentum])

    z = jnp.array([x, p], float)
    errors = [abs(float(end(z, n)[0]) - exact) for n in (5, 10)]
    assert errors[0] / errors[1] == pytest.approx(16.0, rel=0.15)
    assert float(jnp.linalg.det(jax.jacfwd(end)(z, 10))) == pytest.approx(math.exp(-friction * t), rel=1e-12)
    assert system.propagator() is None
    with pytest.raises(TypeError, match="not with friction"):
        hf.integrate(system, start([x], [p]), 0.0, t, 10, hf.BlanesMoan4())
