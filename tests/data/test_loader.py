"""The order is a function of seed and step, and of nothing else."""

import itertools

import numpy as np
import pytest

from hamflow.data import AbstractImages, batches, epoch_order, open_images, stream_indices


class Numbers(AbstractImages):
    """Picture i is filled with the number i: what a batch holds can be read off its pixels."""

    def __init__(self, length: int, labels: bool = False):
        self.name, self.resolution, self.skipped = "numbers", 2, {}
        self.labels = np.arange(length, dtype=np.int32) * 10 if labels else None
        self._length = length

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> np.ndarray:
        return np.full((3, 2, 2), index, np.uint8)


def take(count: int, *args, **options) -> list[np.ndarray]:
    stream = batches(*args, **options)
    try:
        return [batch["index"] for batch in itertools.islice(stream, count)]
    finally:
        stream.close()


@pytest.mark.parametrize("num_images", [1, 2, 7, 997])
def test_every_epoch_is_a_permutation(num_images):
    for epoch in range(3):
        order = epoch_order(5, epoch, num_images)
        np.testing.assert_array_equal(np.sort(order), np.arange(num_images))


def test_epochs_and_seeds_differ():
    orders = [tuple(epoch_order(seed, epoch, 50)) for seed in range(3) for epoch in range(4)]
    assert len(set(orders)) == 12


def test_the_order_is_what_it_was_in_the_first_release():
    """A stopped run must find its place again in every later version: these numbers never change."""
    assert epoch_order(0, 0, 8).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
    assert epoch_order(0, 1, 8).tolist() == [3, 7, 4, 2, 1, 6, 5, 0]


def test_places_are_equally_likely():
    """Where picture 0 lands over 4000 epochs of 8: chi-squared with 7 degrees of freedom, false alarm 1e-4 (29.9)."""
    places = [int(np.argmin(epoch_order(1, epoch, 8))) for epoch in range(4000)]
    counts = np.bincount(places, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 29.9


def test_the_stream_joins_the_epochs():
    whole = np.concatenate([epoch_order(3, epoch, 7) for epoch in range(5)])
    np.testing.assert_array_equal(stream_indices(3, 7, 0, 35), whole)
    np.testing.assert_array_equal(stream_indices(3, 7, 5, 23), whole[5:23])


def test_batches_run_across_the_end_of_an_epoch():
    indices = np.concatenate(take(7, Numbers(10), 3, seed=2))
    np.testing.assert_array_equal(indices, stream_indices(2, 10, 0, 21))
    np.testing.assert_array_equal(np.sort(indices[:10]), np.arange(10))
    np.testing.assert_array_equal(np.sort(indices[10:20]), np.arange(10))


def test_a_batch_holds_the_pictures_and_labels_it_names():
    stream = batches(Numbers(10, labels=True), 4, seed=0)
    for batch in itertools.islice(stream, 6):
        assert batch.keys() == {"image", "label", "index"}
        assert batch["image"].shape == (4, 3, 2, 2)
        assert [batch[key].dtype for key in ("image", "label", "index")] == [np.uint8, np.int32, np.int32]
        np.testing.assert_array_equal(batch["image"], np.ones((4, 3, 2, 2)) * batch["index"][:, None, None, None])
        np.testing.assert_array_equal(batch["label"], 10 * batch["index"])
    stream.close()


@pytest.mark.parametrize("start", [0, 1, 2, 3, 7, 10**7])
def test_a_stream_restarts_at_any_step(start):
    """Ten pictures in batches of four: step 2 is cut by the end of an epoch, step 5 begins one."""
    expected = [stream_indices(4, 10, 4 * step, 4 * step + 4) for step in range(start, start + 4)]
    np.testing.assert_array_equal(take(4, Numbers(10), 4, seed=4, start_step=start), expected)


@pytest.mark.parametrize("options", [{"num_threads": 0}, {"num_threads": 1}, {"num_threads": 5}, {"cache": False}])
def test_threads_and_cache_do_not_change_the_order(write_zip, seven, options):
    source = open_images(write_zip(seven, [[name, 1] for name in seven]), labels=True)
    plain, other = (batches(source, 3, seed=1, **o) for o in ({"num_threads": 0, "cache": False}, options))
    for _ in range(8):
        a, b = next(plain), next(other)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    other.close()


def test_a_worker_process_does_not_change_the_order(write_zip, seven):
    source = open_images(write_zip(seven))
    stream = batches(source, 3, seed=1, start_step=2, num_workers=1)
    for step in range(2, 6):
        batch = next(stream)
        np.testing.assert_array_equal(batch["index"], stream_indices(1, 7, 3 * step, 3 * step + 3))
        np.testing.assert_array_equal(batch["image"], np.stack([source[i]["image"] for i in batch["index"]]))
    stream.close()


def test_processes_share_each_batch_in_order():
    whole = take(5, Numbers(10), 6, seed=9)
    parts = [take(5, Numbers(10), 6, seed=9, process_index=i, process_count=3) for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_a_damaged_picture_stops_the_stream_with_its_name(write_zip, png, picture):
    whole = png(picture(0))
    stream = batches(open_images(write_zip({"a.png": whole, "b.png": whole[:200]})), 2, seed=0)
    with pytest.raises(ValueError, match=r"b\.png in .* cut short or damaged"):
        next(stream)
    stream.close()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": 11}, "batch_size is 11, but numbers has 10 pictures"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"start_step": -1}, "start_step is -1"),
        ({"num_threads": -1}, "num_threads is -1"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2"),
        ({"process_count": 3}, "batch_size is 4, which 3 processes cannot share"),
        ({"cache": True, "num_workers": 1}, "cache=True needs num_workers=0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        batches(Numbers(10), **{"batch_size": 4, "seed": 0, **options})
