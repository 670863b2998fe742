"""The pictures of a data set that samples are nearest to: what a model knows by heart shows here.

A sample that repeats a training picture lies much nearer to it than any new picture of the same kind lies to its own
nearest one. So pictures held out of the training are the yardstick (`split_source`): `memorisation` compares the two.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import UInt8

from hamflow._types import Array, Float, checked
from hamflow.data.augment import to_uint8
from hamflow.data.grid import image_grid
from hamflow.data.images import AbstractImages

Pictures = Float[Array | np.ndarray, "n channel height width"] | UInt8[Array | np.ndarray, "n channel height width"]
"""Pictures as `to_float` makes them, floats in [-1, 1], or uint8."""


@final
@dataclass(frozen=True)
class Neighbours:
    """The k nearest pictures of a source for each of n pictures, the nearest first.

    - `indices`: int64 (n, k), in the source.
    - `distances`: float64 (n, k), the square root of the sum of squared differences of pictures in [-1, 1].
    """

    indices: np.ndarray
    distances: np.ndarray


@checked
def nearest_neighbours(
    pictures: Pictures,
    source: AbstractImages,
    k: int = 1,
    *,
    mirrored: bool = False,
    max_bytes: int = 1 << 28,
) -> Neighbours:
    """For each of some pictures the `k` nearest of a source, pixel by pixel (L2), all of the source being looked at.

    - `pictures`: floats in [-1, 1] or uint8, (n, 3, resolution, resolution).
    - `mirrored`: also look at the mirror image of every picture of the source, as a training with `random_flip` does.
    - `max_bytes`: of memory, about. The source is read once, in blocks, whatever it is.

    The search is exact: distances are sums of squares in double precision, and of equal ones the lower index is first.
    Raises `ValueError` for pictures of another shape, for NaN, and for more neighbours than there are pictures.
    """
    queries = np.asarray(pictures)
    n, *shape = queries.shape
    side = source.resolution
    if n == 0 or tuple(shape) != (3, side, side):
        raise ValueError(f"pictures has shape {queries.shape}, and {source.name} has pictures (3, {side}, {side}).")
    if not 1 <= k <= len(source):
        raise ValueError(f"k is {k}: {source.name} has {len(source)} pictures, so it lies between 1 and that.")
    if not np.isfinite(queries).all():
        raise ValueError("pictures holds NaN or infinities, which are near to nothing. Look at what made them.")
    rows = max(max_bytes // (4 * 8 * 3 * side**2), 1)  # of a block in double precision, with what is made of it
    best = np.full((n, k), np.inf), np.full((n, k), np.iinfo(np.int64).max)
    for start in range(0, len(source), rows):
        indices = np.arange(start, min(start + rows, len(source)))
        block = _flat(np.stack([source.read(int(i)) for i in indices]))
        for first in range(0, n, rows):
            some = slice(first, first + rows)
            squares, nearest = _nearest_in_block(queries[some], block, k, mirrored)
            merged = np.concatenate([best[0][some], squares], 1), np.concatenate([best[1][some], indices[nearest]], 1)
            order = np.lexsort((merged[1], merged[0]))[:, :k]
            for kept, found in zip(best, merged, strict=True):
                kept[some] = np.take_along_axis(found, order, 1)
    return Neighbours(best[1], np.sqrt(best[0]) / 127.5)


def neighbour_grid(pictures: Pictures, neighbours: Neighbours, source: AbstractImages) -> UInt8[np.ndarray, "h w 3"]:
    """A sheet with a row for each picture: itself, and to its right its neighbours, the nearest first.

    save_png("neighbours.png", neighbour_grid(samples, nearest_neighbours(samples, source, k=4), source))
    """
    own = np.asarray(pictures)
    own = own if own.dtype == np.uint8 else np.asarray(to_uint8(own))
    rows = [[own[i], *(source.read(int(j)) for j in found)] for i, found in enumerate(neighbours.indices)]
    return image_grid(np.concatenate(rows), len(rows[0]))


@final
@dataclass(frozen=True)
class Memorisation:
    """How near samples are to the training pictures, against how near held-out pictures are; `str` is a line to show.

    - `ratios`: float64 (n,), of each sample the distance to its nearest training picture over the median of that
      distance of held-out pictures. About 1 for new pictures, 0 for a copy. Samples without detail (blurred, grey) lie
      near to everything and have small ones too: look at the neighbours.
    - `ratio`: their median. `smallest`: the index of the sample with the smallest.
    - `num_suspects`: samples that are nearer to a training picture than every held-out picture is.
    """

    ratios: np.ndarray
    ratio: float
    smallest: int
    num_suspects: int

    def __str__(self) -> str:
        return (
            f"distance to the nearest training picture over that of held-out pictures: median {self.ratio:.3f}, "
            f"smallest {self.ratios[self.smallest]:.3f} (sample {self.smallest}); "
            f"{self.num_suspects} of {len(self.ratios)} samples nearer than every held-out picture"
        )


@checked
def memorisation(samples: Neighbours, held_out: Neighbours) -> Memorisation:
    """Compare samples with held-out pictures by their distance to the nearest training picture.

    Both are from `nearest_neighbours` with the same source of training pictures. Raises `ValueError` if half of the
    held-out pictures are copies of training pictures: they tell nothing then.

        print(memorisation(nearest_neighbours(samples, training), nearest_neighbours(held_out_pictures, training)))
    """
    yardstick = held_out.distances[:, 0]
    median = float(np.median(yardstick))
    if median == 0:
        raise ValueError("Half of the held-out pictures are training pictures too: hold others out, or remove copies.")
    distances = samples.distances[:, 0]
    ratios = distances / median
    return Memorisation(
        ratios, float(np.median(ratios)), int(ratios.argmin()), int((distances < yardstick.min()).sum())
    )


def _flat(pictures: np.ndarray) -> np.ndarray:
    """Pictures as rows in double precision, in units of 1/255 of the range and about grey: whole numbers plus 1/2."""
    pixels = pictures.astype(np.float64)
    return (pixels - 127.5 if pictures.dtype == np.uint8 else pixels * 127.5).reshape(len(pictures), -1)


def _nearest_in_block(queries: np.ndarray, block: np.ndarray, k: int, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest squared distances of each query to the rows of a block, unsorted, and which rows."""
    views = [_flat(queries)] + ([_flat(queries[..., ::-1])] if mirrored else [])
    # |a - b|^2 = |a|^2 - 2 a.b + |b|^2 is one matrix product. Of 8-bit pictures it is exact: multiples of 1/4 below
    # 2^53. Of floats it is off in the last digits, so the nearest, with a few to spare, are subtracted one by one.
    norms = np.einsum("id,id->i", block, block)
    guess = np.min([norms - 2 * view @ block.T for view in views], axis=0)
    nearest = np.argsort(guess, axis=1, kind="stable")[:, : k + 4]
    squares = np.empty(nearest.shape)
    for i, rows in enumerate(nearest):
        squares[i] = np.min([np.square(block[rows] - view[i]).sum(1) for view in views], axis=0)
    return squares, nearest
