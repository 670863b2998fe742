"""The devices of a run as a mesh of two axes: `data`, whose rows hold copies of the state, and `fsdp`, which share one.

Both axes split the batch. Along `data` each device has the whole state (or its part of it) and only gradients travel;
along `fsdp` ("fully sharded data parallel", Zhao et al. 2023) each device stores 1/fsdp of the parameters, of their
average and of the optimiser's state, and collects the parameters for a step. Neighbours in `fsdp` are neighbours in
`jax.devices()`, so that they are on one host, where the wires are fast.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from hamflow._types import checked

AXES = ("data", "fsdp")


@checked
def device_mesh(*, data: int | None = None, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes `data` and `fsdp`.

    - `data`, `fsdp`: how many devices along each; `data` is all that there are over `fsdp` unless given.
    - `devices`: which; the first `data * fsdp` of `jax.devices()` unless given. Several processes take all.

    Raises `ValueError` with the numbers if there are not as many devices.
    """
    found = list(jax.devices() if devices is None else devices)
    for name, number in (("data", data), ("fsdp", fsdp)):
        if number is not None and number < 1:
            raise ValueError(f"The mesh has {name}={number}: make it 1 or more.")
    if data is None:
        if len(found) % fsdp:
            raise ValueError(f"fsdp={fsdp} does not divide the {len(found)} devices there are.")
        data = len(found) // fsdp
    size = data * fsdp
    if size > len(found):
        raise ValueError(f"A mesh of data={data}, fsdp={fsdp} needs {size} devices, and there are {len(found)}.")
    if size < len(found) and devices is None and jax.process_count() > 1:
        raise ValueError(
            f"A mesh of data={data}, fsdp={fsdp} has {size} devices, and the {jax.process_count()} processes have "
            f"{len(found)}: several processes use all they have."
        )
    # In the order of `jax.devices()`, by process: a process then holds the rows of a batch which it has read. Axes are
    # explicit unless asked otherwise since jax 0.10, and `eqx.filter_shard` needs automatic ones.
    return Mesh(np.array(found[:size]).reshape(data, fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def parse_mesh(words: str) -> dict[str, int]:
    """The arguments of `device_mesh` in `"data=4,fsdp=2"`, as written on a command line.

    Raises `ValueError` that shows such words for others.
    """
    sizes: dict[str, int] = {}
    for word in filter(None, (word.strip() for word in words.split(","))):
        name, _, number = word.partition("=")
        if name.strip() not in AXES or name.strip() in sizes or not number.strip().isdecimal():
            raise ValueError(f"{words!r} is no mesh: write one such as data=4 or data=4,fsdp=2.")
        sizes[name.strip()] = int(number)
    return sizes


def check_batch_size(
    batch_size: int, devices: Mesh | AbstractMesh | int, *, microbatches: int = 1, rows_together: int = 1
) -> None:
    """Raise `ValueError` unless all devices can share a batch equally, with as many rows for each in every microbatch.

    - `devices`: their number, or the mesh of them. `microbatches`, `rows_together`: as for `make_step`.
    """
    if batch_size < 1:
        raise ValueError(f"A batch of {batch_size} cannot be trained on: make it 1 or more.")
    number = devices if isinstance(devices, int) else devices.size
    shared = number * microbatches * rows_together
    if batch_size % shared:
        more = f" in {microbatches} microbatches" * (microbatches > 1)
        more += f" with {rows_together} rows together" * (rows_together > 1)
        raise ValueError(
            f"A batch of {batch_size} cannot be split over {number} {'device' if number == 1 else 'devices'}{more}: "
            f"make it a multiple of {shared}, for example {-(-batch_size // shared) * shared}."
        )
