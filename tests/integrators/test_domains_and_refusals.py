"""Walls and tori under every method, saved runs, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies
from mechanics import METHODS, HenonHeiles, Pendulum, start, unit
from own_systems import Ripple

import hamflow as hf

SPLITTINGS = {name: method for name, method in METHODS.items() if name != "ImplicitMidpoint"}
LOWER, UPPER = -1.0, 1.5


def bounce(x, v, time):
    """Event by event, in Python's own floats: to the next wall, turn, and on."""
    while True:
        wall = UPPER if v > 0 else LOWER
        until = (wall - x) / v if v else float("inf")
        if until >= time:
            return x + v * time, v
        x, v, time = wall, -v, time - until


@given(
    x=strategies.one_of(strategies.sampled_from([LOWER, UPPER]), strategies.floats(LOWER, UPPER)),
    v=strategies.floats(-50.0, 50.0).filter(lambda v: abs(v) > 1e-3),
)
def test_free_motion_in_a_box_is_bouncing(x, v):
    """From a wall too, and over a hundred walls in ten steps."""
    with jax.enable_x64(True):
        end = hf.integrate(unit(hf.ZeroPotential(), hf.Box(LOWER, UPPER)), start([x], [v]), 0.0, 5.0, 10)
        position, velocity = bounce(x, v, 5.0)
        assert abs(float(end.position[0]) - position) < 1e-10
        near_a_wall = min(position - LOWER, UPPER - position) < 1e-9
        assert near_a_wall or float(end.momentum[0]) == pytest.approx(velocity)


@given(x=strategies.floats(LOWER, UPPER), v=strategies.floats(-1e4, 1e4))
def test_free_motion_on_a_torus_wraps(x, v):
    with jax.enable_x64(True):
        end = hf.integrate(unit(hf.ZeroPotential(), hf.Torus(LOWER, UPPER)), start([x], [v]), 0.0, 5.0, 10)
        turns = (float(end.position[0]) - x - 5.0 * v) / (UPPER - LOWER)
        assert abs(turns - round(turns)) < 1e-7
        assert LOWER <= float(end.position[0]) <= UPPER
        assert float(end.momentum[0]) == v


@pytest.mark.parametrize("domain", ["box", "torus"])
@pytest.mark.parametrize("name", SPLITTINGS)
def test_walls_and_seams_keep_energy_and_the_way_back(name, domain, x64):
    """With a force that vanishes at the walls, or is periodic."""
    box = hf.Box(LOWER, UPPER) if domain == "box" else hf.Torus(LOWER, UPPER)
    k = np.pi / 2.5 if domain == "box" else 2 * np.pi / 2.5
    system, method = unit(Ripple(jnp.array(k, float), LOWER), box), SPLITTINGS[name]()
    state = start([LOWER, 0.4, UPPER], [1.7, -2.2, 0.9])
    run = hf.integrate(system, state, 0.0, 20.0, 2000, method, save_every=100, observables=system.energy)
    assert np.all(jax.vmap(box.contains)(run.states.position))
    # Euler's energy errs by h |v . F| / 2 at each end: at most .1 with forces of 2.5 and speeds of 2 to 3.
    np.testing.assert_allclose(run.observables, run.observables[0], atol=0.1 if name == "SymplecticEuler" else 1e-3)
    end = jax.tree.map(lambda leaf: leaf[-1], run.states)
    back = hf.integrate(system, end, 20.0, 0.0, 2000, method.inverse())
    ends = np.asarray(back.position - state.position) / 2.5
    np.testing.assert_allclose(ends - (np.round(ends) if domain == "torus" else 0.0), 0.0, atol=1e-10)


def test_a_start_of_plain_numbers():
    z = hf.integrate(unit(Pendulum()), hf.PhaseState([1.0, 2], [0.0, 0.5]), 0.0, 1.0, 10)
    np.testing.assert_array_equal(
        z.position, hf.integrate(unit(Pendulum()), start([1, 2], [0, 0.5]), 0, 1.0, 10).position
    )


def test_a_number_of_steps_is_whole():
    z, system = start([1.0], [0.0]), unit(Pendulum())
    same = (hf.integrate(system, z, 0.0, 1.0, n).position[0] for n in (10, np.int64(10)))
    assert len(set(map(float, same))) == 1
    with pytest.raises(TypeError, match="num_steps must be a whole number, got True"):
        hf.integrate(system, z, 0.0, 1.0, True)


def test_saved_runs():
    system, state = unit(HenonHeiles()), start([0.1, 0.25], [0.3, -0.2])
    run = hf.integrate(
        system, state, 1.0, 3.0, 12, save_every=4, observables=lambda t, s: {"t": t, "H": system.energy(t, s)}
    )
    assert run.states.position.shape == (4, 2)
    np.testing.assert_allclose(run.times, [1.0, 1.0 + 2 / 3, 1.0 + 4 / 3, 3.0], rtol=1e-6)
    np.testing.assert_array_equal(run.observables["t"], run.times)
    np.testing.assert_array_equal(run.states.position[0], state.position)
    last = hf.integrate(system, state, 1.0, 3.0, 12)
    np.testing.assert_allclose(run.states.position[-1], last.position, rtol=1e-5)
    batch = jax.vmap(lambda s: hf.integrate(system, s, 1.0, 3.0, 12, save_every=12))(
        jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    )
    assert batch.states.momentum.shape == (2, 2, 2)


@pytest.mark.parametrize("step_size", [0.0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("method", [hf.Leapfrog, hf.ImplicitMidpoint, lambda s: hf.Splitting((0.5, 0.5), (1.0,), 2, s)])
def test_a_step_size_must_be_positive(method, step_size):
    with pytest.raises(ValueError, match="step_size must be positive and finite"):
        method(step_size)


@pytest.mark.parametrize("step_size", ["a", True, jnp.ones(2)])
def test_a_step_size_must_be_a_number(step_size):
    with pytest.raises(TypeError, match="step_size must be"):
        hf.Leapfrog(step_size)


_P = 1.0 / (4.0 - 4.0 ** (1.0 / 3.0))
LONG = {  # more stages than are unrolled, that do not alternate from kick to drift and back
    "Suzuki's, positions first": (
        (0.0, _P, _P, 1.0 - 4.0 * _P, _P, _P, 0.0),
        (_P / 2, _P, (1.0 - 3.0 * _P) / 2, (1.0 - 3.0 * _P) / 2, _P, _P / 2),
        4,
    ),
    "a hole": ((0.1, 0.1, 0.0, 0.3, 0.3, 0.1, 0.1), (0.1, 0.2, 0.2, 0.2, 0.2, 0.1), 1),
}


@pytest.mark.parametrize("adjoint", ["checkpoint", "reversible"])
@pytest.mark.parametrize("name", LONG)
def test_a_long_splitting_that_leaves_kicks_out(name, adjoint, x64):
    """Its order by halving the step, and its gradient by finite differences."""
    kicks, drifts, order = LONG[name]
    method, system, z = hf.Splitting(kicks, drifts, order), unit(Pendulum()), start([1.1], [0.3])
    exact = hf.integrate(system, z, 0.0, 1.0, 64, hf.Yoshida8()).position[0]

    def end(q, num_steps):
        state = hf.PhaseState(q[None], z.momentum)
        return hf.integrate(system, state, 0.0, 1.0, num_steps, method, adjoint).position[0]

    coarse, fine = (abs(float(end(z.position[0], n) - exact)) for n in (10, 20))
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.2)
    q, h = z.position[0], 1e-5
    finite = (end(q + h, 10) - end(q - h, 10)) / (2 * h)
    assert jax.grad(end)(q, 10) == pytest.approx(float(finite), rel=1e-8)


@pytest.mark.parametrize("order", [0, -2, 2.5, True, "two"])
def test_an_order_is_a_whole_number(order):
    with pytest.raises((ValueError, TypeError), match="order"):
        hf.Splitting((0.5, 0.5), (1.0,), order)


def test_a_splitting_of_ones_own():
    """Drift-kick-drift, as two tuples; and numbers that are none."""
    other = hf.Splitting((0.0, 1.0, 0.0), (0.5, 0.5), 2)
    end = hf.integrate(unit(Pendulum()), start([1.0], [0.3]), 0.0, 0.1, 1, other)
    x, p = 1.0 + 0.05 * 0.3, 0.3
    p -= 0.1 * np.sin(x)
    np.testing.assert_allclose([end.position[0], end.momentum[0]], [x + 0.05 * p, p], rtol=1e-6)
    with pytest.raises(ValueError, match="kicks must be one more than drifts, got 1 and 1"):
        hf.Splitting((1.0,), (1.0,), 1)
    with pytest.raises(ValueError, match=r"drifts must sum to 1, got 0\.9"):
        hf.Splitting((0.5, 0.5), (0.9,), 2)


SYSTEM, STATE = unit(Pendulum()), start([1.0], [0.0])
BOX = unit(Pendulum(), hf.Box(-1.0, 1.0))
MIXED = hf.NonSeparableHamiltonian(lambda t, x, p: 0.5 * jnp.sum(p**2 * (1.0 + x**2)))
LATTICE = {"adjoint": "reversible", "resolution": 1e-6}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hf.integrate(SYSTEM, STATE, 0.0, 1.0, 0), ValueError, "num_steps must be at least 1, got 0"),
        (lambda: hf.integrate(SYSTEM, STATE, 0.0, float("nan"), 5), ValueError, "t1 must be finite, got nan"),
        (
            lambda: hf.integrate(SYSTEM, STATE, 0.0, 1.0, 5, hf.Leapfrog(0.1)),
            ValueError,
            "is for a Flow; integrate takes",
        ),
        (
            lambda: hf.integrate(SYSTEM, STATE, 0.0, 1.0, 5, save_every=2),
            ValueError,
            "save_every must divide num_steps",
        ),
        (lambda: hf.integrate(SYSTEM, STATE, 0.0, 1.0, 5, save_states=False), ValueError, "need save_every"),
        (
            lambda: hf.integrate(SYSTEM, STATE, 0.0, 1.0, 5, save_every=1, save_states=False),
            ValueError,
            "saves nothing: give observables",
        ),
        (lambda: hf.integrate(MIXED, STATE, 0.0, 1.0, 5), TypeError, r"use hamflow\.ImplicitMidpoint\(\)"),
        (
            lambda: hf.integrate(BOX, STATE, 0.0, 1.0, 5, hf.ImplicitMidpoint()),
            TypeError,
            "no midpoint at the walls of Box",
        ),
        (lambda: hf.integrate(BOX, start([1.5], [0.0]), 0.0, 1.0, 5), RuntimeError, "the start is outside the Box"),
        (
            lambda: hf.integrate(SYSTEM, start([jnp.nan], [0.0]), 0.0, 1.0, 5),
            RuntimeError,
            "the state became non-finite",
        ),
        (
            lambda: hf.integrate(unit(HenonHeiles()), start([5.0, 5.0], [0.0, 0.0]), 0.0, 50.0, 50),
            RuntimeError,
            "the state became non-finite on the way",
        ),
        (
            lambda: hf.integrate(
                hf.Hamiltonian(Pendulum(), hf.RelativisticKinetic()), STATE, 0.0, 1.0, 5, hf.BlanesMoan4()
            ),
            TypeError,
            "keeps its order for a kinetic energy quadratic in p",
        ),
        (lambda: hf.integrate(SYSTEM, STATE, 0.0, 1.0, 5, resolution=1e-6), ValueError, 'needs adjoint="reversible"'),
        (
            lambda: hf.integrate(SYSTEM, STATE, 0.0, 1.0, 5, adjoint="reversible", resolution=0.0),
            ValueError,
            "resolution must be positive and finite",
        ),
        (lambda: hf.integrate(BOX, STATE, 0.0, 1.0, 5, **LATTICE), ValueError, "resolution needs a Euclidean domain"),
        (
            lambda: hf.integrate(SYSTEM, STATE, 0.0, 1.0, 5, hf.ImplicitMidpoint(), **LATTICE),
            ValueError,
            "resolution needs kicks and drifts",
        ),
        (
            lambda: hf.integrate(
                hf.ForcedSystem(Pendulum(), hf.GaussianKinetic(), friction=0.1), STATE, 0.0, 1.0, 5, **LATTICE
            ),
            ValueError,
            "without friction",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_implicit_step_that_has_no_solution_says_so():
    """dx/dt grows like x^2: over a step this long no midpoint exists."""
    system = hf.NonSeparableHamiltonian(lambda t, x, p: jnp.sum(p * x**2))
    with pytest.raises(RuntimeError, match="did not solve the equations of a step: take smaller steps"):
        hf.integrate(system, start([1.0], [1.0]), 0.0, 5.0, 1, hf.ImplicitMidpoint())


def flow(system=SYSTEM, integrator=None, horizon=1.0):
    return hf.Flow(system, hf.IndependentCoupling(), horizon, hf.NormalPrior(), integrator)


def test_flows_with_integrators():
    assert flow(integrator=hf.Leapfrog(0.3)).num_steps == 4
    assert flow(integrator=hf.Leapfrog(0.1)).num_steps == 10
    assert flow(integrator=hf.Leapfrog(7.0)).num_steps == 1
    assert not flow(unit(hf.ZeroPotential()), hf.Leapfrog(0.1)).is_linear
    with pytest.raises(ValueError, match="is not a linear flow"):
        flow(unit(hf.ZeroPotential()), hf.Leapfrog(0.1)).coefficients(0.5)
    with pytest.raises(ValueError, match=r"integrator=hamflow\.Leapfrog\(step_size=\.\.\.\)"):
        flow()
    with pytest.raises(ValueError, match=r"integrator Leapfrog\(\) needs a step size in a Flow"):
        flow(integrator=hf.Leapfrog())
    with pytest.raises(TypeError, match="integrator must be a hamflow integrator"):
        flow(integrator="leapfrog")
    with pytest.raises(TypeError, match="no midpoint at the walls"):
        flow(BOX, hf.ImplicitMidpoint(0.1))
    with pytest.raises(TypeError, match="horizon must be a known number with an integrator"):
        jax.jit(lambda t: flow(integrator=hf.Leapfrog(0.1), horizon=t).horizon)(1.0)
    with pytest.raises(RuntimeError, match="the state became non-finite"):
        flow(unit(HenonHeiles()), hf.Leapfrog(1.0), 50.0).evolve(start([5.0, 5.0], [0.0, 0.0]), 50.0)
