"""Where each array of a training lies: which device holds which part of it.

The arithmetic of a step does not mention devices: the compiler sees where the batch and the state lie, and adds what
has to travel. So the same script runs on one device and on a thousand.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

from hamflow._types import PyTree, checked
from hamflow.training.mesh import AXES, check_batch_size

Rule = Callable[[str, tuple[int, ...]], PartitionSpec]
"""`rule(path, shape)`: how an array of the state is split, by its place (`.model.layers[0].weight`) and its shape."""


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a whole copy of every array of a tree on every device of the mesh."""
    return eqx.filter_shard(tree, replicated(mesh))


def largest_axis(num_shards: int, *, min_size: int = 4096) -> Rule:
    """The rule that splits the largest axis which `num_shards` divides, the first of equal ones.

    Arrays of fewer than `min_size` numbers are left whole: to ask for them costs more than to keep them.
    """

    def rule(path: str, shape: tuple[int, ...]) -> PartitionSpec:
        sizes = [size if size % num_shards == 0 else 0 for size in shape]
        if num_shards == 1 or math.prod(shape) < min_size or not any(sizes):
            return PartitionSpec()
        axis = sizes.index(max(sizes))
        return PartitionSpec(*(None,) * axis, "fsdp")

    return rule


@checked
def state_sharding(state: PyTree, mesh: Mesh, rule: Rule | None = None) -> PyTree:
    """The sharding of every array of a state (or of any tree): the same tree, with None for what is no array.

    - `state`: arrays or `jax.ShapeDtypeStruct`s.
    - `rule`: by default `largest_axis` of the mesh's `fsdp` devices. It sees the shape, so parameters, their average
      and the moments of an optimiser are split alike; a rule of your own may look at the path too.

    Raises `ValueError` with the path for an axis that cannot be split so.
    """
    rule = largest_axis(mesh.shape["fsdp"]) if rule is None else rule

    def sharding(path: Any, leaf: Any) -> NamedSharding | None:
        if not (eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)):
            return None
        name = jax.tree_util.keystr(path)
        where = NamedSharding(mesh, rule(name, leaf.shape))
        try:
            if len(where.spec) > len(leaf.shape):
                raise ValueError("it has fewer axes.")
            where.shard_shape(leaf.shape)
        except ValueError as error:
            raise ValueError(f"{name} has the shape {leaf.shape}, and its rule says {where.spec}: {error}") from None
        return where

    return jax.tree_util.tree_map_with_path(sharding, state)


def shard(tree: PyTree, sharding: PyTree) -> PyTree:
    """Put every array of a tree where it belongs; inside `jax.jit`, hold it there.

    - `sharding`: one for all, or a tree of `state_sharding`.
    """
    if isinstance(sharding, Sharding):
        return eqx.filter_shard(tree, sharding)

    def put(where: Sharding | None, leaf: Any) -> Any:
        if where is None:
            return leaf
        if isinstance(leaf, Tracer):
            return jax.lax.with_sharding_constraint(leaf, where)
        return jax.device_put(leaf, where)

    return jax.tree.map(put, sharding, tree, is_leaf=lambda leaf: leaf is None)


def gather(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of a tree whose arrays are whole on one device of this process, wherever their parts lie.

    Of several processes all must call it, and each gets its own copy: to draw samples with, or to be saved.
    """
    arrays, rest = eqx.partition(tree, eqx.is_array)
    whole = jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))(arrays)
    return eqx.combine(jax.tree.map(lambda leaf: leaf.addressable_data(0), whole), rest)


def mesh_of(sharding: PyTree) -> Mesh | AbstractMesh | None:
    """The mesh that a sharding, or a tree of them, speaks of; None where there is none."""
    meshes = [leaf.mesh for leaf in jax.tree.leaves(sharding) if isinstance(leaf, NamedSharding)]
    return meshes[0] if meshes else None


def shard_batch(batch: PyTree, mesh: Mesh, *, stacked: bool = False) -> PyTree:
    """Split the first axis of every array of a batch over all devices of the mesh; of stacked steps, the second.

    Of several processes, each gives the rows which it has read (`hamflow.data.batches` with `process_index`), and
    gets the whole batch, most of which lies elsewhere. Raises `ValueError` if it cannot be split equally.
    """
    axis = int(stacked)
    where = NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXES))

    def put(leaf: Any) -> Any:
        check_batch_size(leaf.shape[axis] * jax.process_count(), mesh)
        if jax.process_count() == 1:
            return jax.device_put(leaf, where)
        return jax.make_array_from_process_local_data(where, np.asarray(leaf))

    arrays, rest = eqx.partition(batch, eqx.is_array)
    return eqx.combine(jax.tree.map(put, arrays), rest)
