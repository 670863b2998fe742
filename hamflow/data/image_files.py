"""What a zip and a folder of picture files share: the scan when they are opened, and reading one picture.

Opening reads every header once, so a picture of a wrong size, mode or format is named before a run begins, not hours
into it. A file cut short in its body shows only when it is decoded: `skip_corrupt` decodes each file once at opening
and leaves the bad ones out, which is slower, and the same on every machine.
"""

import abc
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np

from hamflow.data.images import AbstractImages, check_resolution, short_name
from hamflow.data.labels import LABEL_FILE, parse_labels
from hamflow.data.pictures import (
    PICTURE_SUFFIXES,
    UnreadableImageError,
    decode_picture,
    picture_array,
    picture_size,
    square_picture,
)

# The header of nearly every picture is in the first of these; a photograph with a long EXIF block needs the next.
_HEAD_BYTES = (1 << 14, 1 << 18)
_COMPANIONS = frozenset({LABEL_FILE, "Thumbs.db", "desktop.ini"})
_KINDS = "the folder, the zip or the array that has them"


class AbstractImageFiles(AbstractImages):
    """Pictures that lie as files under one path, in the order of their names.

    A new kind writes `read_bytes` and `stamp`, and hands the list of names to `_scan`.
    """

    path: Path
    """The zip or the folder, absolute."""
    names: tuple[str, ...]
    """The names of the pictures below `path`, with forward slashes."""
    passed_over: tuple[str, ...]
    """The names of files below `path` that are not read, since their suffix is no picture's."""
    sizes: dict[tuple[int, int], int]
    """How many pictures there are of each (width, height), as stored."""

    @abc.abstractmethod
    def read_bytes(self, name: str, limit: int = -1) -> bytes:
        """The first `limit` bytes of a file, all of it for -1. Raises `UnreadableImageError` if they cannot be had."""

    @abc.abstractmethod
    def stamp(self, name: str) -> str:
        """What tells one version of a file from another without reading it."""

    @final
    def __len__(self) -> int:
        return len(self.names)

    @final
    def read(self, index: int) -> np.ndarray:
        """Decode picture `index` to uint8 (3, resolution, resolution); a damaged one is named."""
        name = self.names[index]
        image = decode_picture(self.read_bytes(name), self._where(name))
        return picture_array(square_picture(image, self.resolution))

    @final
    def _scan(
        self,
        names: Sequence[str],
        resolution: int | None,
        label_file: bytes | None,
        *,
        labels: bool,
        skip_corrupt: bool,
    ) -> None:
        """Set all fields but `path` from the names found there, or raise what is wrong with them."""
        check_resolution(resolution)
        if not names:
            raise ValueError(f"{self.path} holds no picture ({', '.join(sorted(PICTURE_SUFFIXES))}). Give {_KINDS}.")
        names = sorted(names)
        table = parse_labels(label_file, names, str(self.path)) if labels else None
        inspect = self._size_of_sound if skip_corrupt else self._size
        sizes: dict[str, tuple[int, int]] = {}
        self.skipped = {}
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
            for name, outcome in zip(names, threads.map(inspect, names), strict=True):
                if isinstance(outcome, UnreadableImageError):
                    self.skipped[name] = str(outcome)
                else:
                    sizes[name] = outcome
        if not sizes:
            first = next(iter(self.skipped.values()))
            raise ValueError(f"{self.path}: none of its {len(names)} pictures can be read. The first: {first}")
        self.names = tuple(sizes)
        self.sizes = dict(Counter(sizes.values()))
        self.name = short_name(self.path.stem if self.path.is_file() else self.path.name)
        kept = [i for i, name in enumerate(names) if name in sizes]
        self.labels = None if table is None else table[kept]
        self.resolution = resolution if resolution is not None else self._common_size(sizes)

    def _where(self, name: str) -> str:
        return f"{name} in {self.path}"

    def _size(self, name: str) -> tuple[int, int]:
        for limit in _HEAD_BYTES:
            try:
                return picture_size(self.read_bytes(name, limit), self._where(name))
            except UnreadableImageError:
                continue  # perhaps only the rest of the header is missing
        return picture_size(self.read_bytes(name), self._where(name))

    def _size_of_sound(self, name: str) -> tuple[int, int] | UnreadableImageError:
        try:
            return decode_picture(self.read_bytes(name), self._where(name)).size
        except UnreadableImageError as error:
            return error

    def _common_size(self, sizes: dict[str, tuple[int, int]]) -> int:
        items = iter(sizes.items())
        first, (width, height) = next(items)
        for name, other in items:
            if other != (width, height):
                raise ValueError(
                    f"{self.path}: {first} is {width}x{height} and {name} is {other[0]}x{other[1]} (width x height). "
                    f"Pass resolution=, for instance {min(width, height, *other)}, to cut out the centre and resize."
                )
        if width != height:
            raise ValueError(
                f"{self.path}: the pictures are {width} wide and {height} high. "
                f"Pass resolution=, for instance {min(width, height)}, to cut out the square in the centre."
            )
        return width


def others(names: Iterable[str]) -> tuple[str, ...]:
    """The names that a user may have meant as data: neither pictures, nor hidden, nor what tools leave beside them."""
    visible = (name for name in names if not name.endswith("/") and not _is_hidden(name) and not is_picture(name))
    return tuple(sorted(name for name in visible if _slashed(name).name not in _COMPANIONS))


def _slashed(name: str) -> PurePosixPath:
    """A name as a path; zips made on Windows may have backslashes in theirs."""
    return PurePosixPath(name.replace("\\", "/"))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in _slashed(name).parts)


def is_picture(name: str) -> bool:
    """Whether a name below the path is a picture's; what file managers hide or leave behind is not one."""
    return _slashed(name).suffix.lower() in PICTURE_SUFFIXES and not _is_hidden(name)
