"""Decoded once and kept."""

import pickle

import numpy as np
import pytest

from hamflow.data import AbstractImages, CachedImages, batches, open_images
from hamflow.data.cache import decoded_bytes


class Counted(AbstractImages):
    def __init__(self):
        self.name, self.resolution, self.labels, self.skipped = (
            "counted",
            4,
            np.array([1, 0, 1], np.int32),
            {"x": "bad"},
        )
        self.reads = 0

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> np.ndarray:
        self.reads += 1
        return np.full((3, 4, 4), index + 1, np.uint8)


def test_each_picture_is_read_once():
    source = Counted()
    cached = CachedImages(source)
    for _ in range(3):
        for i in (2, 0):
            np.testing.assert_array_equal(cached[i]["image"], np.full((3, 4, 4), i + 1))
    assert source.reads == 2


def test_everything_else_is_the_source_s():
    source, cached = Counted(), CachedImages(Counted())
    for field in ("name", "resolution", "skipped", "num_classes", "has_labels"):
        assert getattr(cached, field) == getattr(source, field)
    assert [int(cached[i]["label"]) for i in range(3)] == [1, 0, 1]
    assert decoded_bytes(cached) == 3 * 3 * 4 * 4


def test_what_is_kept_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        CachedImages(Counted())[0]["image"][:] = 0


def test_a_pickled_copy_starts_empty():
    cached = CachedImages(Counted())
    cached[1]
    copy = pickle.loads(pickle.dumps(cached))
    np.testing.assert_array_equal(copy[1]["image"], cached[1]["image"])
    assert copy._source.reads == 2


@pytest.mark.parametrize(("resolution", "cached"), [(None, False), (8, False), (4, True)])
def test_an_array_that_is_read_as_it_lies_is_not_kept_twice(tmp_path, monkeypatch, resolution, cached):
    np.savez(tmp_path / "set.npz", images=np.zeros((4, 8, 8), np.uint8))
    built, build = [], CachedImages.__init__

    def spy(self, source):
        built.append(source)
        build(self, source)

    monkeypatch.setattr(CachedImages, "__init__", spy)
    batches(open_images(tmp_path / "set.npz", resolution), 2, seed=0, num_threads=0).close()
    assert bool(built) == cached
