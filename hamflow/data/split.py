"""Some pictures of a source are kept back: they are not trained on, so they can tell what was learned by heart."""

from typing import final

import numpy as np

from hamflow._types import checked
from hamflow.data.images import AbstractImages


@final
class SubsetImages(AbstractImages):
    """Some pictures of another source, in a given order; `indices` says which, as int64 numbers of that source.

    `labels` are those of the pictures chosen, so `num_classes` may be smaller than that of the source.
    """

    def __init__(self, source: AbstractImages, indices: np.ndarray, name: str | None = None):
        indices = np.asarray(indices)
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(f"indices is {indices.dtype} of shape {indices.shape}: one axis of whole numbers is read.")
        if not len(indices):
            raise ValueError(f"No picture of {source.name} is left: choose one or more.")
        wrong = indices[(indices < 0) | (indices >= len(source))]
        if wrong.size:
            raise ValueError(f"index {wrong[0]} is outside the {len(source)} pictures of {source.name}.")
        self.name = source.name if name is None else name
        self.resolution, self.skipped = source.resolution, source.skipped
        self.labels = None if source.labels is None else source.labels[indices]
        self.indices = indices.astype(np.int64)
        self._source = source

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> np.ndarray:
        """Decode picture `index` of these, uint8 (3, resolution, resolution)."""
        return self._source.read(int(self.indices[index]))


@checked
def split_source(source: AbstractImages, held_out: int | float, *, seed: int = 0) -> tuple[SubsetImages, SubsetImages]:
    """Part a source into pictures to train on and pictures held out: disjoint, and all of them in one or the other.

    - `held_out`: how many, a whole number, or the share of all, a float in (0, 1).
    - `seed`: which. They are the same on every machine and in every release of numpy, and a larger number of held-out
      pictures has the smaller one in it.

    Both are views that read from `source`, in its order. The pictures to train on keep its name, so that a run folder
    is called the same. Take the number of classes from `source`: a rare class may be in one of the two only. Copies of
    one picture can come to lie on both sides; `nearest_neighbours` of the held-out ones shows them, at distance 0.

    Raises `ValueError` if nothing would be left on either side.

        training, held_out = split_source(open_images(path), 0.05)
    """
    n = len(source)
    number = held_out if isinstance(held_out, int) else round(held_out * n) if 0 < held_out < 1 else -1
    if isinstance(held_out, bool) or not 0 < number < n:
        share = "" if isinstance(held_out, int) else f" of {n} pictures"
        raise ValueError(
            f"held_out is {held_out}{share}: {source.name} has {n} pictures, and one or more must lie on each side. "
            f"Give a whole number from 1 to {n - 1}, or a share between 0 and 1 that comes to one."
        )
    # As in `epoch_order`: the raw numbers of a bit generator are the same in every numpy. The third number keeps this
    # order apart from those of the epochs.
    keys = np.random.Philox(np.random.SeedSequence([seed, 0, 1])).random_raw(n)
    order = np.argsort(keys, kind="stable")
    kept = SubsetImages(source, np.sort(order[number:]))
    return kept, SubsetImages(source, np.sort(order[:number]), f"{source.name}-held-out")
