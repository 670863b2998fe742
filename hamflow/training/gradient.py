"""The gradient of a loss over a batch, in one piece or in many, on one device or on many, and the same in all of them.

A loss draws random numbers for the rows it is given. Given the whole batch they depend on all of it, and then the batch
is one piece: the compiler splits its arithmetic over the devices. Where the rows are independent the batch is cut into
groups, each with a key of its own that depends on its place in the batch only. These may be spread over devices and
over microbatches, one after the other, in any way: the sums are the same up to rounding.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec, Sharding

from hamflow._types import Array, Key, PyTree, Scalar
from hamflow.training.mesh import AXES, check_batch_size
from hamflow.training.sharding import mesh_of, replicated, shard
from hamflow.training.trainable import split

Loss = Callable[[Any, Any, Key[Array, ""]], tuple[Scalar, dict[str, Any]]]
"""`loss(model, batch, key)` gives the mean loss over the batch, and scalars to write down under their names."""

_OWN_METRICS = ("step", "images", "loss", "grad_norm", "finite")

_Results = tuple[Scalar, dict[str, Any], PyTree]


def gradient(
    loss: Loss,
    model: PyTree,
    batch: PyTree,
    key: Key[Array, ""],
    trainable: PyTree,
    *,
    sharding: PyTree = None,
    microbatches: int = 1,
    rows_together: int | None = None,
) -> _Results:
    """The mean of the loss over a batch, its metrics, and the gradient with respect to what is trained.

    - `sharding`: where the model lies: one sharding or a tree of them, whose devices share the batch; None for one.
    - `microbatches`, `rows_together`: as for `make_step`.
    """
    trained, rest = split(model, trainable)
    mesh = mesh_of(sharding)
    if mesh is not None:
        # Each device collects the parameters it needs; the transpose of this adds the gradient of all.
        trained, rest = (shard(tree, replicated(mesh)) for tree in (trained, rest))
    if rows_together is None:
        return _of_one_piece(loss, trained, rest, batch, key)
    num_devices = 1 if mesh is None else mesh.size
    size = batch_size(batch)
    check_batch_size(size, num_devices, microbatches=microbatches, rows_together=rows_together)
    total = size // rows_together
    groups, keys = _groups(batch, key, total)
    arrays, constants = eqx.partition(rest, eqx.is_array)

    def of_groups(trained: PyTree, arrays: PyTree, groups: PyTree, keys: Array) -> _Results:
        rest = eqx.combine(arrays, constants)
        return _of_groups(loss, trained, rest, groups, keys, microbatches=microbatches, total=total)

    if mesh is not None and num_devices > 1:
        of_groups = _on_every_device(of_groups, mesh, _specs(trained, sharding))
    return of_groups(trained, arrays, groups, keys)


def grouped(loss: Loss, rows_together: int) -> Loss:
    """The loss of a batch as a step with `rows_together` sees it: the mean over groups, each with a key of its own."""

    def of_batch(model: Any, batch: Any, key: Key[Array, ""]) -> tuple[Scalar, dict[str, Any]]:
        groups, keys = _groups(batch, key, batch_size(batch) // rows_together)
        values, metrics = jax.vmap(lambda rows, key: _arrays_of(loss)(model, rows, key))(groups, keys)
        return jnp.mean(values), {name: jnp.mean(each) for name, each in metrics.items()}

    return of_batch


def batch_size(batch: PyTree) -> int:
    """The number of rows of a batch; `ValueError` if its arrays do not agree."""
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(eqx.filter(batch, eqx.is_array))}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"The arrays of a batch need one first axis of the same size; theirs are {sorted(sizes)}.")
    return next(iter(sizes))[0]


def _of_one_piece(loss: Loss, trained: PyTree, rest: PyTree, batch: PyTree, key: Key[Array, ""]) -> _Results:
    def objective(trained: PyTree) -> tuple[Scalar, dict[str, Any]]:
        value, metrics = loss(eqx.combine(trained, rest), batch, key)
        _check_metrics(metrics)
        return value, metrics

    (value, metrics), grads = eqx.filter_value_and_grad(objective, has_aux=True)(trained)
    return value, metrics, grads


def _check_metrics(metrics: dict[str, Any]) -> None:
    taken = [name for name in metrics if name in _OWN_METRICS]
    if taken:
        raise ValueError(f"The loss returns a metric named {taken[0]!r}, which the step uses itself: rename it.")
    for name, metric in metrics.items():
        if jnp.ndim(metric) != 0:
            raise ValueError(f"The metric {name!r} of the loss has the shape {jnp.shape(metric)}: metrics are scalars.")


def _groups(batch: PyTree, key: Key[Array, ""], total: int) -> tuple[PyTree, Array]:
    groups = jax.tree.map(lambda x: jnp.reshape(x, (total, x.shape[0] // total, *x.shape[1:])), batch)
    return groups, jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(total))


def _arrays_of(loss: Loss) -> Loss:
    def of_group(model: Any, rows: PyTree, key: Key[Array, ""]) -> tuple[Scalar, dict[str, Any]]:
        value, metrics = loss(model, rows, key)
        _check_metrics(metrics)
        return value, {name: jnp.asarray(metric, value.dtype) for name, metric in metrics.items()}

    return of_group


def _of_groups(
    loss: Loss, trained: PyTree, rest: PyTree, groups: PyTree, keys: Array, *, microbatches: int, total: int
) -> _Results:
    """The sum over these groups, one microbatch after the other, as their share of the mean over all `total` groups."""

    def of_one(groups: PyTree, keys: Array) -> _Results:
        def objective(trained: PyTree) -> tuple[Scalar, dict[str, Any]]:
            model = eqx.combine(trained, rest)
            values, metrics = jax.vmap(lambda rows, key: _arrays_of(loss)(model, rows, key))(groups, keys)
            return jnp.sum(values) / total, {name: jnp.sum(each) / total for name, each in metrics.items()}

        (value, metrics), grads = eqx.filter_value_and_grad(objective, has_aux=True)(trained)
        return value, metrics, grads

    if microbatches == 1:
        return of_one(groups, keys)
    groups, keys = jax.tree.map(lambda x: jnp.reshape(x, (microbatches, -1, *x.shape[1:])), (groups, keys))

    def add(sums: _Results, microbatch: tuple[PyTree, Array]) -> tuple[_Results, None]:
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, of_one(*microbatch)), None

    one = jax.eval_shape(of_one, *jax.tree.map(lambda x: x[0], (groups, keys)))
    # Many small numbers are added: half precision would lose the last of them.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32 if x.dtype.itemsize < 4 else x.dtype), one)
    sums, _ = jax.lax.scan(add, zeros, (groups, keys))
    return jax.tree.map(lambda x, like: x.astype(like.dtype), sums, one)


def _specs(trained: PyTree, sharding: PyTree) -> PyTree:
    """How each gradient is to be split: as its parameter, where that is along `fsdp` alone; else not at all."""
    if isinstance(sharding, Sharding):
        return jax.tree.map(lambda _: PartitionSpec(), trained)

    def spec(leaf: Any, where: Any) -> PartitionSpec | None:
        if leaf is None:
            return None
        along = [axis for axis in where.spec if axis is not None]
        return where.spec if along == ["fsdp"] else PartitionSpec()

    return jax.tree.map(spec, trained, sharding, is_leaf=lambda leaf: leaf is None)


def _on_every_device(
    of_groups: Callable[..., _Results], mesh: Mesh | AbstractMesh, specs: PyTree
) -> Callable[..., _Results]:
    """Let every device work on its own groups through all microbatches, and add up over the devices once, at the end.

    Left to itself the compiler would add up the gradient after every microbatch, and the whole of it on every device.
    """
    rows, whole = PartitionSpec(AXES), PartitionSpec()

    def everywhere(x: Array) -> Array:
        return jax.lax.psum(x, AXES)

    def in_its_place(x: Array, spec: PartitionSpec) -> Array:
        if "fsdp" not in spec:
            return everywhere(x)
        # Each device keeps its part of the sum: half of what is sent for the whole, and the rest is a part only.
        part = jax.lax.psum_scatter(x, "fsdp", scatter_dimension=spec.index("fsdp"), tiled=True)
        return jax.lax.psum(part, "data")

    def here(*arguments: Any) -> _Results:
        value, metrics, grads = of_groups(*arguments)
        return everywhere(value), jax.tree.map(everywhere, metrics), jax.tree.map(in_its_place, grads, specs)

    return jax.shard_map(
        here, mesh=mesh, in_specs=(whole, whole, rows, rows), out_specs=(whole, whole, specs), check_vma=False
    )
