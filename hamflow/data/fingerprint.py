"""Whether a path still holds the pictures that it held when a run began."""

import hashlib
from collections.abc import Iterator

import numpy as np

from hamflow._types import checked
from hamflow.data.arrays import ArrayImages
from hamflow.data.image_files import AbstractImageFiles
from hamflow.data.images import AbstractImages
from hamflow.data.pictures import UnreadableImageError

_NUM_PROBES = 16


@checked
def fingerprint(source: AbstractImages, *, full: bool = False) -> str:
    """A digest (16 hexadecimal digits) that changes when pictures or labels come, go or change.

    Of a zip or a folder it covers the name and the size of every file, those left out too, and in a zip its checksum;
    of anything else the number of pictures and the pixels of sixteen of them. That takes no decoding, and does not see
    every change: a file of a folder may change and keep its size, and a picture of an array may not be among the
    sixteen.

    - `full`: read everything, and cover every byte of every file or the pixels of every picture (those of an array as
      stored). It takes as long as reading the data set does, sees one flipped byte wherever it is, and is another
      number. A file that cannot be read counts as such.

    The path is not in either.

        if fingerprint(open_images(path)) != recorded:
            ...
    """
    digest = hashlib.sha256(f"full {len(source)}".encode() if full else str(len(source)).encode())
    if source.labels is not None:
        digest.update(np.asarray(source.labels, "<i4").tobytes())
    for part in _everything(source) if full else _signs(source):
        digest.update(part)
    return digest.hexdigest()[:16]


def _signs(source: AbstractImages) -> Iterator[bytes]:
    if isinstance(source, AbstractImageFiles):
        for name in sorted({*source.names, *source.skipped}):
            yield f"{name}\0{source.stamp(name)}\0".encode("utf-8", "surrogateescape")
    else:
        for index in np.linspace(0, len(source) - 1, min(_NUM_PROBES, len(source))).astype(int):
            yield source.read(int(index)).tobytes()


def _everything(source: AbstractImages) -> Iterator[bytes]:
    if isinstance(source, AbstractImageFiles):
        for name in sorted({*source.names, *source.skipped}):
            try:
                content = source.read_bytes(name)
            except UnreadableImageError:
                content = b"unreadable"
            yield f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape")
            yield content
    elif isinstance(source, ArrayImages):
        for index in range(len(source)):
            pixels = source.stored(index)
            yield f"{pixels.shape}".encode()
            yield pixels.tobytes()
    else:
        for index in range(len(source)):
            yield source.read(index).tobytes()
