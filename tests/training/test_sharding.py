"""The mesh on one device; on eight, see `test_loop.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from hamflow.training import check_batch_size, data_mesh, replicate, replicated, shard_batch


def test_one_device():
    mesh = data_mesh(jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1}
    batch = shard_batch({"x": np.arange(6).reshape(3, 2), "label": None, "name": "a"}, mesh)
    np.testing.assert_array_equal(batch["x"], np.arange(6).reshape(3, 2))
    assert batch["x"].sharding.spec == PartitionSpec("data")
    assert (batch["label"], batch["name"]) == (None, "a")


def test_replicate_keeps_all_that_is_no_array():
    mesh = data_mesh()
    tree = replicate({"w": jnp.ones(2), "key": jax.random.key(0), "f": jnp.tanh, "c": 2.0}, mesh)
    assert tree["w"].sharding == tree["key"].sharding == replicated(mesh)
    assert (tree["f"], tree["c"]) == (jnp.tanh, 2.0)


def test_a_batch_that_cannot_be_shared():
    mesh = AbstractMesh((8,), ("data",))
    check_batch_size(64, mesh)
    with pytest.raises(
        ValueError, match=r"batch of 60 cannot be split over 8 devices: .* multiple of 8, for example 64"
    ):
        check_batch_size(60, mesh)


@pytest.mark.parametrize("batch_size", [0, -4])
def test_a_batch_of_nothing_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"A batch of {batch_size} cannot be trained on"):
        check_batch_size(batch_size, data_mesh())
