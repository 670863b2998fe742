"""One or many devices: the batch is split over a mesh with a `data` axis, the state is on all of them.

The arithmetic of a step does not mention devices: the compiler sees where the batch and the state lie, and sums the
gradient over all of them. So the same script runs on one device and on eight.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from hamflow._types import PyTree


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with one axis, `data`, over the given devices; over all there are by default."""
    devices = jax.devices() if devices is None else devices
    # Since jax 0.10 axes are explicit unless asked otherwise, and `eqx.filter_shard` needs automatic ones.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a whole copy of every array of a tree on every device of the mesh."""
    return eqx.filter_shard(tree, replicated(mesh))


def check_batch_size(batch_size: int, mesh: Mesh | AbstractMesh) -> None:
    """Raise `ValueError` unless the devices can share a batch equally, with at least one example each."""
    if batch_size < 1:
        raise ValueError(f"A batch of {batch_size} cannot be trained on: make it 1 or more.")
    num_devices = mesh.shape["data"]
    if batch_size % num_devices:
        raise ValueError(
            f"A batch of {batch_size} cannot be split over {num_devices} devices: "
            f"make it a multiple of {num_devices}, for example {-(-batch_size // num_devices) * num_devices}."
        )


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Split the first axis of every array of a batch over the devices of the mesh.

    Raises `ValueError` with both numbers if it cannot be split equally.
    """

    def shard(leaf: Any) -> Any:
        check_batch_size(leaf.shape[0], mesh)
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("data")))

    arrays, rest = eqx.partition(batch, eqx.is_array)
    return eqx.combine(jax.tree.map(shard, arrays), rest)
