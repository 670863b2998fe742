"""What a data set of pictures is: a length, and one picture by its index."""

import abc
import operator
import os
import stat
from pathlib import Path
from typing import Any, SupportsIndex, final

import numpy as np


class AbstractImages(abc.ABC):
    """A random-access source of square 8-bit colour pictures, as grain reads them.

    `source[i]` is a dict with

    - `"image"`: uint8 (3, resolution, resolution); channel first, the layout of the networks, red green blue;
    - `"label"`: a numpy int32 scalar, only where `has_labels`;
    - `"index"`: i.

    **A new source** derives from this class, sets the four fields in its `__init__`, and writes `__len__` and `read`.
    `read` is called by several threads at once, and the object is pickled for worker processes: keep no open file in
    its state, or drop it in `__getstate__`.

        class Checkerboards(AbstractImages):
            def __init__(self):
                self.name, self.resolution, self.labels, self.skipped = "checkerboards", 8, None, {}

            def __len__(self):
                return 64

            def read(self, index):
                return np.full((3, 8, 8), 4 * index, np.uint8)
    """

    name: str
    """A short name without spaces or slashes, for the names of run folders."""
    resolution: int
    """Height and width in pixels."""
    labels: np.ndarray | None
    """int32 (len(self),), or None."""
    skipped: dict[str, str]
    """The files that were left out, and why; empty unless `skip_corrupt` was asked for."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of pictures."""

    @abc.abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Decode picture `index`, 0 <= index < len(self), to uint8 (3, resolution, resolution)."""

    @final
    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside the {len(self)} pictures of {self.name}.")
        item: dict[str, Any] = {"image": self.read(index), "index": index}
        if self.labels is not None:
            item["label"] = self.labels[index]
        return item

    @final
    def __repr__(self) -> str:
        size = f"{self.resolution}x{self.resolution}"
        return f"{type(self).__name__}({self.name!r}, {len(self)} pictures of {size}, {self.num_classes} classes)"

    @property
    @final
    def has_labels(self) -> bool:
        """Whether items carry a label."""
        return self.labels is not None

    @property
    @final
    def num_classes(self) -> int:
        """The largest label plus one; 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1


def refuse_special(path: Path) -> None:
    """Raise `OSError` for a pipe, a socket or a device, which would be waited for, and for what is not there."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is no ordinary file (a folder, a pipe or a device)")


def check_resolution(resolution: int | None) -> None:
    """Raise `ValueError` unless `resolution` is None or a positive number of pixels."""
    if resolution is not None and resolution < 1:
        raise ValueError(f"resolution is {resolution}; it is a number of pixels, 1 or more (or None: as stored).")


def short_name(stem: str) -> str:
    """Make a file's stem fit for a folder name: letters, digits, dot, dash and underscore."""
    fit = "".join(c if c.isalnum() or c in "._-" else "_" for c in stem)
    return fit.strip(".")[:48] or "images"  # the name of a run is longer than that, and 255 bytes are allowed
