"""Whether a path still holds the pictures that it held when a run began, told without decoding them."""

import hashlib

import numpy as np

from hamflow._types import checked
from hamflow.data.image_files import AbstractImageFiles
from hamflow.data.images import AbstractImages

_NUM_PROBES = 16


@checked
def fingerprint(source: AbstractImages) -> str:
    """A digest (16 hexadecimal digits) that changes when pictures or labels come, go or change.

    Of a zip or a folder it covers the name and the size of every file, those left out too, and in a zip its checksum;
    of anything else the number of pictures and the pixels of sixteen of them. The path is not in it.

        if fingerprint(open_images(path)) != recorded:
            ...
    """
    digest = hashlib.sha256(str(len(source)).encode())
    if source.labels is not None:
        digest.update(np.asarray(source.labels, "<i4").tobytes())
    if isinstance(source, AbstractImageFiles):
        for name in sorted({*source.names, *source.skipped}):
            digest.update(f"{name}\0{source.stamp(name)}\0".encode("utf-8", "surrogateescape"))
    else:
        for index in np.linspace(0, len(source) - 1, min(_NUM_PROBES, len(source))).astype(int):
            digest.update(source.read(int(index)).tobytes())
    return digest.hexdigest()[:16]
