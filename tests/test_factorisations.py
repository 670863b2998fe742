"""Factorisations under `vmap`: the numbers and derivatives of jax's own, and never two batched LAPACK calls."""

import math
import pathlib
import re
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from systems import FLOWS
from tiny_network import TinyNetwork

import hamflow as hf
from hamflow import _factorisations as factorisations

SQUARE = np.random.default_rng(0).normal(size=(3, 4, 4))
POSITIVE = SQUARE @ SQUARE.transpose(0, 2, 1) + np.eye(4)


def solved(solve):
    """Both triangular systems, with right sides that depend on the matrix."""
    return lambda m: [solve(jnp.tril(m) + 3.0 * jnp.eye(4), m[0], transposed) for transposed in (False, True)]


def by_scipy(lower, right, transposed):
    return jax.scipy.linalg.solve_triangular(lower, right, lower=True, trans=int(transposed))


CASES = {
    "inv": (factorisations.inv, jnp.linalg.inv, SQUARE),
    "cholesky": (factorisations.cholesky, jnp.linalg.cholesky, POSITIVE),
    "log_abs_det": (factorisations.log_abs_det, lambda m: jnp.linalg.slogdet(m)[1], SQUARE),
    "solve_lower": (solved(factorisations.solve_lower), solved(by_scipy), SQUARE),
    # Eigenvectors up to their sign.
    "eigh": (
        lambda m: [factorisations.eigh(m)[0], factorisations.eigh(m)[1] ** 2],
        lambda m: [jnp.linalg.eigh(m)[0], jnp.linalg.eigh(m)[1] ** 2],
        POSITIVE,
    ),
}


def total(function):
    return lambda matrix: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(function(matrix)))


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives_are_those_of_jax(name, x64):
    ours, theirs, batch = CASES[name]
    batch = jnp.asarray(batch)
    for of in (jax.vmap, lambda f: jax.vmap(jax.grad(total(f))), lambda f: jax.vmap(jax.jacfwd(jax.grad(total(f))))):
        got, expected = jax.jit(of(ours))(batch), jax.jit(of(theirs))(batch)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)


def batched_calls(lowered) -> list[str]:
    """The LAPACK calls of a program whose first operand or result is a batch of matrices."""
    calls = re.findall(
        r"stablehlo\.custom_call @lapack_(\w+)\(.*?: \((tensor<[^>]*>)[^)]*\) -> (.*)", lowered.as_text()
    )
    return [f"{name} {shape}" for name, shape, _ in calls if shape.count("x") > 2 and not shape.startswith("tensor<1x")]


def test_the_reader_of_programs_sees_batched_calls():
    # Else the test below could not fail. This program is only lowered: on two cores it does not end.
    def twice(batch):
        return jnp.sum(jax.vmap(jnp.linalg.cholesky)(batch)) + jnp.sum(jax.vmap(jnp.linalg.inv)(batch + 1.0))

    found = batched_calls(jax.jit(twice).lower(jnp.asarray(POSITIVE)))
    assert len(found) >= 2, found
    assert not batched_calls(jax.jit(lambda m: jax.vmap(factorisations.cholesky)(m)).lower(jnp.asarray(POSITIVE)))


ONCE = {  # called for one matrix, when an object is built or checked, never in a step
    ("conformance/motion.py", "det"),
    ("recipes.py", "eigvalsh"),
    ("kinetics/gaussian.py", "eigvalsh"),
}


def test_no_other_file_factors_a_matrix():
    """Whatever is not in `_factorisations.py` would become a batched call under `vmap`."""
    package, found = pathlib.Path(hf.__file__).parent, set()
    for path in package.rglob("*.py"):
        if path.name != "_factorisations.py":
            calls = re.findall(r"(?:jnp|jax\.numpy|jax\.scipy|lax)\.linalg\.(\w+)", path.read_text(encoding="utf-8"))
            found |= {(str(path.relative_to(package)), call) for call in calls if call != "norm"}
    assert found == ONCE


LINEAR = [name for name, entry in FLOWS.items() if "another clock" in name or "dense" in name or "matrix" in name]


@pytest.mark.parametrize("name", LINEAR)
def test_no_step_has_two_batched_calls(name):
    """A loss with its gradient, and one evaluation of sampling, of every flow with a matrix, as programs."""
    entry = FLOWS[name]
    flow = entry.build()
    size = math.prod(entry.shape)
    data = jr.uniform(jr.key(0), (5, *entry.shape), minval=-0.5, maxval=0.1)
    std = 0.5 if len(entry.shape) > 1 else jnp.asarray(np.tril(np.ones((size, size))), float)
    options = {"train_flow": name == "whitened, dense"}  # the same factorisations for the others
    if flow.is_linear:
        model = hf.Preconditioned(TinyNetwork(size), flow, std, **options)
    else:
        model = hf.Preconditioned.from_data(TinyNetwork(size), flow, data, jr.key(1), num_draws=16, **options)

    @eqx.filter_jit
    def step(model, data, key):
        return eqx.filter_value_and_grad(lambda m: hf.velocity_matching_loss(m, flow, data, key))(model)

    assert len(batched_calls(step.lower(model, data, jr.key(2)))) <= 1


SCRIPT = """
    import equinox as eqx, jax, jax.numpy as jnp, jax.random as jr
    import hamflow as hf

    size = {size}
    data = jr.normal(jr.key(0), (256, size)) @ (jnp.eye(size) + 0.1 * jr.normal(jr.key(1), (size, size)))
    covariance = jnp.cov(data.T) + 0.01 * jnp.eye(size)

    class Net(eqx.Module):
        weight: jax.Array
        def __call__(self, t, x, condition, key):
            return x + self.weight * jnp.tanh(x)

    def train(flow, std):
        model = hf.Preconditioned(Net(jnp.zeros(size)), flow, std)
        @eqx.filter_jit
        def step(network, key):
            make = lambda network: eqx.tree_at(lambda m: m.network, model, network)
            loss = lambda network: hf.velocity_matching_loss(make(network), flow, data[:128], key)
            value, gradient = eqx.filter_value_and_grad(loss)(network)
            return jax.tree.map(lambda w, g: w - 0.1 * g, network, gradient), value
        network = model.network
        for i in range(3):
            network, value = step(network, jr.key(i))
        assert jnp.isfinite(value), value
        return eqx.tree_at(lambda m: m.network, model, network)

    whitened = hf.whitened_oscillation(covariance)
    model = train(whitened, 1.0)
    samples = hf.generate(model, whitened, jr.key(2), (32, size), 3)
    assert samples.shape == (32, size) and bool(jnp.all(jnp.isfinite(samples)))
    {more}
    print("ended")
"""
MORE = """
    train(whitened, jnp.linalg.cholesky(covariance))
    train(hf.diffusion(3.0), jnp.linalg.cholesky(covariance))
    heavy = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(covariance))
    train(hf.Flow(heavy, hf.IndependentCoupling(), 1.0, hf.NormalPrior(0.0, jnp.linalg.cholesky(covariance))), 1.0)
    matching = hf.flow_matching()
    prior = hf.NormalPrior(0.0, jnp.linalg.cholesky(covariance))
    apart = jnp.linalg.cholesky(covariance + jnp.diag(data[0] ** 2))  # shares no basis with the prior
    train(hf.Flow(matching.system, matching.coupling, 1.0, prior), apart)
    energy = hf.RiemannianEnergy(hf.HarmonicPotential(1.0), lambda x: covariance + jnp.outer(x, x) / 64)
    momenta = jax.jit(jax.vmap(energy.sample))(jr.split(jr.key(3), 128), data[:128])
    velocity = jax.jit(jax.vmap(lambda x, p: energy.velocity(x, p) + energy.velocity(2.0 * x, p)))(data[:128], momenta)
    assert bool(jnp.all(jnp.isfinite(velocity)))
"""


@pytest.mark.parametrize(("size", "more"), [(64, MORE), (256, "")])
def test_training_with_matrices_ends(size, more):
    """In a process of its own, since a program that waits for itself cannot be stopped from within.

    It takes 15 to 40 s on two cores of which another test has one; it never ended before.
    """
    script = textwrap.dedent(SCRIPT).format(size=size, more=textwrap.dedent(more).strip())
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "ended", done.stderr
