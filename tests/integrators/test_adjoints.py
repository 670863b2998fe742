"""Gradients: against finite differences, against each other, and what they cost in memory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from mechanics import METHODS, HenonHeiles, Kepler, Sway, start, unit

import hamflow as hf
from hamflow.integrators.lattice import Lattice, Turns, lattice_steps, lattice_walk_back


class Learned(hf.AbstractPotential):
    """A network as an energy, with a plain number and an array beside it."""

    network: eqx.nn.MLP
    scale: jax.Array
    number: float

    def energy(self, t, position):
        return self.scale * self.network(position) + self.number * jnp.sum(position**2)


def learned():
    network = eqx.nn.MLP(2, "scalar", 8, 1, activation=jnp.tanh, key=jax.random.key(0))
    network = jax.tree.map(lambda leaf: leaf.astype(float) if eqx.is_array(leaf) else leaf, network)
    return hf.Hamiltonian(
        Learned(network, jnp.array(1.5, float), 0.3), hf.GaussianKinetic(jnp.array([0.5, 2.0], float))
    )


def driven():
    return hf.Hamiltonian(Sway(jnp.array(1.3, float)), hf.GaussianKinetic(jnp.array(1.7, float)))


def damped():
    return hf.ForcedSystem(HenonHeiles(jnp.array(1.0, float)), hf.GaussianKinetic(), friction=jnp.array(0.3, float))


def walled():
    return hf.Hamiltonian(hf.HarmonicPotential(jnp.array(1.2, float)), hf.GaussianKinetic(), hf.Box(-0.4, 0.5))


SYSTEMS = {"learned": learned, "driven": driven, "damped": damped, "walled": walled}
TIMES = (0.3, 2.8)


def loss(inputs, method, adjoint, **options):
    system, state, t0, t1 = inputs
    end = hf.integrate(system, state, t0, t1, 12, method, adjoint, **options)
    end = getattr(end, "states", end)
    weights = jnp.arange(1.0, end.position.size + 1.0).reshape(end.position.shape)
    return jnp.sum(jnp.sin(weights * end.position)) + jnp.sum(end.momentum**2)


def inputs(build):
    return build(), start([0.1, 0.25], [0.3, -0.2]), *(jnp.array(t, float) for t in TIMES)


CASES = [("learned", name) for name in METHODS] + [
    (system, name)
    for system in ("driven", "damped", "walled")
    for name in ("SymplecticEuler", "Leapfrog", "Suzuki4", "Yoshida8", "ImplicitMidpoint")
    if (system, name) != ("walled", "ImplicitMidpoint")
]


@pytest.mark.parametrize(("system", "name"), CASES)
def test_gradients_are_those_of_finite_differences(system, name, x64):
    """In the state, both times and every floating array of the system, by both ways."""
    method, given = METHODS[name](), inputs(SYSTEMS[system])
    learnable, rest = eqx.partition(given, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(learnable)

    def function(z, adjoint):
        return loss(eqx.combine(unravel(z), rest), method, adjoint)

    gradients = [
        np.asarray(jax.jit(jax.grad(function), static_argnums=1)(flat, a)) for a in ("checkpoint", "reversible")
    ]
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-8, atol=1e-8 * np.abs(gradients[0]).max())
    assert np.sum(gradients[0] == 0) <= (system == "learned")  # all matter but the constant of an energy
    direction = np.random.default_rng(0).normal(size=flat.shape)
    forward = jax.jit(jax.vmap(lambda z: function(z, "checkpoint")))
    h = 1e-5
    ends = np.asarray(forward(jnp.stack([flat + k * h * direction for k in (-2, -1, 1, 2)])))
    finite = (ends[0] - 8.0 * ends[1] + 8.0 * ends[2] - ends[3]) / (12.0 * h)
    assert gradients[0] @ direction == pytest.approx(finite, rel=1e-8, abs=1e-8)


def test_a_plain_number_is_no_parameter(x64):
    gradient = eqx.filter_grad(lambda s: loss((s, *inputs(learned)[1:]), hf.Leapfrog(), "reversible"))(learned())
    assert gradient.potential.number is None
    assert float(jnp.abs(gradient.potential.scale)) > 0
    *leaves, constant = jax.tree.leaves(gradient.potential.network)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in leaves)
    assert not np.any(constant)  # of the energy, which pushes nothing


@pytest.mark.parametrize("name", ["SymplecticEuler", "Leapfrog", "Suzuki4"])
def test_gradients_of_saved_states(name, x64):
    """Both ways agree where every fourth state counts."""
    given = inputs(driven)
    checkpoint, reversible = (
        eqx.filter_grad(loss)(given, METHODS[name](), adjoint, save_every=4) for adjoint in ("checkpoint", "reversible")
    )
    for a, b in zip(jax.tree.leaves(checkpoint), jax.tree.leaves(reversible), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_forward_derivatives_go_through_checkpoints(x64):
    system, state, t0, t1 = inputs(driven)
    slope = jax.jacfwd(lambda t: hf.integrate(system, state, t0, t, 400, hf.Yoshida4()).position)(t1)
    end = hf.integrate(system, state, t0, t1, 400, hf.Yoshida4())
    np.testing.assert_allclose(slope, system.velocity(t1, end), atol=1e-7)


def test_gradients_under_vmap_are_those_of_each(x64):
    system = driven()
    starts = hf.PhaseState(jnp.linspace(0.1, 0.9, 6).reshape(3, 2), jnp.ones((3, 2)))

    def one(state, adjoint):
        return jnp.sum(hf.integrate(system, state, 0.0, 2.0, 10, adjoint=adjoint).position ** 2)

    for adjoint in ("checkpoint", "reversible"):
        batched = jax.grad(lambda s, a=adjoint: jnp.sum(jax.vmap(lambda z: one(z, a))(s)))(starts)
        single = jax.grad(one)(jax.tree.map(lambda leaf: leaf[1], starts), adjoint)
        np.testing.assert_allclose(batched.position[1], single.position, rtol=1e-12)


@pytest.mark.parametrize("resolution", [None, 2.0**-20])
def test_memory_of_the_reversible_gradient_does_not_grow(resolution):
    system = hf.Hamiltonian(hf.HarmonicPotential(jnp.ones((64,))), hf.GaussianKinetic())
    state = hf.PhaseState(jnp.ones((64,)), jnp.ones((64,)))

    def bytes_of(steps, adjoint, resolution):
        def value(system, state):
            end = hf.integrate(system, state, 0.0, 1.0, steps, adjoint=adjoint, resolution=resolution)
            return jnp.sum(end.position)

        compiled = jax.jit(jax.grad(value)).lower(system, state).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = (bytes_of(n, "reversible", resolution) for n in (64, 4096))
    assert many <= 1.1 * few
    assert bytes_of(4096, "checkpoint", None) > 10 * many  # else the number says nothing


class InABowl(hf.AbstractPotential):
    """A network's energy in a bowl that keeps the motion within the 16 that single precision states can express."""

    network: eqx.nn.MLP

    def energy(self, t, position):
        return self.network(position) + jnp.sum(position**2)


def bowl():
    network = eqx.nn.MLP(3, "scalar", 16, 1, activation=jnp.tanh, key=jax.random.key(1))
    return unit(InABowl(network))


@pytest.mark.parametrize("name", ["Leapfrog", "SymplecticEuler", "Yoshida8"])
def test_states_on_a_lattice_come_back_bit_for_bit(name):
    """In single precision, 4,096 steps under a network as force; without the lattice they do not."""
    system, method = bowl(), METHODS[name]()
    spacing = 2.0**-20
    state = hf.PhaseState(*(jnp.round(jnp.array(v) / spacing) * spacing for v in ([0.3, -0.5, 0.9], [0.2, 0.7, -0.4])))

    def there_and_back(resolution):
        run = {"adjoint": "reversible", "resolution": resolution}
        end = hf.integrate(system, state, 0.0, 100.0, 4096, method, **run)
        back = hf.integrate(system, end, 100.0, 0.0, 4096, method.inverse(), **run)
        return end, [
            np.asarray(a) - np.asarray(b) for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True)
        ]

    end, difference = there_and_back(spacing)
    assert not np.any(difference)
    assert np.any(there_and_back(None)[1])
    plain = hf.integrate(system, state, 0.0, 1.0, 41, method)
    on_lattice = hf.integrate(system, state, 0.0, 1.0, 41, method, "reversible", resolution=spacing)
    np.testing.assert_allclose(on_lattice.position, plain.position, atol=200 * spacing)
    assert np.all(np.asarray(end.position) / spacing % 1 == 0)


def test_the_gradient_walks_over_the_points_of_the_run():
    """The walk back, compiled with the gradient around it, ends at the very start."""
    system = bowl()
    state = hf.PhaseState(jnp.array([0.3, -0.5, 0.9]), jnp.array([0.2, 0.7, -0.4]))
    lattice, turns = Lattice(2.0**-20, np.dtype("float32")), Turns.of(hf.Suzuki4(), 1000)
    first = jax.tree.map(lambda leaf: lattice.rounded(leaf)[0], state)
    t0, h = jnp.float32(0.0), jnp.float32(0.03)
    end = lattice_steps(system, hf.Suzuki4(), state, t0, h, 1000, 2.0**-20)
    points = jax.tree.map(lambda leaf: lattice.rounded(leaf)[0], end)
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    found, _ = eqx.filter_jit(lattice_walk_back)(lattice, turns, parameters, rest, points, t0, h, end)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(first), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradient_on_a_lattice_is_the_gradient():
    """A regular motion over 200 steps: the gradients differ by the noise of rounding alone."""
    system = hf.Hamiltonian(HenonHeiles(jnp.array(1.0)), hf.GaussianKinetic())

    def value(state, **run):
        end = hf.integrate(system, state, 0.0, 10.0, 200, **run)
        return jnp.sum(end.position**2 + end.momentum)

    state = start([0.1, 0.25], [0.3, -0.2])
    plain = jax.grad(value)(state)
    lattice = jax.grad(lambda s: value(s, adjoint="reversible", resolution=2.0**-20))(state)
    np.testing.assert_allclose(lattice.position, plain.position, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(lattice.momentum, plain.momentum, rtol=2e-4, atol=2e-4)


def test_the_range_of_a_lattice_is_watched():
    system = unit(hf.ZeroPotential())
    run = {"adjoint": "reversible", "resolution": 2.0**-20}
    inside = hf.integrate(system, start([1000.0], [10.0]), 0.0, 1.0, 10, **run)
    assert float(inside.position[0]) == pytest.approx(1010.0)
    with pytest.raises(RuntimeError, match="left the range of the lattice"):
        hf.integrate(system, start([1000.0], [100.0]), 0.0, 1.0, 10, **run)
    with pytest.raises(RuntimeError, match="left the range of the lattice"):
        hf.integrate(system, start([1e4], [0.0]), 0.0, 1.0, 10, **run)
    with pytest.raises(RuntimeError, match="left the range of the lattice"):
        hf.integrate(unit(Kepler()), start([0.0, 0.0], [0.0, 0.0]), 0.0, 1.0, 10, **run)
