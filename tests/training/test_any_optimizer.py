"""Optimisers that ask for the value of the loss, or that are no plain transformation, on problems solved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hamflow._errors import ArgumentTypeError
from hamflow.training import Checkpoints, init_state, make_step

HESSIAN = np.diag([1.0, 10.0, 100.0]).astype(np.float32)
CENTRE = np.array([1.0, -2.0, 0.5], np.float32)
KEY = jax.random.key(0)


def bowl(model, batch, key):
    """(w - c)^T H (w - c) / 2 on average over a batch of shifts, which add up to nothing."""
    hessian, centre = jnp.asarray(HESSIAN, model.dtype), jnp.asarray(CENTRE, model.dtype)
    offset = (model - centre)[None] - batch.astype(model.dtype)
    return jnp.mean(0.5 * jnp.sum(offset @ hessian * offset, axis=-1)), {}


SHIFTS = np.stack([np.full(3, 0.1, np.float32), np.full(3, -0.1, np.float32)])


def run(optimizer, steps, state=None, **options):
    step = make_step(bowl, optimizer, **options)
    state = init_state(jnp.zeros(3), optimizer) if state is None else state
    for _ in range(steps):
        state, metrics = step(state, SHIFTS, KEY)
    return state, metrics


@pytest.mark.parametrize("options", [{}, {"rows_together": 1, "microbatches": 2}], ids=["whole", "microbatches"])
def test_lbfgs_finds_the_minimum_of_a_bowl(options, x64):
    """Gradient descent at its best rate leaves (99 / 101)^25 = .6 of the distance at condition 100.

    In double precision, since the line search compares losses.
    """
    state, metrics = run(optax.lbfgs(), 25, **options)
    np.testing.assert_allclose(state.model, CENTRE, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(0.5 * 0.01 * 111.0, rel=1e-4)  # that of the shifts


def test_a_resumed_line_search_goes_on_as_it_would_have(tmp_path):
    optimizer = optax.lbfgs()
    whole, _ = run(optimizer, 5)
    half, _ = run(optimizer, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(half, KEY)
        restored, _, _ = checkpoints.restore(init_state(jnp.zeros(3), optimizer), KEY)
    resumed, _ = run(optimizer, 3, restored)
    np.testing.assert_array_equal(resumed.model, whole.model)


def test_the_rate_falls_on_a_plateau():
    """At the minimum the loss stays: after three steps without progress the rate is a tenth, after six a hundredth."""
    optimizer = optax.chain(optax.sgd(1e-3), optax.contrib.reduce_on_plateau(factor=0.1, patience=3))
    state = init_state(jnp.asarray(CENTRE), optimizer)
    state, _ = run(optimizer, 7, state)
    assert float(state.opt_state[-1].scale) == pytest.approx(0.01)


def test_multisteps_makes_one_step_of_several():
    """Two gradients, then one update with their mean: as one step on a batch of both."""
    optimizer = optax.MultiSteps(optax.sgd(1e-2), 2)
    step = make_step(bowl, optimizer)
    state = init_state(jnp.zeros(3), optimizer)
    state, _ = step(state, SHIFTS[:1], KEY)
    np.testing.assert_array_equal(state.model, np.zeros(3))
    state, _ = step(state, SHIFTS[1:], KEY)
    np.testing.assert_allclose(state.model, 1e-2 * HESSIAN @ CENTRE, rtol=1e-5)


def test_what_is_no_optimiser_is_refused_by_name():
    for make in (lambda: make_step(bowl, 1e-3), lambda: init_state(jnp.zeros(3), optax.adam)):
        with pytest.raises(ArgumentTypeError, match=r"optimizer must be an optax optimiser") as caught:
            make()
        assert caught.value.argument == "optimizer"
