"""Every integrator as a solver of diffrax: fixed steps, times in between, events, walls, and what is refused."""

import math

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from mechanics import FORCES, METHODS, ORDERS, PROBLEMS, Pendulum, reference, start, unit

import hamflow as hf


def solve(system, method, state, t0, t1, dt0, **options):
    """Times as arrays: other times and steps, and the way back, are the same compiled program."""
    return compiled_solve(system, method, state, *(jnp.asarray(t, float) for t in (t0, t1, dt0)), **options)


@eqx.filter_jit
def compiled_solve(system, method, state, t0, t1, dt0, **options):
    return diffrax.diffeqsolve(diffrax.ODETerm(system.vector_field), method, t0, t1, dt0, state, **options)


@pytest.mark.parametrize("name", METHODS)
def test_diffeqsolve_takes_the_steps_of_integrate(name, x64):
    build, (x, p) = PROBLEMS["sway"]
    for t0, t1 in ((0.3, 2.3), (2.3, 0.3)):
        solution = solve(build(), METHODS[name](), start(x, p), t0, t1, (t1 - t0) / 20)
        end = hf.integrate(build(), start(x, p), t0, t1, 20, METHODS[name]())
        np.testing.assert_allclose(solution.ys.position[-1], end.position, rtol=1e-12)
        np.testing.assert_allclose(solution.ys.momentum[-1], end.momentum, rtol=1e-12)


@pytest.mark.parametrize("name", [n for n in METHODS if n != "McLachlan2"])
def test_dense_output_has_the_order_of_the_method(name, x64):
    """Between the steps, against scipy; and its ends are the steps themselves."""
    build, (x, p) = PROBLEMS["Henon-Heiles"]
    times = np.array([0.13, 0.55, 1.37])
    errors = []
    for n in (12, 24):
        saved = solve(
            build(), METHODS[name](), start(x, p), 0.0, 1.5, 1.5 / n, saveat=diffrax.SaveAt(ts=times, dense=True)
        )
        exact = [reference(FORCES["Henon-Heiles"], x, p, t) for t in times]
        got = np.concatenate([saved.ys.position, saved.ys.momentum], axis=1)
        errors.append(np.abs(got - np.array([np.concatenate(e) for e in exact])).max())
    assert math.log2(errors[0] / errors[1]) > ORDERS[name] - 0.5
    end = hf.integrate(build(), start(x, p), 0.0, 1.5, 24, METHODS[name]())
    np.testing.assert_allclose(saved.evaluate(1.5).position, end.position, rtol=1e-12)


@pytest.mark.parametrize("name", ["Leapfrog", "Yoshida6", "Yoshida8"])
def test_dense_output_backward_in_time(name, x64):
    build, (x, p) = PROBLEMS["sway"]
    times = np.array([2.0, 1.21, 0.4])
    method = METHODS[name]()
    saved = solve(build(), method, start(x, p), 2.3, 0.3, -0.02, saveat=diffrax.SaveAt(ts=times))
    exact = [reference(FORCES["sway"], x, p, t, 2.3)[0][0] for t in times]
    np.testing.assert_allclose(saved.ys.position[:, 0], exact, atol=3e-4 if name == "Leapfrog" else 1e-9)


@pytest.mark.parametrize("domain", ["box", "torus"])
def test_dense_output_across_folds(domain, x64):
    """Free motion is exact, so what is read between two steps is too, walls or seam in between."""
    box = hf.Box(-1.0, 1.5) if domain == "box" else hf.Torus(-1.0, 1.5)
    system = unit(hf.ZeroPotential(), box)
    flow = hf.Flow(system, hf.IndependentCoupling(), 3.0, hf.UniformPrior(-1.0, 1.5))
    state, times = start([0.2, 1.5], [2.3, -1.7]), np.linspace(0.05, 2.95, 23)
    for method in (hf.Leapfrog(), hf.Yoshida6(), *([hf.ImplicitMidpoint()] if domain == "torus" else [])):
        saved = solve(system, method, state, 0.0, 3.0, 0.3, saveat=diffrax.SaveAt(ts=times))
        exact = flow.trajectory(state, jnp.asarray(times))
        np.testing.assert_allclose(saved.ys.position, exact.position, atol=1e-9)
        np.testing.assert_allclose(saved.ys.momentum, exact.momentum, atol=1e-9)


def test_an_event_ends_the_motion_where_it_happens(x64):
    """The pendulum from pi/2 at rest passes the bottom at K(1/sqrt 2) = 1.8540746773 (complete elliptic integral)."""
    event = diffrax.Event(lambda t, y, args, **rest: y.position[0], optimistix.Newton(1e-12, 1e-12))
    solution = solve(unit(Pendulum()), hf.Yoshida6(), start([math.pi / 2], [0.0]), 0.0, 10.0, 0.05, event=event)
    assert float(solution.ts[-1]) == pytest.approx(1.854074677301372, abs=1e-9)
    assert float(solution.ys.momentum[-1, 0]) == pytest.approx(-math.sqrt(2.0), abs=1e-8)


def test_a_start_outside_the_walls_is_refused():
    system = unit(Pendulum(), hf.Box(-0.8, 0.9))
    with pytest.raises(eqx.EquinoxRuntimeError, match="the start is outside the Box"):
        diffrax.diffeqsolve(diffrax.ODETerm(system.vector_field), hf.Leapfrog(), 0.0, 1.0, 0.1, start([3.0], [0.0]))


def test_single_precision_stays_single():
    solution = solve(unit(Pendulum()), hf.Suzuki4(), start([1.0], [0.0]), 0.0, 1.0, 0.1)
    assert solution.ys.position.dtype == jnp.float32
    assert hf.integrate(unit(Pendulum()), start([1.0], [0.0]), 0, 1, 10).position.dtype == jnp.float32


def test_what_diffrax_hands_over_must_be_a_system():
    system, state = unit(Pendulum()), start([1.0], [0.0])
    bare = diffrax.ODETerm(lambda t, y, args: system.vector_field(t, y))
    with pytest.raises(TypeError, match=r"use diffrax\.ODETerm\(system\.vector_field\)"):
        diffrax.diffeqsolve(bare, hf.Leapfrog(), 0.0, 1.0, 0.1, state)
    with pytest.raises(TypeError, match="PhaseState"):
        solve(system, hf.Leapfrog(), jnp.ones(2), 0.0, 1.0, 0.1)
    with pytest.raises(ValueError, match=r"is for a Flow; diffeqsolve takes its steps from dt0"):
        solve(system, hf.Leapfrog(step_size=0.1), state, 0.0, 1.0, 0.1)
    mixed = hf.NonSeparableHamiltonian(lambda t, x, p: 0.5 * jnp.sum(p**2 * (1.0 + x**2)))
    with pytest.raises(TypeError, match=r"use hamflow\.ImplicitMidpoint"):
        solve(mixed, hf.Leapfrog(), state, 0.0, 1.0, 0.1)
