"""The mesh on one device; on eight, see `test_loop.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from hamflow.training import (
    check_batch_size,
    device_mesh,
    largest_axis,
    parse_mesh,
    replicate,
    replicated,
    shard,
    shard_batch,
    state_sharding,
)


def test_one_device():
    mesh = device_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1}
    batch = shard_batch({"x": np.arange(6).reshape(3, 2), "label": None, "name": "a"}, mesh)
    np.testing.assert_array_equal(batch["x"], np.arange(6).reshape(3, 2))
    assert batch["x"].sharding.spec == PartitionSpec(("data", "fsdp"))
    assert (batch["label"], batch["name"]) == (None, "a")


def test_replicate_keeps_all_that_is_no_array():
    mesh = device_mesh()
    tree = replicate({"w": jnp.ones(2), "key": jax.random.key(0), "f": jnp.tanh, "c": 2.0}, mesh)
    assert tree["w"].sharding == tree["key"].sharding == replicated(mesh)
    assert (tree["f"], tree["c"]) == (jnp.tanh, 2.0)


def test_a_batch_that_cannot_be_shared():
    mesh = AbstractMesh((4, 2), ("data", "fsdp"))
    check_batch_size(64, mesh)
    with pytest.raises(
        ValueError, match=r"batch of 60 cannot be split over 8 devices: .* multiple of 8, for example 64"
    ):
        check_batch_size(60, mesh)


@pytest.mark.parametrize("batch_size", [0, -4])
def test_a_batch_of_nothing_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"A batch of {batch_size} cannot be trained on"):
        check_batch_size(batch_size, device_mesh())


def test_a_mesh_in_words():
    assert parse_mesh("data=4,fsdp=2") == {"data": 4, "fsdp": 2}
    assert parse_mesh(" fsdp = 8 ") == {"fsdp": 8}
    assert parse_mesh("") == {}
    for words in ("4", "data=", "data=four", "data=2,data=2", "model=2", "data=-1"):
        with pytest.raises(ValueError, match=f"{words!r} is no mesh: write one such as"):
            parse_mesh(words)


def test_a_mesh_that_there_are_no_devices_for():
    with pytest.raises(ValueError, match=r"data=4, fsdp=2 needs 8 devices, and there are 1"):
        device_mesh(data=4, fsdp=2, devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="fsdp=2 does not divide the 1 devices"):
        device_mesh(fsdp=2, devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="data=0: make it 1 or more"):
        device_mesh(data=0)


def test_the_largest_axis_that_can_be_split_is():
    rule = largest_axis(4, min_size=16)
    for shape, spec in {
        (8, 12): PartitionSpec(None, "fsdp"),
        (12, 12): PartitionSpec("fsdp"),
        (3, 3, 8, 4): PartitionSpec(None, None, "fsdp"),
        (9, 7): PartitionSpec(),  # nothing that 4 divides
        (4, 2): PartitionSpec(),  # too small
        (): PartitionSpec(),
    }.items():
        assert rule("", shape) == spec, shape
    assert largest_axis(1)("", (4096, 4096)) == PartitionSpec()


def test_a_state_knows_where_its_arrays_lie():
    mesh = device_mesh(devices=jax.devices()[:1])
    tree = {"w": jnp.ones((8, 2)), "f": jnp.tanh, "none": None, "python": 2.0}
    where = state_sharding(tree, mesh, lambda path, shape: PartitionSpec("fsdp" if path == "['w']" else None))
    assert where["w"].spec == PartitionSpec("fsdp")
    assert (where["f"], where["none"], where["python"]) == (None, None, None)
    put = shard(tree, where)
    assert put["w"].sharding == where["w"]
    assert (put["f"], put["none"], put["python"]) == (jnp.tanh, None, 2.0)
    with pytest.raises(ValueError, match=r"\['w'\] has the shape \(8, 2\), and its rule says"):
        state_sharding(tree, mesh, lambda path, shape: PartitionSpec(None, None, None, "fsdp"))
