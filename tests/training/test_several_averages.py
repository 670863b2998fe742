"""Several averages in one run: those of as many runs, and widths in between from what was stored along the way."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_problem import Regressor, batch_of, learned, loss

import hamflow as hf
from hamflow.training import (
    Checkpoints,
    ExponentialMovingAverage,
    PowerFunctionAverage,
    init_state,
    make_step,
    only,
    reconstruct_average,
    reconstruction_weights,
)

KEY = jax.random.key(3)
OPTIMIZER = optax.adam(0.05)
AVERAGES = (PowerFunctionAverage(6.94), ExponentialMovingAverage(100), PowerFunctionAverage(16.97))
TRAINABLE = only(Regressor(), learned)
STEP = make_step(loss, OPTIMIZER, AVERAGES, trainable=TRAINABLE, on_nonfinite="skip")


def start():
    return init_state(Regressor(), OPTIMIZER, trainable=TRAINABLE, num_averages=3)


def train(step, state, first, last):
    for n in range(first, last):
        state, metrics = step(state, batch_of(0, n), KEY)
        assert metrics["finite"]
    return state


def arrays(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


def test_a_constant_slope_in_closed_form(x64):
    """Down the slope 1 the model is j after j steps; gamma = 0 and 1 count it as 1/n and (2 j - 1)/n^2."""
    optimizer, n = optax.sgd(1.0), 12
    step = make_step(lambda w, batch, key: (-jnp.sum(w), {}), optimizer, [PowerFunctionAverage(g) for g in (0, 1)])
    state = init_state(jnp.zeros(2), optimizer, num_averages=2)
    for _ in range(n):
        state, _ = step(state, np.zeros(4), KEY)
    np.testing.assert_array_equal(state.model, [n, n])
    np.testing.assert_allclose(state.ema, 2 * [(n + 1) / 2], rtol=1e-12)
    np.testing.assert_allclose(state.other_averages[0], 2 * [(n + 1) * (4 * n - 1) / (6 * n)], rtol=1e-12)


def test_one_run_keeps_what_as_many_runs_would():
    together = train(STEP, start(), 0, 9)
    assert together.ema.constant == together.other_averages[1].constant == 2.0
    for average, found in zip(AVERAGES, (together.ema, *together.other_averages), strict=True):
        alone = init_state(Regressor(), OPTIMIZER, trainable=TRAINABLE)
        alone = train(make_step(loss, OPTIMIZER, average, trainable=TRAINABLE), alone, 0, 9)
        assert arrays(alone.model) == arrays(together.model)
        assert arrays(alone.ema) == arrays(found)
    assert len({tuple(arrays(found)) for found in (together.ema, *together.other_averages)}) == 3


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_they_hold_still_at_a_step_that_is_not_finite(on_nonfinite):
    step = make_step(loss, OPTIMIZER, AVERAGES, trainable=TRAINABLE, on_nonfinite=on_nonfinite)
    state = train(step, start(), 0, 3)
    before = arrays((state.ema, state.other_averages))
    bad = {**batch_of(0, 3), "y": np.full(16, np.nan, np.float32)}
    state, metrics = step(state, bad, KEY)
    assert not metrics["finite"]
    assert arrays((state.ema, state.other_averages)) == before


def test_a_resumed_run_goes_on_with_all_of_them(tmp_path):
    straight = train(STEP, start(), 0, 9)
    with Checkpoints(tmp_path) as checkpoints:
        saved = train(STEP, start(), 0, 5)
        checkpoints.save(saved, KEY)
        state, _, _ = checkpoints.restore(start(), KEY)
        assert arrays(state) == arrays(saved)
        assert arrays(train(STEP, state, 5, 9)) == arrays(straight)
        fewer = init_state(Regressor(), OPTIMIZER, trainable=TRAINABLE, num_averages=2)
        with pytest.raises(ValueError, match=r"averages\[1\]\.weight: float32\[4\] in the checkpoint, absent now"):
            checkpoints.restore(fewer, KEY)


def test_a_width_in_between_from_what_was_stored_along_the_way(x64, tmp_path):
    """All of three averages in one run; the third from files of the first two, within the bound of its docstring.

    An average is exactly the integral of its profile over the path of the model, which is constant from step to step.
    """
    widths, size, every, num_steps = (0.05, 0.10, 0.07), 8, 10, 160
    narrow, wide, wanted = (PowerFunctionAverage.from_relative_width(width) for width in widths)
    optimizer = optax.sgd(0.2)
    step = make_step(lambda w, x, key: (jnp.mean((w[None, :] - x) ** 2), {}), optimizer, (narrow, wide, wanted))
    state = init_state(jnp.zeros(3), optimizer, num_averages=3)
    draws = np.random.default_rng(0).normal(size=(num_steps, size, 3))
    path, stored, images = [], [], []
    for n in range(num_steps):  # a target that turns, so that the model never comes to rest
        target = np.array([np.sin(n / 20), np.cos(n / 15), n / 100])
        state, _ = step(state, target[None, :] + 0.3 * draws[n], KEY)
        path.append(np.asarray(state.model))
        if (n + 1) % every == 0:
            hf.save(tmp_path / f"{n}.hamflow", (state.ema, state.other_averages[0]))
            stored += hf.load(tmp_path / f"{n}.hamflow")
            images += 2 * [(n + 1) * size]
    averages = [narrow, wide] * (num_steps // every)
    found = reconstruct_average(stored, averages, images, wanted, num_steps * size)
    kept = state.other_averages[1]
    _, error = reconstruction_weights(averages, images, wanted, num_steps * size)
    spread = np.sqrt(np.mean(np.sum((path - np.mean(path, axis=0)) ** 2, axis=1)))
    bound = error * (wanted.gamma + 1) / np.sqrt(2 * wanted.gamma + 1) * spread
    assert 0 < np.linalg.norm(found - kept) <= bound
    # It means something: both neighbours are much further off, and so is what comes of them under each other's names.
    swapped = reconstruct_average(stored, averages[::-1], images, wanted, num_steps * size)
    for other in (state.ema, state.other_averages[0], swapped):
        assert np.linalg.norm(other - kept) > 3 * bound


def test_numbers_that_do_not_fit():
    one = init_state(Regressor(), OPTIMIZER, trainable=TRAINABLE)
    with pytest.raises(ValueError, match=r"keeps 3 and the state has 1 as averages .* init_state num_averages=3"):
        STEP(one, batch_of(0, 0), KEY)
    with pytest.raises(ValueError, match=r"keeps 1 and the state has 3 .* num_averages=1"):
        make_step(loss, OPTIMIZER, trainable=TRAINABLE)(start(), batch_of(0, 0), KEY)
    with pytest.raises(ValueError, match="num_averages is 0"):
        init_state(Regressor(), OPTIMIZER, num_averages=0)
    with pytest.raises(ValueError, match="ema is empty"):
        make_step(loss, OPTIMIZER, ())
