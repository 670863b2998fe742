"""Neighbours against a brute force in double precision, planted copies, and the yardstick of held-out pictures."""

import numpy as np
import pytest

from hamflow.data import (
    AbstractImages,
    Neighbours,
    memorisation,
    nearest_neighbours,
    neighbour_grid,
    split_source,
    to_float,
)

SIDE = 6


class Given(AbstractImages):
    def __init__(self, pixels: np.ndarray):
        self.name, self.resolution, self.labels, self.skipped = "given", pixels.shape[-1], None, {}
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, index: int) -> np.ndarray:
        return self._pixels[index]


def random_pictures(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, SIDE, SIDE), np.uint8)


def brute_force(queries, pixels, k, mirrored=False):
    """All differences in double precision, in [-1, 1], sorted."""
    views = [pixels, pixels[..., ::-1]] if mirrored else [pixels]
    a = queries.astype(np.float64) / 127.5 - 1 if queries.dtype == np.uint8 else queries.astype(np.float64)
    distances = np.min(
        [[[np.sqrt(((x - (y / 127.5 - 1)) ** 2).sum()) for y in view.astype(np.float64)] for x in a] for view in views],
        0,
    )
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, 1)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_exact_in_any_block(kind, rows, mirrored):
    pixels, queries = random_pictures(0, 50), random_pictures(1, 9)
    if kind == "float":
        queries = (np.random.default_rng(2).normal(size=queries.shape) / 2).astype(np.float32)
    found = nearest_neighbours(queries, Given(pixels), 5, mirrored=mirrored, max_bytes=rows * 4 * 8 * 3 * SIDE**2)
    indices, distances = brute_force(queries, pixels, 5, mirrored)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)


def test_of_equal_distances_the_lower_index_comes_first():
    pixels = np.repeat(random_pictures(0, 1), 30, axis=0)
    pixels[[3, 17, 25]] += 1  # a wrap to 0 at 255 is far away, for some pixels
    for rows in (4, 1000):
        found = nearest_neighbours(pixels[:1], Given(pixels), 8, max_bytes=rows * 4 * 8 * 3 * SIDE**2)
        assert found.indices[0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
        assert (found.distances == 0).all()


def test_planted_copies_are_found():
    pixels = random_pictures(0, 200)
    copies = [180, 3, 77]
    as_floats = np.asarray(to_float(pixels[copies]))
    found = nearest_neighbours(as_floats, Given(pixels), 2)
    assert found.indices[:, 0].tolist() == copies
    # to_float rounds to float32: 108 differences of at most 6e-8.
    assert (found.distances[:, 0] < 1e-6).all()
    assert (nearest_neighbours(pixels[copies], Given(pixels)).distances == 0).all()
    assert (found.distances[:, 1] > 1).all()
    mirrored = nearest_neighbours(pixels[copies][..., ::-1], Given(pixels), mirrored=True)
    assert mirrored.indices[:, 0].tolist() == copies
    assert (mirrored.distances == 0).all()
    assert (nearest_neighbours(pixels[copies][..., ::-1], Given(pixels)).distances > 1).all()


def test_memorisation_tells_copies_from_new_pictures():
    training, held_out = split_source(Given(random_pictures(0, 300)), 60)
    yardstick = nearest_neighbours(np.stack([held_out.read(i) for i in range(60)]), training)
    new = random_pictures(9, 40)
    as_new = memorisation(nearest_neighbours(new, training), yardstick)
    # Both are nearest distances of independent noise: sqrt(108 differences of variance 2 (2/sqrt(12))^2) or so, less
    # for the nearest of 240; they vary by 3 % or so, and their medians by far less.
    assert as_new.ratio == pytest.approx(1, abs=0.03)
    new[:10] = np.stack([training.read(i) for i in range(10)])
    new[10:40] = np.clip(np.stack([training.read(i) for i in range(30)]).astype(int) + 20, 0, 255).astype(np.uint8)
    copied = memorisation(nearest_neighbours(new, training), yardstick)
    assert (copied.ratios[:10] == 0).all()
    assert (copied.smallest, copied.num_suspects) == (0, 40)
    assert 0 < copied.ratio < 0.3
    assert "40 of 40 samples nearer than every held-out picture" in str(copied)


def test_the_ratio_by_hand():
    index = np.zeros((3, 1), np.int64)
    samples = Neighbours(index, np.array([[1.0], [4.0], [0.5]]))
    held_out = Neighbours(index, np.array([[3.0], [2.0], [0.75]]))
    found = memorisation(samples, held_out)
    np.testing.assert_array_equal(found.ratios, [0.5, 2.0, 0.25])
    assert (found.ratio, found.smallest, found.num_suspects) == (0.5, 2, 1)
    with pytest.raises(ValueError, match="Half of the held-out pictures are training pictures"):
        memorisation(samples, Neighbours(index, np.array([[0.0], [0.0], [1.5]])))


def test_a_sheet_shows_each_sample_beside_its_neighbours():
    pixels = random_pictures(0, 20)
    samples = np.asarray(to_float(pixels[[4, 9]]))
    neighbours = nearest_neighbours(samples, Given(pixels), 3)
    sheet = neighbour_grid(samples, neighbours, Given(pixels))
    tile = SIDE + 2
    assert sheet.shape == (2 * tile - 2, 4 * tile - 2, 3)
    for row, picture in enumerate((4, 9)):
        for column, index in enumerate([picture, *neighbours.indices[row]]):
            drawn = sheet[row * tile : row * tile + SIDE, column * tile : column * tile + SIDE]
            np.testing.assert_array_equal(drawn.transpose(2, 0, 1), pixels[index])


def test_bad_input():
    source = Given(random_pictures(0, 5))
    with pytest.raises(ValueError, match=r"pictures has shape \(2, 3, 4, 4\), and given has pictures \(3, 6, 6\)"):
        nearest_neighbours(np.zeros((2, 3, 4, 4), np.uint8), source)
    with pytest.raises(ValueError, match="k is 6: given has 5 pictures"):
        nearest_neighbours(random_pictures(1, 1), source, 6)
    with pytest.raises(ValueError, match="NaN"):
        nearest_neighbours(np.full((1, 3, SIDE, SIDE), np.nan, np.float32), source)
