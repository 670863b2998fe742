"""Training and held-out pictures: disjoint, complete, the same everywhere."""

import pickle

import numpy as np
import pytest

from hamflow.data import AbstractImages, SubsetImages, batches, batches_in_order, split_source


class Numbered(AbstractImages):
    """Picture i is filled with the number i, its label is i mod 5."""

    def __init__(self, length: int):
        self.name, self.resolution, self.skipped = "numbers", 2, {"bad.png": "empty"}
        self.labels = np.arange(length, dtype=np.int32) % 5
        self._length = length

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> np.ndarray:
        return np.full((3, 2, 2), index, np.uint8)


@pytest.mark.parametrize(("held_out", "number"), [(1, 1), (30, 30), (99, 99), (0.05, 5), (0.5, 50), (0.014, 1)])
def test_disjoint_and_complete(held_out, number):
    training, kept_back = split_source(Numbered(100), held_out)
    assert (len(training), len(kept_back)) == (100 - number, number)
    np.testing.assert_array_equal(np.sort(np.concatenate([training.indices, kept_back.indices])), np.arange(100))
    assert (np.diff(training.indices) > 0).all()
    assert (np.diff(kept_back.indices) > 0).all()


def test_a_view_shows_the_pictures_and_labels_of_its_indices():
    training, kept_back = split_source(Numbered(100), 10)
    for view in (training, kept_back):
        items = [view[i] for i in range(len(view))]
        assert [item["image"][0, 0, 0] for item in items] == view.indices.tolist()
        assert [item["label"] for item in items] == (view.indices % 5).tolist()
        assert (view.resolution, view.skipped) == (2, {"bad.png": "empty"})
    assert (training.name, kept_back.name) == ("numbers", "numbers-held-out")
    again = pickle.loads(pickle.dumps(kept_back))
    np.testing.assert_array_equal(again.read(3), kept_back.read(3))


def test_a_larger_share_holds_the_smaller_one_and_seeds_differ():
    few, many = (set(split_source(Numbered(100), n)[1].indices.tolist()) for n in (10, 20))
    assert few < many
    assert few != set(split_source(Numbered(100), 10, seed=1)[1].indices.tolist())


def test_which_pictures_is_a_matter_of_the_bit_generator_alone():
    # Philox and SeedSequence are streams that numpy promises to keep (NEP 19).
    raw = np.random.Philox(np.random.SeedSequence([7, 0, 1])).random_raw(50)
    by_number = sorted(range(50), key=lambda i: int(raw[i]))
    assert split_source(Numbered(50), 12, seed=7)[1].indices.tolist() == sorted(by_number[:12])


def test_held_out_pictures_never_come_up_in_training():
    training, kept_back = split_source(Numbered(20), 5)
    stream = batches(training, 5, seed=0, num_threads=0)
    seen = {int(pixel) for _ in range(6) for pixel in next(stream)["image"][:, 0, 0, 0]}
    stream.close()
    assert seen == set(training.indices.tolist())
    assert seen.isdisjoint(kept_back.indices.tolist())


def test_each_picture_is_held_out_equally_often():
    """1000 seeds, 10 of 40: chi-squared of the counts, 39 degrees of freedom, false alarm 1e-4 (82.0).

    Drawn without replacement the counts vary less than a multinomial's, so this is on the safe side.
    """
    counts = sum(np.bincount(split_source(Numbered(40), 10, seed=s)[1].indices, minlength=40) for s in range(1000))
    assert ((counts - 250) ** 2 / 250).sum() < 82.0


@pytest.mark.parametrize(("size", "sizes"), [(4, [4, 4, 2]), (5, [5, 5]), (20, [10])])
def test_in_order_every_picture_comes_once(size, sizes):
    _, kept_back = split_source(Numbered(40), 10)
    found = list(batches_in_order(kept_back, size))
    assert [len(batch["image"]) for batch in found] == sizes
    assert np.concatenate([batch["image"][:, 0, 0, 0] for batch in found]).tolist() == kept_back.indices.tolist()
    assert np.concatenate([batch["label"] for batch in found]).tolist() == (kept_back.indices % 5).tolist()
    assert np.concatenate([batch["index"] for batch in found]).tolist() == list(range(10))
    with pytest.raises(ValueError, match="batch_size is 0"):
        batches_in_order(kept_back, 0)


@pytest.mark.parametrize("held_out", [0, 10, -1, 0.0, 1.0, 0.01, 0.99, float("nan"), True])
def test_nothing_left_is_refused(held_out):
    with pytest.raises(ValueError, match=r"held_out is .*numbers has 10 pictures.*from 1 to 9"):
        split_source(Numbered(10), held_out)


def test_bad_indices():
    with pytest.raises(ValueError, match="index 10 is outside the 10 pictures of numbers"):
        SubsetImages(Numbered(10), np.array([0, 10]))
    with pytest.raises(ValueError, match="No picture of numbers is left"):
        SubsetImages(Numbered(10), np.array([], int))
    with pytest.raises(ValueError, match="indices is float64"):
        SubsetImages(Numbered(10), np.array([0.5]))
