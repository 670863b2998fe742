"""Any function as a potential."""

import functools

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


def morse(position, depth=1.0, width=1.0, per_coordinate=True):
    """depth (1 - exp(-width x))^2, in every coordinate, the way another library would write it."""
    each = depth * (1.0 - jnp.exp(-width * position)) ** 2
    return jnp.sum(each) if per_coordinate else each


class Morse(eqx.Module):
    depth: jax.Array

    def __call__(self, position):
        return morse(position, self.depth)


def test_energy_and_force_by_hand(x64):
    """F = -2 D w (1 - e) e with e = exp(-w x)."""
    potential, x = hf.FunctionPotential(morse, depth=array(0.8)[0], width=1.5), array(0.4, -0.3)
    e = np.exp(-1.5 * np.array([0.4, -0.3]))
    assert float(potential.energy(T, x)) == pytest.approx(0.8 * np.sum((1.0 - e) ** 2))
    np.testing.assert_allclose(potential.force(T, x), -2.0 * 0.8 * 1.5 * (1.0 - e) * e, rtol=1e-13)


def test_arrays_are_leaves_and_numbers_and_functions_are_none():
    potential = hf.FunctionPotential(morse, depth=np.array([0.8, 0.5]), width=1.5, per_coordinate=True)
    assert [leaf.shape for leaf in jax.tree.leaves(eqx.filter(potential, eqx.is_inexact_array))] == [(2,)]
    assert isinstance(potential.fixed["width"], float)
    assert isinstance(potential.fixed["depth"], jax.Array)  # numpy's would be hidden from optimisers
    assert not any(callable(leaf) for leaf in jax.tree.leaves(potential))
    gradient = jax.grad(lambda p: p.energy(T, jnp.array([0.4, -0.3])))(hf.FunctionPotential(morse, depth=jnp.ones(2)))
    np.testing.assert_allclose(gradient.fixed["depth"], (1.0 - np.exp([-0.4, 0.3])) ** 2, rtol=1e-5)


def test_a_module_keeps_its_arrays_and_a_partial_is_a_function(x64):
    x = array(0.4, -0.3)
    module, partial = (
        hf.FunctionPotential(Morse(array(0.8)[0])),
        hf.FunctionPotential(functools.partial(morse, depth=0.8)),
    )
    assert float(module.energy(T, x)) == float(partial.energy(T, x))
    assert float(jax.grad(lambda p: p.energy(T, x))(module).function.depth) > 0.0


def test_data_decide_the_precision():
    with jax.enable_x64(True):
        potential = hf.FunctionPotential(morse, depth=jnp.ones((), jnp.float64), width=np.ones(2))
        for dtype in (jnp.float16, jnp.float32, jnp.float64):
            x = jnp.ones(2, dtype)
            assert potential.energy(0.0, x).dtype == potential.force(0.0, x).dtype == dtype


def test_it_moves_compiles_and_batches(x64):
    """Energy is kept to the accuracy of the method: 4th order, ten times smaller steps, 1e4 times smaller drift."""
    system = hf.Hamiltonian(hf.FunctionPotential(morse, width=array(1.5)[0]), hf.GaussianKinetic())
    starts = hf.PhaseState(0.3 * jr.normal(jr.key(0), (4, 2)), 0.3 * jr.normal(jr.key(1), (4, 2)))
    before = jax.vmap(lambda s: system.energy(T, s))(starts)
    drift = []
    for n in (40, 400):
        ends = jax.jit(jax.vmap(lambda s, n=n: hf.integrate(system, s, 0.0, 3.0, n, hf.Yoshida4())))(starts)
        drift.append(float(jnp.max(jnp.abs(jax.vmap(lambda s: system.energy(T, s))(ends) - before))))
    assert drift[0] > 1e-7
    assert drift[1] < drift[0] * 1e-3


def test_saved_and_loaded(tmp_path):
    """A user's function is named in the file, so loading it needs trust, as everywhere."""
    potential = hf.FunctionPotential(morse, depth=jnp.array(0.8), width=1.5)
    hf.save(tmp_path / "potential", potential)
    with pytest.raises(ValueError, match="trust"):
        hf.load(tmp_path / "potential")
    back, x = hf.load(tmp_path / "potential", trust=(__name__,)), jnp.array([0.4, -0.3])
    assert jax.tree.structure(back) == jax.tree.structure(potential)
    np.testing.assert_array_equal(back.force(T, x), potential.force(T, x))


class Unhashable:
    __hash__ = None

    def __call__(self, position):
        return jnp.sum(position)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda x: hf.FunctionPotential(3.0), (TypeError, TypeCheckError), "function"),
        (lambda x: hf.FunctionPotential(Morse), TypeError, "function must be callable.*Morse"),
        (lambda x: hf.FunctionPotential(Unhashable()), TypeError, "Unhashable, which cannot be hashed.*eqx.Module"),
        (
            lambda x: hf.FunctionPotential(morse, per_coordinate=False).energy(T, x),
            ValueError,
            r"returned shape \(2,\) for one position of shape \(2,\).*sum over the coordinates",
        ),
        (
            lambda x: hf.FunctionPotential(lambda x: jnp.sum(x.astype(jnp.float64))).energy(T, x),
            TypeError,
            "returned float64 for a position of float32",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, error, message, x64):
    with pytest.raises(error, match=message):
        build(jnp.ones(2, jnp.float32))
