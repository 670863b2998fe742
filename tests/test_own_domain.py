"""A domain by subclassing (`own_domains.Wedge`), against a particle that is followed from wall to wall."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from own_domains import Wedge
from systems import array, spd

import hamflow as hf

ORDERS = pytest.mark.parametrize("order", [1, 2, 3, 7])


def bounce(order, position, velocity, time):
    """Wall after wall: go straight to the nearest wall ahead, reverse the normal part of the velocity, go on."""
    angle = np.pi / order
    normals = np.array([[0.0, 1.0], [np.sin(angle), -np.cos(angle)]])  # inward
    x, v, walls, last = np.array(position), np.array(velocity), 0, None
    while True:
        distance, speed = normals @ x, normals @ v
        hits = [(distance[i] / -speed[i], i) for i in (0, 1) if speed[i] < 0 and i != last]
        when, wall = min(hits, default=(np.inf, None))
        if when >= time:
            return x + time * v, v, walls
        x, time = x + when * v, time - when
        v, walls, last = v - 2 * (normals[wall] @ v) * normals[wall], walls + 1, wall


def inside(order, rng):
    angle, radius = rng.uniform(0.02, 0.98) * np.pi / order, rng.uniform(0.2, 2.0)
    return radius * np.array([np.cos(angle), np.sin(angle)])


@ORDERS
def test_a_straight_line_folded_is_a_particle_between_walls(order, x64):
    domain, rng, most = Wedge(order), np.random.default_rng(order), 0
    step = jax.jit(domain.step)
    for _ in range(200):
        start, velocity, time = inside(order, rng), rng.normal(size=2), rng.uniform(0.0, 8.0)
        end, turned, walls = bounce(order, start, velocity, time)
        x, p = step(array(*start), array(*velocity), array(*(time * velocity)))
        np.testing.assert_allclose(x, end, atol=1e-12)
        np.testing.assert_allclose(p, turned, atol=1e-12)
        assert bool(domain.contains(x))
        most = max(most, walls)
    assert most == order  # a line through the plane crosses no more of the mirrors, and some cross all


@ORDERS
def test_extend_undoes_fold_on_vectors(order, x64):
    domain, rng = Wedge(order), np.random.default_rng(order)
    for _ in range(30):
        x, v = array(*rng.normal(size=2)), array(*rng.normal(size=2))
        folded, carried = domain.fold(x, v)
        np.testing.assert_allclose(domain.extend(x, carried), v, atol=1e-14)
        _, along = jax.jvp(lambda x, v=v: domain.fold(x, v)[0], (x,), (v,))
        np.testing.assert_allclose(along, carried, atol=1e-14)
        again = domain.fold(folded, carried)
        np.testing.assert_array_equal(again, (folded, carried))
        assert float(jnp.linalg.norm(folded)) == pytest.approx(float(jnp.linalg.norm(x)), rel=1e-14)


def test_the_leapfrog_in_a_wedge_goes_there_and_back(x64):
    """Reversible across walls; energy swings by h^2 where the force is smooth across them, a pull to the corner."""
    system = hf.Hamiltonian(hf.HarmonicPotential(1.1), hf.GaussianKinetic(0.7), Wedge(3))
    start = hf.PhaseState(array(0.9, 0.5), array(-0.4, 1.1))
    end = hf.integrate(system, start, 0.0, 6.0, 300)
    back = hf.integrate(system, end, 6.0, 0.0, 300)
    np.testing.assert_allclose(back.position, start.position, atol=1e-11)
    np.testing.assert_allclose(back.momentum, start.momentum, atol=1e-11)
    assert float(system.energy(6.0, end)) == pytest.approx(float(system.energy(0.0, start)), rel=1e-3)
    plain = hf.integrate(hf.Hamiltonian(hf.HarmonicPotential(1.1), hf.GaussianKinetic(0.7)), start, 0.0, 6.0, 300)
    folded, turned = Wedge(3).fold(plain.position, plain.momentum)  # the pull has the symmetry of the walls
    np.testing.assert_allclose(end.position, folded, atol=1e-11)
    np.testing.assert_allclose(end.momentum, turned, atol=1e-11)
    assert float(jnp.max(jnp.abs(plain.position - folded))) > 0.1


def test_a_flow_in_a_wedge(x64):
    for kinetic in (hf.GaussianKinetic(), hf.RelativisticKinetic(0.5, 2.0)):
        system = hf.Hamiltonian(hf.ZeroPotential(), kinetic, Wedge(3))
        flow = hf.Flow(system, hf.IndependentCoupling(), 3.0, hf.NormalPrior())
        rng = np.random.default_rng(0)
        data = array(*(inside(3, rng) for _ in range(6)))
        state = hf.IndependentCoupling().sample(jr.key(0), data, system, flow.prior, 3.0)
        there = jax.vmap(flow.evolve, (0, None))(state, 2.9)
        back = jax.vmap(flow.evolve, (0, None, None))(there, 0.0, 2.9)
        np.testing.assert_allclose(back.position, state.position, atol=1e-12)
        np.testing.assert_allclose(back.momentum, state.momentum, atol=1e-12)
        before, after = (jax.vmap(system.energy, (None, 0))(0.0, s) for s in (state, there))
        np.testing.assert_allclose(after, before, rtol=1e-13)
        for i in range(6):
            velocity = np.asarray(kinetic.velocity(state.momentum[i]))
            np.testing.assert_allclose(there.position[i], bounce(3, data[i], velocity, 2.9)[0], atol=1e-12)


def test_a_start_outside_is_an_error():
    system = hf.Hamiltonian(hf.HarmonicPotential(1.1), hf.GaussianKinetic(), Wedge(3))
    for outside in (array(0.5, -0.1), array(-0.5, 0.2), array(0.1, 1.0), array(np.nan, 0.1)):
        state = hf.PhaseState(outside, array(0.0, 0.0))
        with pytest.raises(RuntimeError, match="the start is outside the Wedge"):
            hf.integrate(system, state, 0.0, 1.0, 2)
        free = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(), Wedge(3))
        with pytest.raises(RuntimeError, match="outside the Wedge of this flow"):
            hf.Flow(free, hf.IndependentCoupling(), 1.0, hf.NormalPrior()).evolve(state, 0.5)
    on_the_walls = (array(0.5, 0.0), 0.7 * array(np.cos(np.pi / 3), np.sin(np.pi / 3)), array(0.0, 0.0))
    assert all(bool(Wedge(3).contains(x)) for x in on_the_walls)


@pytest.mark.parametrize("mass", [lambda: array(0.5, 2.0), spd])
def test_slanted_walls_need_a_kinetic_energy_of_the_norm(mass):
    """A diagonal mass suits a box and not a wedge: a turned momentum would have another energy."""
    with pytest.raises(ValueError, match="Wedge turns"):
        hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(mass()), Wedge(3))
    with pytest.raises(ValueError, match="Wedge turns momenta round at its walls"):
        hf.NonSeparableHamiltonian(hf.MagneticEnergy(hf.ZeroPotential(), 1.0), Wedge(3))
    with pytest.raises(TypeError, match="no midpoint at the walls of Wedge"):
        hf.ImplicitMidpoint().require_system(hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(), Wedge(3)))


def test_which_kinetic_energies_are_isotropic():
    assert hf.GaussianKinetic(1.7).is_isotropic()
    assert hf.GaussianKinetic(array(1.7)[0]).is_isotropic()
    assert hf.RelativisticKinetic(0.5).is_isotropic()
    assert not hf.GaussianKinetic(array(0.5, 2.0)).is_isotropic()
    assert not hf.GaussianKinetic(spd()).is_isotropic()
    assert not any(domain.rotates_momentum for domain in (hf.Euclidean, hf.Box, hf.Torus))
