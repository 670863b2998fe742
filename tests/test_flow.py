"""The flow: trajectories, the arrow of time, and the heat flow that a reflection is."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from systems import FLOWS, array

import hamflow as hf

STATE = hf.PhaseState(jnp.array([0.4, -0.3]), jnp.array([1.1, 0.6]))


@pytest.mark.parametrize("name", ["diffusion", "oscillation", "reflection, bounds a coordinate", "torus", "driven"])
def test_a_trajectory_is_evolve_at_each_time(name, x64):
    flow = FLOWS[name].build()
    state = jax.tree.map(lambda leaf: jnp.abs(jnp.asarray(leaf, float)), STATE)
    for t0 in (0.0, 0.7):
        for ts in (np.linspace(-0.5, 2.0, 4), np.linspace(2.0, -0.5, 4), np.full(4, 1.3)):
            path = flow.trajectory(state, ts, t0)
            for i, t in enumerate(ts):
                one = flow.evolve(state, t, t0)
                np.testing.assert_allclose(path.position[i], one.position, atol=1e-13)
                np.testing.assert_allclose(path.momentum[i], one.momentum, atol=1e-13)


def test_trajectories_of_no_time_and_of_one():
    assert hf.oscillation().trajectory(STATE, jnp.zeros(0)).position.shape == (0, 2)
    np.testing.assert_array_equal(hf.oscillation().trajectory(STATE, jnp.zeros(1)).position[0], STATE.position)


def test_evolve_takes_any_scalar_time():
    flow = hf.oscillation()
    expected = flow.evolve(STATE, 0.5)
    for time in (0.5, np.float64(0.5), np.float32(0.5), np.array(0.5), jnp.array(0.5)):
        np.testing.assert_allclose(flow.evolve(STATE, time).position, expected.position, rtol=1e-6)
    whole = flow.evolve(STATE, 1)
    np.testing.assert_allclose(flow.evolve(STATE, jnp.array(1)).position, whole.position)


def test_sample_state_starts_at_the_data_and_depends_on_the_key():
    data, flow = np.random.default_rng(0).uniform(-0.9, 0.9, (4, 2)).astype(np.float32), hf.reflection()
    first, again, other = (flow.sample_state(jr.key(k), data, jnp.zeros(4)) for k in (1, 1, 2))
    np.testing.assert_allclose(first.position, data, atol=2e-7)  # a fold rounds
    np.testing.assert_array_equal(first.momentum, again.momentum)
    assert np.all(np.asarray(first.momentum) != np.asarray(other.momentum))
    assert len(np.unique(np.asarray(first.momentum))) == 8  # one draw a row and a coordinate


def test_rows_are_evolved_to_their_own_times(x64):
    flow, data = hf.oscillation(), np.zeros((3, 2)) + 0.3
    start, at = (flow.sample_state(jr.key(1), data, t) for t in (np.zeros(3), np.array([0.1, 0.9, 1.4])))
    for i, t in enumerate((0.1, 0.9, 1.4)):
        end = flow.evolve(jax.tree.map(lambda leaf, i=i: leaf[i], start), t)
        np.testing.assert_allclose(at.position[i], end.position, atol=1e-14)


def test_an_empty_batch():
    state = hf.oscillation().sample_state(jr.key(0), jnp.zeros((0, 2)), jnp.zeros(0))
    assert state.position.shape == state.momentum.shape == (0, 2)


# -- reflection is the heat flow with reflecting walls (THEORY, sections 4 and 6) -------------------------------------

FACTORS = {  # of Fourier mode n at T = .25, .5, 1, for L = 1 and s_p = 1
    1: (0.7346, 0.2912, 0.007192),
    2: (0.2912, 0.007192, 2.7e-9),
}


def moments(flow, start, t, mode, length, deviation):
    """E cos(n pi u_t / L) and E v_t sin(n pi u_t / L) over the momenta, by the trapezoidal rule in p.

    Both are smooth in p, walls or not, so 401 points reach rounding.
    """
    p = deviation * np.linspace(-9.0, 9.0, 401)
    weight = np.exp(-0.5 * (p / deviation) ** 2)
    lower = np.asarray(flow.system.domain.lower, float)
    states = jax.vmap(lambda p: flow.evolve(hf.PhaseState(jnp.asarray([start]), p[None]), t))(jnp.asarray(p))
    velocity = np.ravel(jax.vmap(flow.velocity)(states))
    angle = mode * np.pi * (np.ravel(states.position) - lower) / length
    return [np.sum(weight * f) / np.sum(weight) for f in (np.cos(angle), velocity * np.sin(angle))]


@pytest.mark.parametrize("mode", FACTORS)
def test_decay_of_the_fourier_modes_of_a_reflection(mode, x64):
    flow = hf.reflection(0.0, 1.0, 1.0)
    for t, expected in zip((0.25, 0.5, 1.0), FACTORS[mode], strict=True):
        at_wall, _ = moments(flow, 0.0, t, mode, 1.0, 1.0)  # the datum at u = 0 has c_n = 1
        assert at_wall == pytest.approx(expected, rel=2e-2 if expected < 1e-8 else 2e-4)
        elsewhere, _ = moments(flow, 0.3, t, mode, 1.0, 1.0)
        assert elsewhere == pytest.approx(
            np.cos(mode * np.pi * 0.3) * np.exp(-((mode * np.pi * t) ** 2) / 2), abs=1e-12
        )


def test_velocity_of_a_reflection_is_that_of_the_heat_flow(x64):
    """q V = (2 s^2 t / L) sum (n pi / L) c_n d_n sin(n pi u / L), so E v sin(n pi u / L) = s^2 t (n pi / L) c_n d_n.

    A velocity whose sign were not turned at the walls would fail this.
    """
    lower, upper, mass, start = -1.0, 1.5, 0.6, 0.2
    system = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(mass), hf.Box(lower, upper))
    flow = hf.Flow(system, hf.IndependentCoupling(), 3.0, hf.UniformPrior(lower, upper))
    length, s = upper - lower, 1.0 / np.sqrt(mass)  # velocities are N(0, 1 / m)
    for t in (0.4, 1.0):
        for n in (1, 2, 3):
            wave = n * np.pi / length
            c, d = np.cos(wave * (start - lower)), np.exp(-((wave * t * s) ** 2) / 2)
            cosine, sine = moments(flow, start, t, n, length, np.sqrt(mass))
            assert cosine == pytest.approx(c * d, abs=1e-12)
            assert sine == pytest.approx(s**2 * t * wave * c * d, abs=1e-12)


def test_diffusion_is_not_exact_for_other_data(x64):
    """The law at T has the data's own spread: with T = 1 and two points 2.4 apart, a fourth cumulant stays behind."""
    flow = hf.diffusion(1.0, 1.2)
    x = np.ravel(
        flow.sample_state(
            jr.key(3), FLOWS["oscillation"].data(np.random.default_rng(4), 20_000), jnp.ones(20_000)
        ).position
    )
    expected = -2.0 * 1.2**4  # of +-1.2 with even odds; noise adds none
    assert np.mean(x**4) - 3.0 * np.mean(x**2) ** 2 == pytest.approx(expected, abs=0.8)


def test_the_description_of_a_flow_without_coefficients_names_its_parts():
    with pytest.raises(
        ValueError, match=r"Hamiltonian\(ZeroPotential, GaussianKinetic, Box\) with IndependentCoupling"
    ):
        hf.reflection().coefficients(0.3)


def test_closed_forms_of_evolve_by_hand(x64):
    """x_t = cos(wt) x_0 + sin(wt)/w p_0 and v_t = -w sin(wt) x_0 + cos(wt) p_0, and the straight lines."""
    state, t, w = hf.PhaseState(array(0.4, -0.3), array(1.1, 0.6)), 0.7, 1.5
    end = hf.oscillation(w).evolve(state, t)
    x, p = np.asarray(state.position), np.asarray(state.momentum)
    np.testing.assert_allclose(end.position, np.cos(w * t) * x + np.sin(w * t) / w * p, atol=1e-15)
    np.testing.assert_allclose(end.momentum, -w * np.sin(w * t) * x + np.cos(w * t) * p, atol=1e-15)
    np.testing.assert_allclose(hf.diffusion().evolve(state, t).position, x + t * p, atol=1e-15)
    np.testing.assert_allclose(hf.reflection(-0.5, 0.5).evolve(state, t).position, [0.5 - 0.67, 0.12], atol=1e-15)
