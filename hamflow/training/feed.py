"""Batches on their way to the devices: the next ones are sent while the devices still work on this one."""

import collections
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hamflow._types import PyTree, checked
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


def stack(batches: Iterable[PyTree], num_steps: int | Iterable[int], total: int | None = None) -> Iterator[PyTree]:
    """Stack `num_steps` batches on a new first axis, for `make_step(..., stacked=True)`.

    - `num_steps`: how many, or the number in each stack, one after the other: see `stack_sizes`.
    - `total`: how many batches in all; by default as many as there are, or as are asked for by `num_steps`.

    The last stack is the smaller one that is left over. Each size is compiled for itself. If reading a batch fails,
    those read before it come first; not so of several processes, whose stacks must be of one size.
    """
    left = iter(batches if total is None else itertools.islice(batches, total))
    for size in num_steps if isinstance(num_steps, Iterable) else itertools.repeat(num_steps):
        if size < 1:
            raise ValueError(f"num_steps is {size}: it must be 1 or more.")
        read, failure = [], None
        try:
            for _ in range(size):
                read.append(next(left))
        except StopIteration:
            pass
        except Exception as error:
            failure = error
        if read and (failure is None or jax.process_count() == 1):
            yield jax.tree.map(lambda *rows: np.stack(rows), *read)
        if failure is not None:
            raise failure
        if len(read) < size:
            return


@checked
def stack_sizes(num_steps: int, *every: int, start_step: int = 0, end_step: int) -> Iterator[int]:
    """How many steps to stack each time, so that no stack reaches beyond a step at which the loop has something to do.

    - `num_steps`: at most so many in a stack.
    - `every`: a stack ends after each multiple of these numbers of steps, counted from step 0.
    - `start_step`, `end_step`: how many steps were made before, and how many there will be at the end.

    A `num_steps` that divides all the others gives stacks of one size, compiled once.

    ```python
    n = start_step
    sizes = stack_sizes(50, validate_steps, save_steps, start_step=n, end_step=num_steps)
    for read, batch in feed(stack(batches, sizes), mesh, stacked=True):
        state, metrics = step(state, batch, key)
        record(metrics, read["index"], batch=read)
        n += len(read["index"])
        if n % validate_steps == 0:
            record.flush()
            record_held_out({"step": n - 1, "images": state.images, **validate(state.ema)})
        if n % save_steps == 0:
            record.flush()
            checkpoints.save(state, key)
    ```
    """
    for name, number in [("num_steps", num_steps), *(("every", number) for number in every)]:
        if number < 1:
            raise ValueError(f"{name} is {number}: it must be 1 or more.")
    return _stack_sizes(num_steps, every, start_step, end_step)


def _stack_sizes(num_steps: int, every: tuple[int, ...], step: int, end_step: int) -> Iterator[int]:
    while step < end_step:
        size = min(num_steps, end_step - step, *(number - step % number for number in every))
        yield size
        step += size
