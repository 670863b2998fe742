"""The potentials with a closed form, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from systems import DOMAINS, KINETICS, array

import hamflow as hf

T = jnp.zeros(())


@pytest.mark.parametrize(
    ("frequency", "shape"),
    [(1.3, (2,)), (0.0, (2,)), (-1.3, ()), ([0.8, 0.0], (2,)), ([[1.1, 0.4], [-0.3, 0.7]], (2,)), (1.3, (3, 4, 4))],
)
def test_harmonic_energy_and_force(frequency, shape, x64):
    """U = |O x|^2 / 2 and F = -O^T O x, with O by numpy."""
    operator, size = np.asarray(frequency, float), int(np.prod(shape))
    matrix = operator if operator.ndim == 2 else np.diag(np.broadcast_to(operator, size))
    potential = hf.HarmonicPotential(frequency if isinstance(frequency, float) else jnp.array(frequency, float))
    x = np.random.default_rng(0).normal(size=shape)
    assert float(potential.energy(T, jnp.asarray(x))) == pytest.approx(0.5 * np.sum((matrix @ x.ravel()) ** 2))
    force = potential.force(T, jnp.asarray(x))
    assert force.shape == shape
    np.testing.assert_allclose(np.ravel(force), -matrix.T @ matrix @ x.ravel(), rtol=1e-13, atol=1e-13)


def test_harmonic_matrix_on_pictures(x64):
    operator = np.random.default_rng(1).normal(size=(2, 3, 2, 3))
    x = np.random.default_rng(2).normal(size=(2, 3))
    expected = 0.5 * np.sum(np.einsum("ijkl,kl->ij", operator, x) ** 2)
    energy = hf.HarmonicPotential(jnp.asarray(operator)).energy(T, jnp.asarray(x))
    assert float(energy) == pytest.approx(expected)


def test_zero_is_zero_in_the_dtype_of_the_position():
    potential, x = hf.ZeroPotential(), jnp.ones((2, 3), jnp.float16)
    assert potential.energy(T, x).dtype == potential.force(T, x).dtype == jnp.float16
    np.testing.assert_array_equal(potential.force(T, x), 0.0)


def test_where_there_is_a_closed_form():
    """Without a force everywhere; harmonic for Gaussian momenta in all of space only."""
    for kinetic in KINETICS.values():
        for domain in DOMAINS.values():
            assert hf.ZeroPotential().propagator(kinetic(), domain()) is not None
            solvable = isinstance(kinetic(), hf.GaussianKinetic) and isinstance(domain(), hf.Euclidean)
            assert (hf.HarmonicPotential(1.0).propagator(kinetic(), domain()) is not None) == solvable


def test_position_dependent_shapes_are_refused():
    with pytest.raises(ValueError, match=r"frequency has shape \(3,\), but the position has shape \(2,\)"):
        hf.HarmonicPotential(jnp.ones(3)).energy(T, jnp.ones(2))


def test_a_potential_is_one_method(x64):
    class Quartic(hf.AbstractPotential):
        strength: float

        def energy(self, t, position):
            return self.strength * jnp.sum(position**4)

    np.testing.assert_allclose(Quartic(0.5).force(T, array(1.0, -2.0)), [-2.0, 16.0])
    with pytest.raises(ValueError, match="has no closed form"):
        hf.Flow(hf.Hamiltonian(Quartic(0.5), hf.GaussianKinetic()), hf.IndependentCoupling(), 1.0, hf.NormalPrior())
