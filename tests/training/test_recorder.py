"""Metrics are read late, in order and once; a number that is not finite stops the loop with all there is to know."""

import jax.numpy as jnp
import numpy as np
import pytest

from hamflow.training import NonFiniteLoss, Recorder


class Watched:
    """A metric that notes when it is read."""

    def __init__(self, step, reads):
        self.step, self.reads = step, reads

    def __array__(self, dtype=None, copy=None):
        self.reads.append(self.step)
        return np.asarray(float(self.step))


@pytest.mark.parametrize("lag", [0, 2, 5])
def test_a_step_is_read_when_lag_more_were_started(lag):
    reads, records = [], []
    record = Recorder(records.append, lag=lag)
    for n in range(8):
        record({"step": np.int32(n), "loss": Watched(n, reads), "finite": np.True_})
        assert reads == list(range(n + 1 - lag))
    record.flush()
    assert reads == list(range(8))
    assert [entry["step"] for entry in records] == list(range(8))
    record.flush()
    assert len(records) == 8


def test_records_are_python_numbers_for_every_writer():
    one, two = [], []
    record = Recorder(one.append, two.append, lag=0)
    record({"finite": jnp.asarray(True), "loss": jnp.asarray(0.5), "step": jnp.int32(3), "extra": 2.0})
    assert one == two
    assert list(one[0]) == ["step", "loss", "extra", "seconds"]
    assert [type(value) for value in one[0].values()] == [int, float, float, float]
    assert one[0]["seconds"] >= 0


def test_a_loss_that_is_not_finite():
    records = []
    record = Recorder(records.append)
    metrics = {"images": 64, "loss": jnp.asarray(1.0), "grad_norm": jnp.asarray(2.0), "finite": jnp.asarray(True)}
    record({**metrics, "step": 0}, np.array([1, 2]))
    record({**metrics, "step": 1, "loss": jnp.asarray(jnp.nan), "finite": jnp.asarray(False)}, np.array([30, 40]))
    record({**metrics, "step": 1, "finite": jnp.asarray(False)}, np.array([5, 6]))  # started before anybody knew
    message = r"Step 1: the loss is nan .* gradient 2\.0.* after 1 step.*\[30, 40\]"
    with pytest.raises(NonFiniteLoss, match=message) as e:
        record({**metrics, "step": 1, "finite": jnp.asarray(False)}, np.array([7, 8]))
    assert e.value.step == 1
    np.testing.assert_array_equal(e.value.batch_indices, [30, 40])
    assert [entry["step"] for entry in records] == [0]
    record.flush()
    assert len(records) == 1


def test_bad_lag():
    with pytest.raises(ValueError, match="lag"):
        Recorder(lag=-1)
