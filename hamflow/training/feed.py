"""Batches on their way to the devices: the next ones are sent while the devices still work on this one."""

import collections
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hamflow._types import PyTree
from hamflow.training.agreement import LargestOfAll, words_of_all
from hamflow.training.sharding import shard_batch


class ReadingFailed(RuntimeError):
    """One of several processes could not read its rows of a batch; all of them raise this, for the same batch."""


def feed(batches: Iterable[Any], mesh: Mesh, *, ahead: int = 2, stacked: bool = False) -> Iterator[tuple[Any, Any]]:
    """Yield each batch twice: as it was read, on the host, and split over the devices of the mesh.

    - `batches`: trees of NumPy arrays; of several processes, each gives its own rows.
    - `ahead`: how many are sent before they are asked for, the same in all processes.
    - `stacked`: they are stacks of steps, see `stack`.

    An error in reading comes where its batch would have come, after all that were read before it. So it does in several
    processes: each says along with the rows that it sends ahead whether there were any, and where one has none all
    raise `ReadingFailed`, with what was said there. They have made the same steps then, and can save them together.
    Where the batches of one end, they end for all.

    ```python
    for n, (read, batch) in enumerate(feed(batches, mesh), first_step):
        state, metrics = step(state, batch, key)
        record(metrics, read["index"])
    ```
    """
    if ahead < 0:
        raise ValueError(f"ahead is {ahead}: it must not be negative.")
    return _feed(iter(batches), mesh, ahead, stacked)


_READ, _ENDED, _FAILED = range(3)


def _feed(batches: Iterator[Any], mesh: Mesh, ahead: int, stacked: bool) -> Iterator[tuple[Any, Any]]:
    sent: collections.deque[tuple[Any, Any]] = collections.deque()
    failure: Exception | None = None
    outcome, worst = _READ, LargestOfAll(mesh)
    while True:
        # Also one that has nothing more says so for every batch until the others have heard of it: all send equally
        # often, whatever `ahead` is and however early it happens.
        while len(sent) <= ahead:
            pair = None
            if outcome == _READ:
                try:
                    read = next(batches)
                    pair = read, shard_batch(read, mesh, stacked=stacked)
                except StopIteration:
                    outcome = _ENDED
                except Exception as error:
                    failure, outcome = error, _FAILED
            sent.append((pair, worst.send(outcome)))
        pair, outcomes = sent.popleft()
        of_all = worst.read(outcomes)
        if of_all == _FAILED:
            raise _reading_failed(failure)
        if of_all == _ENDED:
            return
        yield pair


def _reading_failed(failure: Exception | None) -> Exception:
    if jax.process_count() == 1:
        assert failure is not None
        return failure
    words = words_of_all("" if failure is None else f"{type(failure).__name__}: {failure}")
    found = [f"Process {index} could not read its rows of a batch: {each}" for index, each in enumerate(words) if each]
    error = ReadingFailed("\n".join(found))
    error.__cause__ = failure
    return error


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
