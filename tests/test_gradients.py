"""Gradients: they reach every parameter that the states depend on and no other, are finite, and are right."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from systems import FLOWS, array
from test_laws import states

import hamflow as hf
from hamflow._modes import Modal, _frozen_modes


def with_arrays(flow):
    """Every Python number of the flow as an array, which has a gradient."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float) if isinstance(leaf, float) else leaf, flow)


def names_of(tree):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def expected_names(flow):
    """States depend on system and coupling; on the prior and the horizon only where the coupling looks at them."""
    ahead = isinstance(flow.coupling, (hf.CondOTCoupling, hf.MinibatchOTCoupling))
    return [name for name in names_of(flow) if name.startswith((".system", ".coupling")) or ahead]


# A chi2 is drawn by rejection: its derivative in these is right on average (test_student_t.py), not at one key.
ON_AVERAGE = (".coupling.degrees_of_freedom", ".prior.degrees_of_freedom")


# Free motion in a box or on a torus is there under its own name already.
LEARNING = [name for name in FLOWS if not (name.startswith("system: zero") and name.endswith(("box", "torus")))]


@pytest.mark.parametrize("name", LEARNING)
def test_gradients_reach_what_should_learn(name, x64):
    """Against central differences along one random direction in the space of all parameters."""
    entry = FLOWS[name]
    flow = with_arrays(entry.build())
    # So many that each wall turns some of them round: else its derivative is a residue of rounding, or 0.
    data = states(jr.key(7), flow.system, entry.shape, 11).position
    times = jnp.linspace(-0.4, 1.0, 11) * jax.lax.stop_gradient(flow.horizon)
    leaves, structure = jax.tree.flatten(flow)

    @jax.jit
    def value_and_gradient(leaves):
        def loss(leaves):
            state = jax.tree.unflatten(structure, leaves).sample_state(jr.key(8), data, times)
            return sum(jnp.sum(jnp.sin(leaf + 0.3)) for leaf in jax.tree.leaves(state))

        return jax.value_and_grad(loss)(leaves)

    gradient = value_and_gradient(leaves)[1]
    assert all(np.all(np.isfinite(g)) for g in gradient)
    reached = [name for name, g in zip(names_of(flow), gradient, strict=True) if np.any(g != 0.0)]
    assert reached == expected_names(flow)

    rng, h = np.random.default_rng(9), 1e-6
    direction = [jnp.asarray(rng.normal(size=leaf.shape)) * (0.1 + jnp.abs(leaf)) for leaf in leaves]
    direction = [0.0 * d if name in ON_AVERAGE else d for name, d in zip(names_of(flow), direction, strict=True)]
    after, before = (
        value_and_gradient([leaf + s * h * d for leaf, d in zip(leaves, direction, strict=True)])[0] for s in (1, -1)
    )
    slope = sum(float(jnp.sum(g * d)) for g, d in zip(gradient, direction, strict=True))
    size = sum(float(jnp.sum(jnp.abs(g * d))) for g, d in zip(gradient, direction, strict=True))
    assert slope == pytest.approx(float(after - before) / (2.0 * h), abs=2e-7 * (1.0 + size))


def test_python_numbers_are_not_parameters():
    """The recipes make flows that an optimiser finds nothing to train in."""
    for flow in (hf.diffusion(), hf.flow_matching(), hf.oscillation(), hf.reflection(), hf.whitened_oscillation(0.3)):
        assert jax.tree.leaves(eqx.filter(flow, eqx.is_inexact_array)) == []


# -- the matrix oscillator, cos(W t), sin(W t)/W and W sin(W t) of W^2 ------------------------------------------------


def by_modes(matrix, t):
    """The three functions as the library applies them, at mass 1."""
    eye = jnp.eye(len(matrix))
    outer, inner, vectors, w = _frozen_modes(eye, eye, eye, jax.lax.stop_gradient(matrix))
    weights = np.where(np.eye(3) > 0, 1.0, None).tolist()
    weights = [tuple(None if v is None else jnp.asarray(v) for v in row) for row in weights]
    shape = (len(matrix),)
    return tuple(Modal(eye, eye, matrix, outer, inner, vectors, w, t, row, shape).matrix for row in weights)


def by_exponential(matrix, t):
    """The same three functions from exp(t [[0, 1], [-W^2, 0]]), which knows no eigenvalues."""
    n = len(matrix)
    blocks = jnp.block([[jnp.zeros((n, n)), jnp.eye(n)], [-matrix, jnp.zeros((n, n))]])
    flow_map = jax.scipy.linalg.expm(t * blocks)
    return flow_map[:n, :n], flow_map[:n, n:], -flow_map[n:, :n]


GAPS = (0.0, 1e-12, 1e-8, 1e-5, 1e-3, 0.1)


@pytest.fixture(scope="module")
def derivatives():
    """Both sides, compiled once, by forward differentiation in the matrix and in t."""
    with jax.enable_x64(True):

        def along(function):
            return jax.jit(lambda s, t, ds, dt: jax.jvp(function, (s, t), (ds, dt)))

        return along(by_modes), along(by_exponential)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("smallest", [0.0, 1e-8, 1.0, 30.0])
@pytest.mark.parametrize("t", [1e-3, 0.7, np.pi / 2, 3.0])
def test_derivatives_of_the_matrix_oscillator(gap, smallest, t, derivatives, x64):
    """Three eigenvalues `gap` apart and one far away, along a symmetric direction; also from below zero frequency."""
    rng = np.random.default_rng(10)
    vectors = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    matrix = vectors * np.array([smallest, smallest + gap, smallest + 2 * gap, smallest + 3.0]) @ vectors.T
    matrix, direction = (matrix + matrix.T) / 2, rng.normal(size=(4, 4))
    ours, exponential = derivatives
    for ds, dt in ((direction + direction.T, 0.0), (0.0 * direction, 1.0), (direction + direction.T, -0.4)):
        arguments = (*(jnp.asarray(m) for m in (matrix,)), *array(t), jnp.asarray(ds), *array(dt))
        (values, slopes), (right_values, right_slopes) = ours(*arguments), exponential(*arguments)
        for got, right in zip((*values, *slopes), (*right_values, *right_slopes), strict=True):
            np.testing.assert_allclose(got, right, rtol=0.0, atol=1e-8 * max(np.max(np.abs(right)), 1e-3))


@pytest.mark.parametrize("i", range(4), ids=["a", "b", "da/dt", "db/dt"])
@pytest.mark.parametrize("matrix", ["frequency", "mass"])
def test_coefficients_of_a_degenerate_matrix_have_gradients(i, matrix, x64):
    """All eigenvalues equal, as whitening makes them; (a', b') are derivatives in t already."""
    probe = jnp.asarray(np.random.default_rng(11).normal(size=(2, 2)))

    def value(parameter):
        frequency, mass = (parameter, 1.3) if matrix == "frequency" else (0.9, parameter)
        system = hf.Hamiltonian(hf.HarmonicPotential(frequency), hf.GaussianKinetic(mass))
        flow = hf.Flow(system, hf.IndependentCoupling(), 1.0, hf.NormalPrior())
        return jnp.sum(probe * flow.coefficients(jnp.asarray(0.7), (2,))[i])

    at, h = 1.2 * jnp.eye(2), 1e-5
    gradient = jax.grad(value)(at)
    value = jax.jit(value)
    for direction in (array([1.0, 0.0], [0.0, 0.0]), array([0.0, 1.0], [1.0, 0.0]), array([0.0, 0.0], [0.0, 1.0])):
        slope = (value(at + h * direction) - value(at - h * direction)) / (2.0 * h)
        assert float(jnp.sum(gradient * direction)) == pytest.approx(float(slope), abs=1e-8)


def test_a_free_mode_has_a_gradient(x64):
    """At frequency 0 the energy is flat, d/dw = 0, and must not be 0 / 0: x_t = x_0 + t p_0."""

    def position(frequency):
        system = hf.Hamiltonian(hf.HarmonicPotential(frequency), hf.GaussianKinetic())
        flow = hf.Flow(system, hf.IndependentCoupling(), 1.0, hf.NormalPrior())
        return jnp.sum(flow.evolve(hf.PhaseState(array(1.0, 2.0), array(0.5, -1.0)), 3.0).position)

    for zero in (jnp.zeros(()), jnp.zeros(2), jnp.zeros((2, 2))):
        assert float(position(zero)) == pytest.approx(1.5)
        np.testing.assert_array_equal(jax.grad(position)(zero), np.zeros(zero.shape))
