"""Networks as energies and forces: right, trainable, in one precision, and refused where they do not fit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from systems import array

import hamflow as hf

T = jnp.zeros(())


class Quadratic(eqx.Module):
    """x^T A x / 2 with a matrix to learn."""

    matrix: jax.Array

    def __call__(self, x):
        return 0.5 * x @ self.matrix @ x


class Growing(eqx.Module):
    """t rate |x|^2 / 2, or the force -t rate x that belongs to it."""

    rate: jax.Array
    is_force: bool = eqx.field(static=True, default=False)

    def __call__(self, t, x):
        assert t.dtype == x.dtype
        return -t * self.rate * x if self.is_force else 0.5 * t * self.rate * jnp.sum(x**2)


def mlp(out, key=0, size=3):
    return eqx.nn.MLP(size, out, 8, 2, activation=jnp.tanh, key=jr.key(key))


def test_a_network_that_is_a_quadratic_is_harmonic(x64):
    """x^T O^T O x / 2, with HarmonicPotential as the other side: energy, force, and a motion in closed form."""
    operator = np.random.default_rng(0).normal(size=(2, 2))
    learned = hf.NetworkPotential(Quadratic(jnp.asarray(operator.T @ operator)))
    harmonic, x = hf.HarmonicPotential(jnp.asarray(operator)), array(0.7, -1.2)
    assert float(learned.energy(T, x)) == pytest.approx(float(harmonic.energy(T, x)), rel=1e-13)
    np.testing.assert_allclose(learned.force(T, x), harmonic.force(T, x), rtol=1e-12)
    start, kinetic = hf.PhaseState(x, array(0.3, 0.5)), hf.GaussianKinetic()
    exact = hf.Flow(hf.Hamiltonian(harmonic, kinetic), hf.IndependentCoupling(), 1.0, hf.NormalPrior())
    end = hf.integrate(hf.Hamiltonian(learned, kinetic), start, 0.0, 0.8, 50, hf.Yoshida6())
    np.testing.assert_allclose(end.position, exact.evolve(start, 0.8).position, atol=1e-10)


@pytest.mark.parametrize("out", ["scalar", 1])
def test_the_force_of_an_energy_network_by_finite_differences(out, x64):
    potential = hf.NetworkPotential(mlp(out))
    x, h = np.random.default_rng(1).normal(size=3), 1e-5
    energies = [
        [float(potential.energy(T, jnp.asarray(x + s * step))) for s in (1, -1)] for step in h * np.eye(3)
    ]  # fmt: skip
    slope = [(up - down) / (2.0 * h) for up, down in energies]
    assert potential.energy(T, jnp.asarray(x)).shape == ()
    np.testing.assert_allclose(potential.force(T, jnp.asarray(x)), np.negative(slope), atol=1e-9)
    assert np.max(np.abs(slope)) > 1e-3


def test_a_force_network_is_the_force():
    network, x = mlp(3), jnp.array([0.3, -0.2, 0.9])
    np.testing.assert_array_equal(hf.NetworkForce(network).force(T, x), network(x))


def test_a_force_has_no_energy():
    system = hf.ForcedSystem(hf.NetworkForce(mlp(3)), hf.GaussianKinetic())
    assert not hasattr(system, "energy")
    with pytest.raises(TypeError, match="NetworkForce, which has no energy"):
        hf.Hamiltonian(hf.NetworkForce(mlp(3)), hf.GaussianKinetic())


def test_time_reaches_the_network(x64):
    x, rate = array(1.0, -2.0), array(0.6)[0]
    potential = hf.NetworkPotential(Growing(rate), time_dependent=True)
    force = hf.NetworkForce(Growing(rate, is_force=True), time_dependent=True)
    assert float(potential.energy(3.0, x)) == pytest.approx(0.5 * 3.0 * 0.6 * 5.0)
    for push in (potential, force):
        np.testing.assert_allclose(push.force(2, x), [-1.2, 2.4])
        np.testing.assert_allclose(push.force(jnp.asarray(2.0, jnp.float32), x), [-1.2, 2.4])


def test_hamflows_own_network_is_a_force():
    """`networks.MLP` is called as (c_noise, x): here t takes the place of the noise level."""
    network = hf.networks.MLP(2, width=8, depth=1, key=jr.key(0))
    system = hf.ForcedSystem(hf.NetworkForce(network, time_dependent=True), hf.GaussianKinetic())
    state = hf.PhaseState(jnp.ones(2), jnp.ones(2))
    end = hf.integrate(system, state, 0.0, 1.0, 5)
    np.testing.assert_allclose(end.position, 2.0, rtol=1e-6)  # its last layer starts at zero: no force yet


@pytest.mark.parametrize("adjoint", ["checkpoint", "reversible"])
@pytest.mark.parametrize("kind", ["energy", "force"])
def test_gradients_reach_the_network_through_a_motion(kind, adjoint, x64):
    """Every weight and bias that matters, against central differences along a random direction."""

    def system(network):
        if kind == "energy":
            return hf.Hamiltonian(hf.NetworkPotential(network), hf.GaussianKinetic())
        return hf.ForcedSystem(hf.NetworkForce(network), hf.GaussianKinetic())

    network, start = (
        mlp("scalar" if kind == "energy" else 3),
        hf.PhaseState(array(0.3, -0.2, 0.9), array(1.0, 0.0, 0.5)),
    )
    arrays, rest = eqx.partition(network, eqx.is_inexact_array)

    @jax.jit
    def loss(arrays):
        end = hf.integrate(system(eqx.combine(arrays, rest)), start, 0.0, 1.0, 8, adjoint=adjoint)
        return jnp.sum(end.position**2)

    gradient = jax.grad(loss)(arrays)
    reached = [bool(jnp.any(leaf != 0.0)) for leaf in jax.tree.leaves(gradient)]
    assert reached == ([True] * 5 + [False] if kind == "energy" else [True] * 6)  # an energy's last bias has no force
    rng, h = np.random.default_rng(2), 1e-5
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), arrays)
    up, down = (loss(jax.tree.map(lambda a, d, s=s: a + s * h * d, arrays, direction)) for s in (1, -1))
    slope = sum(float(jnp.sum(g * d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    assert slope == pytest.approx(float(up - down) / (2.0 * h), rel=1e-6)
    assert abs(slope) > 1e-4


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
def test_a_network_in_the_datas_precision(dtype, x64):
    def cast(network):
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, network)

    x = jnp.ones(3, dtype)
    potential, force = hf.NetworkPotential(cast(mlp(1))), hf.NetworkForce(cast(mlp(3)))
    assert potential.energy(T, x).dtype == potential.force(T, x).dtype == force.force(T, x).dtype == dtype


def test_compiled_and_batched_is_the_same():
    x = jr.normal(jr.key(2), (5, 3))
    for part in (hf.NetworkPotential(mlp("scalar")), hf.NetworkForce(mlp(3))):
        many = eqx.filter_jit(lambda part, x: jax.vmap(part.force, (None, 0))(T, x))(part, x)
        np.testing.assert_allclose(many, [part.force(T, row) for row in x], atol=1e-6)


def test_saved_and_loaded(tmp_path):
    x = jnp.array([0.3, -0.2, 0.9])
    for i, part in enumerate((hf.NetworkPotential(mlp(1)), hf.NetworkForce(mlp(3)))):
        hf.save(tmp_path / f"{i}", part)
        back = hf.load(tmp_path / f"{i}")
        assert type(back) is type(part)
        np.testing.assert_array_equal(back.force(T, x), part.force(T, x))


class Single(eqx.Module):
    """Answers in single precision, whatever is asked."""

    def __call__(self, x):
        return jnp.sum(x.astype(jnp.float32))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda x: hf.NetworkPotential(3.0), (TypeError, TypeCheckError), "network"),
        (lambda x: hf.NetworkForce(eqx.nn.MLP), TypeError, "network must be callable.*class"),
        (lambda x: hf.NetworkPotential(mlp(3)).energy(T, x), ValueError, r"\(MLP\) returned shape \(3,\).*scalar or"),
        (lambda x: hf.NetworkPotential(mlp(3)).force(T, x), ValueError, r"\(MLP\) returned shape \(3,\).*scalar or"),
        (lambda x: hf.NetworkForce(mlp(2)).force(T, x), ValueError, r"\(MLP\) returned shape \(2,\).*position's shape"),
        (lambda x: hf.NetworkForce(mlp("scalar")).force(T, x), ValueError, r"returned shape \(\)"),
        (lambda x: hf.NetworkPotential(Single()).energy(T, x), TypeError, "returned float32 for a position of float64"),
        (lambda x: hf.NetworkForce(lambda x: x.astype(jnp.float32)).force(T, x), TypeError, "returned float32"),
    ],
)
def test_what_does_not_fit_is_refused(build, error, message, x64):
    with pytest.raises(error, match=message):
        build(jnp.ones(3))
