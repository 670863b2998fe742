"""Learned solvers: the form they have, where they start, and what fitting is worth on starts they have not seen."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from oracles import reflection_velocity
from systems import array

import hamflow as hf
from hamflow.sampling.few_step_fit import _candidates

KEY = jr.key(0)


def ring():
    angle = 2 * np.pi * np.arange(8) / 8
    means = 1.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return hf.GaussianMixturePotential(array(*means), jnp.full(8, 0.2), jnp.arange(1.0, 9.0))


def starts(flow, n):
    return jax.vmap(lambda k: flow.prior.sample(k, (2,)))(jr.split(jr.key(9), n))


def curved(t, x, condition=None, key=None):
    return jnp.sin(3 * x) + t * x - 0.3


def test_the_form_by_hand():
    """Two evaluations, in numpy."""
    times, alpha, beta = [1.0, 0.4, 0.0], [0.9, 1.1], [[-0.5, 7.0], [-0.2, -0.3]]
    solver = hf.FewStep(*(jnp.array(v) for v in (times, alpha, beta)))  # the 7 above the diagonal is not used
    found = hf.generate(curved, hf.flow_matching(), KEY, (3,), solver=solver)
    first = np.stack([hf.flow_matching().prior.sample(jr.fold_in(KEY, i), ()) for i in range(3)])

    def slope(t, x):
        return np.sin(3 * x) + t * x - 0.3

    v0 = slope(1.0, first)
    v1 = slope(0.4, 0.9 * first - 0.5 * v0)
    np.testing.assert_allclose(found, 1.1 * first - 0.2 * v0 - 0.3 * v1, rtol=1e-5)


@pytest.mark.parametrize("name", ["Euler", "DPMSolver2M", "UniPC(order=3)"])
def test_it_starts_as_the_solvers_there_are(name, x64):
    """Their tables, unrolled, are the solvers: Euler's is x_T less the steps so far, the others' are what they are."""
    sampler = {"Euler": hf.Euler(), "DPMSolver2M": hf.DPMSolver2M(), "UniPC(order=3)": hf.UniPC()}[name]
    flow = hf.diffusion()
    start = starts(flow, 3)
    table = next(v for k, v in _candidates(curved, flow, 6).items() if k.startswith(name) and "cosine" in k)
    solver, grid = table.solver(), hf.cosine_grid(flow, 6)
    np.testing.assert_allclose(solver.times, grid, rtol=1e-12)
    if name == "Euler":
        np.testing.assert_allclose(solver.beta[-1], -(grid[:-1] - grid[1:]), rtol=1e-12)
        np.testing.assert_allclose(solver.alpha, 1.0, rtol=1e-12)
    found = hf.generate(curved, flow, KEY, (3, 2), solver=solver, start=start)
    np.testing.assert_allclose(found, hf.generate(curved, flow, KEY, (3, 2), solver=sampler, times=grid, start=start))


@pytest.mark.parametrize("make", [hf.oscillation, hf.flow_matching, hf.diffusion], ids=lambda make: make.__name__)
def test_eight_evaluations_beat_heun_with_nine(make):
    """At most half of Heun's error on the best of its grids; and about the error that the fit said.

    A few rows near the ridges between modes carry the mean square: of 400 rows each it varies by 40%, so a factor of 2.
    """
    flow = make()
    predictor = hf.MixtureVelocity(ring(), flow)
    fit = hf.fit_few_step(predictor, flow, KEY, (2,), 8, num_iterations=300)
    start = starts(flow, 2000)
    exact = hf.generate(predictor, flow, KEY, start.shape, start=start, tolerance=1e-6)

    def error(solver, times=None):
        ends = hf.generate(predictor, flow, KEY, start.shape, 5, solver, times=times, start=start)
        return float(jnp.sqrt(jnp.mean((ends - exact) ** 2)))

    heun = [error(hf.Heun(), grid(flow, 5)) for grid in (hf.rho_grid, hf.cosine_grid, hf.uniform_grid)]
    learned = error(fit.solver)
    assert learned < 0.5 * min(heun)
    assert fit.error / 2 < learned < 2 * fit.error
    assert fit.error < fit.first_error


def test_flows_that_are_not_linear_and_conditions():
    """A reflection, whose only start is Euler's method; and a field that its condition moves."""
    law = hf.GaussianMixturePotential(array([0.5], [-0.4]), array(0.3, 0.25), array(0.4, 0.6))
    exact, flow = reflection_velocity(law), hf.reflection()

    def predictor(t, x, condition=None, key=None):
        return exact(t, x) * condition

    condition = 0.5 + 0.5 * jr.uniform(KEY, (64,))
    fit = hf.fit_few_step(
        predictor, flow, KEY, (1,), 4, condition=condition, num_paths=64, batch_size=32, num_iterations=100
    )
    assert fit.first.startswith("Euler")
    assert fit.error < 0.7 * fit.first_error
    ends = hf.generate(predictor, flow, jr.key(1), (50, 1), solver=fit.solver, condition=jnp.ones(50))
    assert float(jnp.max(jnp.abs(ends))) <= 1.0


def test_a_learned_solver_is_kept(tmp_path):
    solver = hf.FewStep(array(1.0, 0.4, 0.0), array(0.9, 1.1), array([-0.5, 0.0], [-0.2, -0.3]))
    hf.save(tmp_path / "solver.safetensors", solver)
    kept = hf.load(tmp_path / "solver.safetensors")
    np.testing.assert_array_equal(
        *(hf.generate(curved, hf.flow_matching(), KEY, (3,), solver=s) for s in (solver, kept))
    )


def test_what_does_not_fit_is_refused():
    flow = hf.flow_matching()

    def fit(**arguments):
        return hf.fit_few_step(curved, flow, KEY, (2,), **arguments)

    for arguments, message in (
        ({"num_evaluations": 0}, "num_evaluations must be at least 1, got 0"),
        ({"num_paths": 3}, "num_paths must be at least 16, got 3"),
        ({"num_paths": 32, "batch_size": 30}, "batch_size 30 is more than the 24 paths that are fitted to"),
        ({"condition": jnp.ones(3)}, "there are 2048 paths: give one a path"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(**arguments)
    solver = hf.FewStep(array(1.0, 0.0), array(1.0), array([-1.0]))
    with pytest.raises(ValueError, match=r"starts at time 1\.0, and the flow's horizon is 80\.0"):
        hf.generate(curved, hf.diffusion(), KEY, (2,), solver=solver)
    with pytest.raises(ValueError, match="which has times of its own"):
        hf.generate(curved, flow, KEY, (2,), solver=solver, times=hf.uniform_grid(flow, 1))
    with pytest.raises(ValueError, match="n steps have n \\+ 1 times"):
        hf.FewStep(array(1.0, 0.0), array(1.0, 1.0), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="times must fall to 0"):
        hf.FewStep(array(1.0, 0.5), array(1.0), array([1.0]))
