"""Batches on their way to the devices: the next ones are sent while the devices still work on this one."""

import collections
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hamflow._types import PyTree
from hamflow.training.sharding import shard_batch


def feed(batches: Iterable[Any], mesh: Mesh, *, ahead: int = 2, stacked: bool = False) -> Iterator[tuple[Any, Any]]:
    """Yield each batch twice: as it was read, on the host, and split over the devices of the mesh.

    - `batches`: trees of NumPy arrays; of several processes, each gives its own rows.
    - `ahead`: how many are sent before they are asked for.
    - `stacked`: they are stacks of steps, see `stack`.

    An error in reading comes where its batch would have come, after all that were read before it.

    ```python
    for n, (read, batch) in enumerate(feed(batches, mesh), first_step):
        state, metrics = step(state, batch, key)
        record(metrics, read["index"])
    ```
    """
    if ahead < 0:
        raise ValueError(f"ahead is {ahead}: it must not be negative.")
    return _feed(iter(batches), mesh, ahead, stacked)


def _feed(batches: Iterator[Any], mesh: Mesh, ahead: int, stacked: bool) -> Iterator[tuple[Any, Any]]:
    sent: collections.deque[tuple[Any, Any]] = collections.deque()
    failure: Exception | None = None
    ended = False
    while True:
        while not ended and len(sent) <= ahead:
            try:
                read = next(batches)
                sent.append((read, shard_batch(read, mesh, stacked=stacked)))
            except StopIteration:
                ended = True
            except Exception as error:
                failure, ended = error, True
        if not sent:
            break
        yield sent.popleft()
    if failure is not None:
        raise failure


def stack(batches: Iterable[PyTree], num_steps: int, total: int) -> Iterator[PyTree]:
    """Stack `num_steps` batches on a new first axis, for `make_step(..., stacked=True)`; `total` batches in all.

    The last stack is the smaller one that is left over, which is compiled for itself. If reading a batch fails, those
    read before it come first.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}: it must be 1 or more.")
    left = iter(itertools.islice(batches, total))
    while True:
        read, failure = [], None
        try:
            for _ in range(num_steps):
                read.append(next(left))
        except StopIteration:
            pass
        except Exception as error:
            failure = error
        if read:
            yield jax.tree.map(lambda *rows: np.stack(rows), *read)
        if failure is not None:
            raise failure
        if len(read) < num_steps:
            return
