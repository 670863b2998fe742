"""Batches that are not finite passed over: the others train as if these had not been, and their number has a limit."""

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from training_problem import Regressor, batch_of, loss

from hamflow.training import Checkpoints, NonFiniteLoss, Recorder, init_state, make_step

KEY = jax.random.key(3)
OPTIMIZER = optax.adam(0.05)
STEP = make_step(loss, OPTIMIZER, on_nonfinite="skip")


def poisoned(bad, n):
    batch = batch_of(0, n)
    if n in bad:
        batch["x"] = np.full_like(batch["x"], np.inf)
    return batch


def run(bad, num_steps, record, state=None):
    state = init_state(Regressor(), OPTIMIZER) if state is None else state
    for n in range(int(state.step), num_steps):
        batch = poisoned(bad, n)
        state, metrics = STEP(state, batch, KEY)
        record(metrics, batch["index"])
    record.flush()
    return state


def arrays(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_array))]


def test_a_skipped_step_moves_the_data_on_and_nothing_else():
    state = init_state(Regressor(), OPTIMIZER)
    for n in range(3):
        state, _ = STEP(state, batch_of(0, n), KEY)
    before = arrays((state.model, state.ema, state.opt_state))
    state, metrics = STEP(state, poisoned({3}, 3), KEY)
    assert (int(metrics["step"]), int(metrics["images"]), bool(metrics["finite"])) == (3, 64, False)
    assert arrays((state.model, state.ema, state.opt_state)) == before
    assert (int(state.step), int(state.images), bool(state.finite)) == (4, 64, True)
    state, metrics = STEP(state, batch_of(0, 4), KEY)
    assert (int(metrics["step"]), bool(metrics["finite"])) == (4, True)
    assert arrays((state.model, state.ema, state.opt_state)) != before


def test_without_a_bad_batch_it_is_the_same_training():
    state = run((), 5, Recorder(on_nonfinite="skip"))
    plain, step = init_state(Regressor(), OPTIMIZER), make_step(loss, OPTIMIZER)
    for n in range(5):
        plain, _ = step(plain, batch_of(0, n), KEY)
    assert arrays(state) == arrays(plain)


def test_they_are_counted_and_told_of():
    records, told = [], []
    record = Recorder(records.append, on_nonfinite="skip", max_skipped=3, on_skip=told.append)
    run({1, 2, 5}, 8, record)
    assert [entry["step"] for entry in records] == [0, 3, 4, 6, 7]
    assert [entry.get("skipped") for entry in records] == [None, 2, 2, 3, 3]
    assert record.num_skipped == 3
    assert [(error.step, error.skipped) for error in told] == [(1, 1), (2, 2), (5, 1)]
    np.testing.assert_array_equal(told[2].batch_indices, batch_of(0, 5)["index"])
    assert "Step 2: the loss is " in str(told[1])
    assert "skipped, 2 in a row now, 1 the first of them" in str(told[1])


def test_it_gives_up_after_too_many_in_a_row():
    records = []
    record = Recorder(records.append, on_nonfinite="skip", max_skipped=3)
    with pytest.raises(NonFiniteLoss, match=r"Step 6: .*skipped, 3 in a row now, 4 the first of them"):
        run({1, 2, *range(4, 20)}, 20, record)
    assert [entry["step"] for entry in records] == [0, 3]
    with pytest.raises(ValueError, match="max_skipped is 0"):
        Recorder(on_nonfinite="skip", max_skipped=0)


def test_resumed_it_is_the_same_bit_for_bit(tmp_path):
    bad = {2, 3, 6}
    straight = run(bad, 8, Recorder(on_nonfinite="skip"))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(run(bad, 3, Recorder(on_nonfinite="skip")), KEY)  # just after one was skipped
        state, _, _ = checkpoints.restore(init_state(Regressor(), OPTIMIZER), KEY)
    assert int(state.step) == 3
    assert arrays(run(bad, 8, Recorder(on_nonfinite="skip"), state)) == arrays(straight)
