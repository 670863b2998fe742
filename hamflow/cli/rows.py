"""Many rows through one compiled function: batches of one shape, split over all devices; and how far it is."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from .._types import PyTree


class Devices:
    """All devices there are: what is `everywhere` is whole on each, what is `spread` is split by its first axis."""

    def __init__(self):
        devices = jax.devices()
        self.number = len(devices)
        mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
        self._whole, self._split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))

    def everywhere(self, tree: PyTree) -> PyTree:
        return eqx.filter_shard(tree, self._whole)

    def spread(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jax.device_put(leaf, self._split), tree)

    def batches(self, number: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
        """The numbers of the rows of each batch, and how many of them count.

        All batches have one length, a multiple of the number of devices, so that one compilation serves all; the last
        one repeats its last row.
        """
        rows = -(-min(size, number) // self.number) * self.number
        for start in range(0, number, rows):
            yield np.minimum(np.arange(start, start + rows), number - 1), min(rows, number - start)


class Progress:
    """`12/64 pictures, 3.1 a second` on stderr: a line that changes in a terminal, elsewhere one every ten seconds."""

    def __init__(self, number: int, noun: str):
        self._number, self._noun = number, noun
        self._started = self._shown = time.monotonic()
        self._first: tuple[float, int] | None = None  # after the first batch, which compiles

    def update(self, done: int) -> None:
        now, last = time.monotonic(), done == self._number
        since, before = (self._started, 0) if self._first is None else self._first
        self._first = self._first or (now, done)
        terminal = sys.stderr.isatty()
        if not (terminal or last or now - self._shown >= 10.0):
            return
        self._shown = now
        rate = f", {(done - before) / (now - since):.2g} a second" if now > since else ""
        start, end = ("\r\x1b[K", "\n" if last else "") if terminal else ("", "\n")
        print(f"{start}{done}/{self._number} {self._noun}{rate}", end=end, file=sys.stderr, flush=True)


def import_data() -> Any:
    """`hamflow.data`, which reads and writes pictures.

    Raises:
        ImportError: Pillow or another package of its extra is missing.
    """
    try:
        from .. import data
    except ModuleNotFoundError as error:
        raise ImportError(f"pictures need {error.name}: pip install 'hamflow[train]'") from None
    return data
