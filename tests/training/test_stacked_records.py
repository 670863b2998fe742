"""Steps that are stacked, one by one in the records: by hand, in a real run, with numbers that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_problem import Regressor, batch_of, loss

from hamflow.training import (
    Checkpoints,
    NonFiniteLoss,
    Recorder,
    device_mesh,
    feed,
    init_state,
    make_step,
    read_bundle,
    replay,
    save_bundle,
    stack,
    stack_sizes,
)

KEY = jax.random.key(3)
OPTIMIZER = optax.adam(0.05)
STEPS = {how: make_step(loss, OPTIMIZER, stacked=True, on_nonfinite=how) for how in ("stop", "skip")}
ONE = make_step(loss, OPTIMIZER)
MESH = device_mesh(devices=jax.devices()[:1])


def metrics_of(steps, bad=()):
    """The metrics of these steps as a stacked step gives them."""
    steps = np.array(steps)
    finite = ~np.isin(steps, bad)
    return {
        "finite": jnp.asarray(finite),
        "loss": jnp.asarray(np.where(finite, 0.5 * steps, np.nan)),
        "grad_norm": jnp.asarray(1.0 + steps),
        "step": jnp.asarray(steps),
        "rate": 0.25,
    }


def indices_of(steps):
    return np.stack([[10 * n, 10 * n + 1] for n in steps])


class Watched:
    """A stack of metrics that notes when it is read."""

    def __init__(self, steps, reads):
        self.steps, self.reads, self.shape = steps, reads, (len(steps),)

    def __array__(self, dtype=None, copy=None):
        self.reads.append(self.steps)
        return np.asarray(self.steps, float)


def test_one_record_a_step_in_order_and_once():
    records = []
    record = Recorder(records.append)
    for steps in ([0, 1, 2], [3], [4, 5]):
        record(metrics_of(steps), indices_of(steps))
    assert [entry["step"] for entry in records] == [0, 1, 2]
    record.flush()
    record.flush()
    assert [entry["step"] for entry in records] == list(range(6))
    assert [entry["loss"] for entry in records] == [0.5 * n for n in range(6)]
    assert {entry["rate"] for entry in records} == {0.25}
    assert list(records[0]) == ["step", "loss", "grad_norm", "rate", "seconds"]
    assert {type(entry["step"]) for entry in records} == {int}
    assert len({entry["seconds"] for entry in records[:3]}) == 1


def test_the_lag_is_of_calls():
    reads = []
    record = Recorder(lag=1)
    for first in (0, 3, 6):
        steps = list(range(first, first + 3))
        record({"step": Watched(steps, reads), "loss": 1.0})
        assert reads == [[n, n + 1, n + 2] for n in range(0, first, 3)]


def test_in_the_middle_of_a_stack_it_stops_with_that_step():
    records = []
    record = Recorder(records.append)
    record(metrics_of([0, 1]), indices_of([0, 1]), batch={"x": indices_of([0, 1]), "name": "a"})
    steps = [2, 3, 3, 3]  # a step that was not made is not counted
    record(metrics_of(steps, bad=[3]), indices_of([2, 3, 4, 5]), batch={"x": indices_of([2, 3, 4, 5]), "name": "a"})
    with pytest.raises(NonFiniteLoss, match=r"Step 3: the loss is nan .* 4\.0.* after 3 steps.*\[30, 31\]") as e:
        record.flush()
    assert e.value.step == 3
    np.testing.assert_array_equal(e.value.batch_indices, [30, 31])
    np.testing.assert_array_equal(e.value.batch["x"], [30, 31])
    assert e.value.batch["name"] == "a"
    assert [entry["step"] for entry in records] == [0, 1, 2]
    record.flush()
    assert len(records) == 3


def test_those_skipped_are_counted_across_stacks():
    records, told = [], []
    record = Recorder(records.append, lag=0, on_nonfinite="skip", max_skipped=3, on_skip=told.append)
    for steps in ([0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11]):
        if steps[0] < 7:
            record(metrics_of(steps, bad=[1, 3, 4, 6]), indices_of(steps))
    assert [(error.step, error.skipped) for error in told] == [(1, 1), (3, 1), (4, 2), (6, 1)]
    assert [(entry["step"], entry.get("skipped")) for entry in records] == [(0, None), (2, 1), (5, 3)]
    assert record.num_skipped == 4
    with pytest.raises(NonFiniteLoss, match=r"Step 8: .*3 in a row now, 6 the first of them.*\[80, 81\]"):
        record(metrics_of(steps, bad=[7, 8, 9]), indices_of(steps))
    assert len(told) == 5
    assert len(records) == 3


def test_axes_that_do_not_fit():
    record = Recorder()
    with pytest.raises(ValueError, match=r"one axis, that of the steps, .*'step': \(2,\), 'loss': \(3,\)"):
        record({"step": np.zeros(2), "loss": np.zeros(3)})
    with pytest.raises(ValueError, match=r"one axis, .*'loss': \(2, 2\)"):
        record({"loss": np.zeros((2, 2))})
    with pytest.raises(ValueError, match=r"of 2 stacked steps, .* the shape \(4,\)"):
        record(metrics_of([0, 1]), np.arange(4))
    with pytest.raises(ValueError, match=r"of 2 stacked steps, .* the shape \(3, 2\)"):
        record(metrics_of([0, 1]), batch={"x": np.zeros((3, 2))})
    record.flush()


def poisoned(n, bad):
    batch = batch_of(0, n)
    return {**batch, "x": np.full_like(batch["x"], np.nan)} if n in bad else batch


def test_a_stacked_step_that_is_not_finite_leaves_a_bundle_of_its_own_batch(tmp_path):
    records, state = [], init_state(Regressor(), OPTIMIZER)
    record = Recorder(records.append)
    for batch in stack((poisoned(n, {4, 7}) for n in range(100)), 3, total=9):
        state, metrics = STEPS["stop"](state, batch, KEY)
        record(metrics, batch["index"], batch=batch)
    with pytest.raises(NonFiniteLoss, match="Step 4: the loss is nan") as e:
        record.flush()
    assert [entry["step"] for entry in records] == [0, 1, 2, 3]
    assert int(state.step) == 4
    bundle = save_bundle(tmp_path, e.value, state.model, KEY)
    found = read_bundle(bundle)
    assert (bundle.name, found["step"]) == ("nonfinite-4", 4)
    assert found["batch_indices"] == batch_of(0, 4)["index"].tolist()
    np.testing.assert_array_equal(found["batch"]["x"], poisoned(4, {4})["x"])
    np.testing.assert_array_equal(found["batch"]["y"], batch_of(0, 4)["y"])
    assert replay(bundle, loss, Regressor()) is not None
    assert replay(bundle, loss, Regressor(), batch=batch_of(0, 4)) is None


def test_a_stacked_step_that_is_skipped():
    records, told, state = [], [], init_state(Regressor(), OPTIMIZER)
    record = Recorder(records.append, on_nonfinite="skip", on_skip=told.append)
    for batch in stack((poisoned(n, {1, 2, 4}) for n in range(100)), 3, total=6):
        state, metrics = STEPS["skip"](state, batch, KEY)
        record(metrics, batch["index"], batch=batch)
    record.flush()
    assert [(entry["step"], entry.get("skipped")) for entry in records] == [(0, None), (3, 2), (5, 3)]
    assert [(error.step, error.skipped) for error in told] == [(1, 1), (2, 2), (4, 1)]
    for error in told:
        np.testing.assert_array_equal(error.batch["index"], batch_of(0, error.step)["index"])
    assert int(state.step) == 6


VALIDATE, SAVE, END = 6, 4, 23


def unstacked_loop(folder, log):
    state, record = init_state(Regressor(), OPTIMIZER), Recorder(log.append)
    with Checkpoints(folder, keep=99) as checkpoints:
        for n in range(END):
            batch = batch_of(0, n)
            state, metrics = ONE(state, batch, KEY)
            record(metrics, batch["index"])
            if (n + 1) % VALIDATE == 0:
                record.flush()
                log.append({"validated": np.asarray(state.ema.weight)})
            if (n + 1) % SAVE == 0 or n + 1 == END:
                record.flush()
                checkpoints.save(state, KEY)
        return state, checkpoints.steps()


def stacked_loop(folder, log, end):
    state, record = init_state(Regressor(), OPTIMIZER), Recorder(log.append)
    with Checkpoints(folder, keep=99) as checkpoints:
        if checkpoints.steps():
            state, _, _ = checkpoints.restore(state, KEY)
        n = int(state.step)
        sizes = stack_sizes(5, VALIDATE, SAVE, start_step=n, end_step=end)
        for read, batch in feed(stack((batch_of(0, i) for i in range(n, 99)), sizes), MESH, stacked=True):
            state, metrics = STEPS["stop"](state, batch, KEY)
            record(metrics, read["index"], batch=read)
            n += len(read["index"])
            if n % VALIDATE == 0:
                record.flush()
                log.append({"validated": np.asarray(state.ema.weight)})
            if n % SAVE == 0 or n == end:
                record.flush()
                checkpoints.save(state, KEY)
        return state, checkpoints.steps()


def test_a_stacked_loop_does_what_the_other_does_when_it_does_it(tmp_path):
    """Also if it was stopped after 7 steps, in the middle of what would have been a stack, and taken up again."""
    plain, log = [], []
    one, steps = unstacked_loop(tmp_path / "plain", plain)
    _, _ = stacked_loop(tmp_path / "stacked", log, 7)
    many, steps_of_many = stacked_loop(tmp_path / "stacked", log, END)
    assert steps == [4, 8, 12, 16, 20, 23]
    assert steps_of_many == [4, 7, 8, 12, 16, 20, 23]
    assert [entry.get("step") for entry in log] == [entry.get("step") for entry in plain]
    for ours, theirs in zip(log, plain, strict=True):
        for name in ("loss", "images", "validated"):
            if name in theirs:
                np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        if isinstance(ours, jax.Array):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
