"""Batches whose order is a function of the seed and the step, and of nothing else.

The training stream is one infinite sequence of pictures: each epoch is a permutation of all of them, and a batch takes
the next `batch_size`, across the end of an epoch where it must. So no picture is dropped at the end of an epoch, none
comes twice within one, and element k of the stream is

    order(seed, k // n)[k % n]        for n pictures.

A run that was stopped continues at its step bit for bit, whatever number of threads, workers or hosts reads now:
there is no state of the loader to be saved.
"""

import os
from dataclasses import dataclass
from functools import lru_cache

import grain
import numpy as np

from hamflow._types import checked
from hamflow.data.arrays import ArrayImages
from hamflow.data.cache import DEFAULT_CACHE_BYTES, CachedImages, decoded_bytes
from hamflow.data.images import AbstractImages

Batch = dict[str, np.ndarray]
"""`"image"` uint8 (b, 3, height, width), `"index"` int32 (b,) and, where there are labels, `"label"` int32 (b,)."""

_NUM_STEPS = 1 << 62  # grain wants a length


@lru_cache(maxsize=4)  # the threads that read ahead are at most one epoch apart
def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """Return the order of one epoch: a permutation of 0, ..., num_images - 1.

    The raw numbers of a bit generator are the same in every release of numpy, those of `Generator.permutation` are not
    promised to be (NEP 19): the order is that which sorts one random 64-bit number a picture.
    """
    keys = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_images)
    order = np.argsort(keys, kind="stable").astype(np.int32)
    order.flags.writeable = False
    return order


def stream_indices(seed: int, num_images: int, start: int, stop: int) -> np.ndarray:
    """Return elements start, ..., stop - 1 of the infinite stream, int32 (stop - start,)."""
    position = np.arange(start, stop)
    epochs = position // num_images
    indices = np.empty(stop - start, np.int32)
    for epoch in np.unique(epochs):
        rows = epochs == epoch
        indices[rows] = epoch_order(seed, int(epoch), num_images)[position[rows] % num_images]
    return indices


@dataclass(frozen=True)
class BatchReader:
    """The map from a step to this process's rows of the batch of that step."""

    source: AbstractImages
    batch_size: int
    seed: int
    process_index: int = 0
    process_count: int = 1

    def __call__(self, step: int) -> Batch:
        rows = self.batch_size // self.process_count
        start = step * self.batch_size + self.process_index * rows
        indices = stream_indices(self.seed, len(self.source), start, start + rows)
        batch = {"image": np.stack([self.source.read(int(i)) for i in indices]), "index": indices}
        if self.source.labels is not None:
            batch["label"] = self.source.labels[indices]
        return batch


@checked
def batches(
    source: AbstractImages,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    num_threads: int | None = None,
    num_workers: int = 0,
    cache: bool | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Return the infinite batches of a training run, from `start_step` on.

    - `batch_size`: pictures a step over all hosts; at most the pictures there are.
    - `seed`: the order. Equal seeds give equal batches at equal steps, bit for bit.
    - `start_step`: the global step of the first batch, in batches of this size.
    - `num_threads`: threads that read ahead; None is one a core, at most 16. 0 reads when asked.
    - `num_workers`: processes that decode beside this one, started by spawning, so the calling script needs
      `if __name__ == "__main__":`. Worth it only where decoding large pictures is slower than the model.
    - `cache`: keep decoded pictures in memory. None does so up to 1 GiB, if there are no worker processes and the
      pictures do not lie decoded in an array already.
    - `process_index`, `process_count`: on several hosts, each reads its rows of every batch:
      `jax.process_index()`, `jax.process_count()`.

    Yields dicts with `"image"` uint8 (b, 3, height, width), `"index"` int32 (b,) and, if the source has labels,
    `"label"` int32 (b,), b = batch_size / process_count. `close()` ends the threads. Raises `ValueError` for numbers
    that do not fit together.

        for step, batch in enumerate(batches(source, 64, seed=0, start_step=step), step):
            ...
    """
    _check(source, batch_size, seed, start_step, num_threads, num_workers, process_index, process_count)
    if cache and num_workers:
        raise ValueError("cache=True needs num_workers=0: every worker process would keep a copy of its own.")
    if cache is None:
        is_decoded = isinstance(source, ArrayImages) and source.is_decoded
        cache = num_workers == 0 and decoded_bytes(source) <= DEFAULT_CACHE_BYTES and not is_decoded
    if cache and not isinstance(source, CachedImages):
        source = CachedImages(source)
    if num_threads is None:
        num_threads = min(16, os.cpu_count() or 1)
    reader = BatchReader(source, batch_size, seed, process_index, process_count)
    steps = grain.MapDataset.range(start_step, _NUM_STEPS).map(reader)
    stream = steps.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads))
    if num_workers:
        _let_grain_start_workers()
        stream = stream.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=num_workers))
    return iter(stream)


def _check(
    source: AbstractImages,
    batch_size: int,
    seed: int,
    start_step: int,
    num_threads: int | None,
    num_workers: int,
    process_index: int,
    process_count: int,
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 or more.")
    if batch_size > len(source):
        raise ValueError(
            f"batch_size is {batch_size}, but {source.name} has {len(source)} pictures. "
            f"Pass a batch size of {len(source)} or less."
        )
    named = {"seed": seed, "start_step": start_step, "num_threads": num_threads or 0, "num_workers": num_workers}
    for name, value in named.items():
        if value < 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more.")
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index is {process_index}; with process_count={process_count} it is 0 or more and less."
        )
    if batch_size % process_count:
        raise ValueError(f"batch_size is {batch_size}, which {process_count} processes cannot share equally.")


def _let_grain_start_workers() -> None:
    # grain 0.2.18 hands absl's flags to its workers and fails outside an absl application, where nobody parsed them.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
