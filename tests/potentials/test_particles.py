"""Lennard-Jones clusters against known energies, absent particles, and the centre of mass."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
from jaxtyping import TypeCheckError
from systems import array

import hamflow as hf

T = jnp.zeros(())


def icosahedron():
    """Twelve corners at distance 1 from a thirteenth particle in the middle."""
    golden = (1.0 + math.sqrt(5.0)) / 2.0
    corners = [np.roll([0.0, a, b * golden], k) for k in range(3) for a in (-1, 1) for b in (-1, 1)]
    return np.array([np.zeros(3), *corners]) / math.hypot(1.0, golden)


def lattice(n, key=0, spacing=1.1):
    """Particles near the points of a square lattice: never too close."""
    points = np.stack(np.meshgrid(range(n), range(n)), -1).reshape(-1, 2) * spacing
    return jnp.asarray(points + 0.05 * np.random.default_rng(key).normal(size=points.shape), float)


def test_a_pair(x64):
    """-well_depth at 2^(1/6) diameter without a force, 0 at the diameter, curvature 72 e / (2^(1/3) s^2)."""
    e, s = 0.7, 1.3
    potential = hf.LennardJonesPotential(e, s)

    def at(r):
        return potential.energy(T, jnp.stack([jnp.zeros(3), jnp.asarray(r) * array(2.0, -1.0, 2.0) / 3.0]))

    best = 2.0 ** (1.0 / 6.0) * s
    assert float(at(best)) == pytest.approx(-e)
    assert float(at(s)) == pytest.approx(0.0, abs=1e-14)
    assert float(at(2.0 * s)) == pytest.approx(4.0 * e * (2.0**-12 - 2.0**-6))
    assert float(jax.grad(at)(best)) == pytest.approx(0.0, abs=1e-13)
    assert float(jax.grad(jax.grad(at))(best)) == pytest.approx(72.0 * e / (2.0 ** (1.0 / 3.0) * s**2))


@pytest.mark.parametrize(("n", "expected"), [(3, -3.0), (4, -6.0)])
def test_every_pair_is_at_its_best(n, expected, x64):
    """Triangle and tetrahedron: as many wells as pairs."""
    corners = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])[:n]
    x = jnp.asarray(corners / math.sqrt(8.0) * 2.0 ** (1.0 / 6.0))
    assert float(hf.LennardJonesPotential().energy(T, x)) == pytest.approx(expected)


def test_the_icosahedron_of_thirteen(x64):
    """The global minimum of 13 particles, -44.326801 (Hoare and Pal 1971; the Cambridge Cluster Database)."""
    potential = hf.LennardJonesPotential()

    @jax.jit
    def both(x):
        x = x.reshape(13, 3)
        return potential.energy(T, x), potential.force(T, x)

    start = icosahedron().ravel() * 1.2
    found = scipy.optimize.minimize(
        lambda x: float(both(x)[0]), start, jac=lambda x: -np.asarray(both(x)[1]).ravel(), options={"gtol": 1e-8}
    )
    assert float(both(start)[0]) > -40.0  # it had some way to go
    assert found.fun == pytest.approx(-44.326801, abs=1e-6)


def test_energy_is_the_sum_over_pairs_by_hand(x64):
    x, e, s = np.asarray(lattice(3)), 0.8, 0.9
    r = np.array([np.linalg.norm(x[i] - x[j]) for i in range(9) for j in range(i)])
    expected = np.sum(4.0 * e * ((s / r) ** 12 - (s / r) ** 6))
    assert float(hf.LennardJonesPotential(e, s).energy(T, jnp.asarray(x))) == pytest.approx(expected, rel=1e-12)


def test_the_order_the_place_and_the_direction_do_not_matter(x64):
    potential, x = hf.LennardJonesPotential(), lattice(3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    other = jnp.asarray((np.asarray(x) @ turn + np.array([3.0, -7.0]))[::-1])
    assert float(potential.energy(T, other)) == pytest.approx(float(potential.energy(T, x)), rel=1e-11)
    np.testing.assert_allclose(potential.force(T, other), (potential.force(T, x) @ turn)[::-1], atol=1e-10)


# -- absent particles -------------------------------------------------------------------------------------------------

MASK = np.array([True, False, True, True, False, True])


@pytest.mark.parametrize(
    "place", [[0.4, 0.3], [0.0, 0.0], [1e30, -1e30], [np.nan, np.inf]], ids=["near", "on top", "far", "no number"]
)
def test_absent_particles_do_not_exist(place):
    """Single precision: on top of each other and of a present one, or no number at all."""
    present = np.asarray(lattice(3)[:4] - lattice(3)[:1])  # the first one at (0, 0)
    x = np.empty((6, 2), np.float32)
    x[MASK], x[~MASK] = present, place
    x, present = jnp.asarray(x), jnp.asarray(present)
    potential, alone = hf.LennardJonesPotential(mask=MASK), hf.LennardJonesPotential()
    assert float(potential.energy(T, x)) == pytest.approx(float(alone.energy(T, present)), rel=1e-6)
    force = potential.force(T, x)
    np.testing.assert_array_equal(force[~MASK], 0.0)
    np.testing.assert_allclose(force[MASK], alone.force(T, present), rtol=1e-5, atol=1e-5)
    second = jax.jacfwd(lambda x: potential.force(T, x))(x)
    assert np.all(np.isfinite(second))
    assert np.all(np.isfinite(jax.grad(lambda e: hf.LennardJonesPotential(e, 1.0, MASK).energy(T, x))(1.0)))
    assert not np.all(np.isfinite(alone.force(T, x)))  # without the mask it matters where they are


def test_nobody_there_and_one_alone():
    for mask in ([False, False], [True, False]):
        potential = hf.LennardJonesPotential(mask=np.array(mask))
        assert float(potential.energy(T, jnp.zeros((2, 3)))) == 0.0
        np.testing.assert_array_equal(potential.force(T, jnp.zeros((2, 3))), 0.0)


def test_masks_in_a_batch():
    """Clusters of different sizes, with the mask traced: row i is cluster i alone."""
    masks, x = np.arange(4) < np.array([2, 3, 4])[:, None], jnp.stack([lattice(2, key=i) for i in range(3)])
    forces = jax.jit(jax.vmap(lambda mask, x: hf.LennardJonesPotential(mask=mask).force(T, x)))(masks, x)
    for n, push, position in zip((2, 3, 4), forces, x, strict=True):
        np.testing.assert_allclose(push[:n], hf.LennardJonesPotential().force(T, position[:n]), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(push[n:], 0.0)


# -- the centre of mass -----------------------------------------------------------------------------------------------


def test_newtons_third_law():
    """Of one pair the forces are opposite to the last bit; of many to rounding, since the sums differ in order."""
    potential = hf.LennardJonesPotential()
    pair = potential.force(T, jnp.array([[0.1, 0.7], [1.3, 0.2]]))
    assert float(jnp.max(jnp.abs(pair))) > 0.1
    np.testing.assert_array_equal(pair[0], -pair[1])
    many = potential.force(T, lattice(4))
    np.testing.assert_allclose(jnp.sum(many, axis=0), 0.0, atol=1e-5 * float(jnp.sum(jnp.abs(many))))


def test_a_start_without_momentum_keeps_its_centre_of_mass(x64):
    """Different masses: what holds still is the centre of mass and not the mean position. Absent ones sit where put."""
    masses, mask = array(1.0, 2.0, 0.5, 3.0, 1.5, 7.0, 1.0, 1.0, 4.0), np.arange(9) != 5
    kinetic = hf.GaussianKinetic(jnp.broadcast_to(masses[:, None], (9, 2)))
    system = hf.Hamiltonian(hf.LennardJonesPotential(mask=mask), kinetic)
    velocity = hf.remove_centre_of_mass(jr.normal(jr.key(5), (9, 2)), mask, masses)
    velocity = velocity.at[5].set(0.0)
    start = hf.PhaseState(hf.remove_centre_of_mass(lattice(3), mask, masses), kinetic.momentum(velocity))
    end = hf.integrate(system, start, 0.0, 2.0, 400)

    def centre(x):
        return np.sum((masses[:, None] * x)[mask], axis=0) / np.sum(masses[mask])

    for state in (start, end):
        np.testing.assert_allclose(centre(state.position), 0.0, atol=1e-13)
        np.testing.assert_allclose(np.sum(state.momentum, axis=0), 0.0, atol=1e-12)
    np.testing.assert_array_equal(end.position[5], start.position[5])
    assert np.max(np.abs(end.position - start.position)) > 0.5  # it was no rest
    assert np.max(np.abs(np.mean(end.position[mask], axis=0) - np.mean(start.position[mask], axis=0))) > 0.05


def test_remove_centre_of_mass_by_hand():
    x = jnp.array([[1.0, 0.0], [5.0, 2.0], [9.0, 9.0]])
    np.testing.assert_allclose(hf.remove_centre_of_mass(x[:2]), [[-2.0, -1.0], [2.0, 1.0]])
    mask, weights = np.array([True, True, False]), np.array([3.0, 1.0, 50.0])
    np.testing.assert_allclose(hf.remove_centre_of_mass(x, mask), [[-2.0, -1.0], [2.0, 1.0], [9.0, 9.0]])
    np.testing.assert_allclose(hf.remove_centre_of_mass(x, mask, weights), [[-1.0, -0.5], [3.0, 1.5], [9.0, 9.0]])
    np.testing.assert_array_equal(hf.remove_centre_of_mass(x, np.zeros(3, bool)), x)  # nobody to move


def test_remove_centre_of_mass_is_a_projection_and_compiles(x64):
    x, mask, masses = jr.normal(jr.key(6), (4, 5, 3)), np.array([1, 0, 1, 1, 1]) > 0, jnp.arange(1.0, 6.0)
    once = jax.jit(jax.vmap(lambda x: hf.remove_centre_of_mass(x, mask, masses)))(x)
    assert once.dtype == x.dtype
    np.testing.assert_allclose(jax.vmap(lambda x: hf.remove_centre_of_mass(x, mask, masses))(once), once, atol=1e-14)
    # d(result) / dx has the rank of what is left: one centre of three coordinates is gone.
    jacobian = jax.jacfwd(lambda x: hf.remove_centre_of_mass(x, mask, masses))(x[0]).reshape(15, 15)
    assert np.linalg.matrix_rank(jacobian) == 12
    single = hf.remove_centre_of_mass(x[0].astype(jnp.float32), mask, masses)
    assert single.dtype == jnp.float32


def test_momenta_given_that_their_sum_is_zero(x64):
    """p ~ N(0, M) given sum p = 0 has the covariance M - m m^T / sum m; the map is linear, so this is no statistic."""
    masses = array(1.0, 2.0, 0.5)
    kinetic = hf.GaussianKinetic(masses[:, None])

    def project(p):
        return kinetic.momentum(hf.remove_centre_of_mass(kinetic.velocity(p), weights=masses))

    linear = np.asarray(jax.jacfwd(project)(jnp.zeros((3, 1)))).reshape(3, 3)
    covariance = linear @ np.diag(masses) @ linear.T
    np.testing.assert_allclose(covariance, np.diag(masses) - np.outer(masses, masses) / np.sum(masses), atol=1e-14)


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: hf.LennardJonesPotential(0.0), "well_depth must be positive"),
        (lambda: hf.LennardJonesPotential(1.0, -1.0), "diameter must be positive"),
        (lambda: hf.LennardJonesPotential(mask=np.array([1, 0])), "mask must be booleans of shape .* got int"),
        (lambda: hf.LennardJonesPotential(mask=np.ones((2, 2), bool)), r"mask must be booleans of shape .*\(2, 2\)"),
        (lambda: hf.LennardJonesPotential(mask=True), "mask must be an array of booleans"),
        (lambda: hf.LennardJonesPotential().energy(T, jnp.ones(6)), r"shape \(n, d\), one row a particle, got \(6,\)"),
        (
            lambda: hf.LennardJonesPotential(mask=np.ones(3, bool)).energy(T, jnp.ones((2, 3))),
            r"mask has shape \(3,\), but there are 2 particles",
        ),
        (lambda: hf.remove_centre_of_mass(jnp.ones((2, 3)), weights=jnp.ones(3)), r"weights must have shape \(2,\)"),
        (lambda: hf.remove_centre_of_mass(jnp.ones((2, 3)), weights=jnp.zeros(2)), "weights must be positive"),
        (lambda: hf.remove_centre_of_mass(jnp.ones((2, 3)), np.ones(3, bool)), r"mask has shape \(3,\)"),
    ],
)
def test_values_and_shapes_that_do_not_fit(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_types_that_do_not_fit():
    with pytest.raises((TypeError, TypeCheckError), match="well_depth"):
        hf.LennardJonesPotential(jnp.ones(2))


def test_a_mask_is_no_parameter():
    potential = hf.LennardJonesPotential(array(1.0)[0], 1.0, MASK)
    assert jax.tree.leaves(eqx.filter(potential, eqx.is_inexact_array)) == [1.0]
