"""Keep decoded pictures in memory: a small data set is decoded once, not once an epoch."""

from typing import final

import numpy as np

from hamflow.data.images import AbstractImages

DEFAULT_CACHE_BYTES = 1 << 30
"""Decoded data sets up to this size (1 GiB: 87,000 pictures of 64x64) are kept unless told otherwise."""


@final
class CachedImages(AbstractImages):
    """The pictures of another source; each is read once, when it is first asked for, and kept.

    Needs 3 * resolution^2 bytes a picture, taken as they fill. A copy in another process starts empty.
    """

    def __init__(self, source: AbstractImages):
        self.name, self.resolution = source.name, source.resolution
        self.labels, self.skipped = source.labels, source.skipped
        self._source = source
        self._allocate()

    def _allocate(self) -> None:
        self._pictures = np.empty((len(self._source), 3, self.resolution, self.resolution), np.uint8)
        self._is_read = np.zeros(len(self._source), bool)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> np.ndarray:
        """Return picture `index`, read-only, uint8 (3, resolution, resolution)."""
        if not self._is_read[index]:
            # Two threads may both come here: they write the same bytes, and the mark comes after them.
            self._pictures[index] = self._source.read(index)
            self._is_read[index] = True
        picture = self._pictures[index]
        picture.flags.writeable = False
        return picture

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in vars(self).items() if key not in ("_pictures", "_is_read")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._allocate()


def decoded_bytes(source: AbstractImages) -> int:
    """The memory that all pictures of `source` take when decoded."""
    return len(source) * 3 * source.resolution**2
