"""A prepared data set in one file: decoded, cut and resized once, so that a run only reads it."""

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hamflow._paths import as_path
from hamflow._types import checked
from hamflow.data.images import AbstractImages
from hamflow.data.labels import LABEL_FILE

_WINDOW = 256  # pictures that are in memory at a time
_PNG_LEVEL = 0  # not compressed: a third larger for photographs, and read at 1.6 times the speed
_CHANNELS = (1, 3, 4)


@checked
def save_images(
    source: AbstractImages,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write the pictures of `source` and their labels to a `.npz` or a `.zip`, whole or not at all.

    - `.npz`: `images`, uint8 (n, 3, resolution, resolution), and `labels`, int32 (n,); the fastest to read. It is read
      into memory when it is opened, 3 * resolution^2 bytes a picture.
    - `.zip`: `00000/img00000000.png` and so on, with labels in `dataset.json`, as EDM lays them out; of any size.

    Both carry a checksum of everything in them. A picture is what `source` reads, so `open_images` of the file gives
    the same pixels in the same order. `progress` is called with the number of pictures that are done.

    Raises `FileExistsError` for a file that is there, unless `overwrite`; `ValueError` for another suffix, and for
    pictures of 1, 3 or 4 pixels in a `.npz`, whose sides look like channels; `FileNotFoundError` where there is no such
    folder; `OSError` where the disk is full or closed.

        save_images(open_images("ffhq", 64), "ffhq-64x64.npz")
    """
    path = as_path(path)
    check_target(path, source.resolution, overwrite=overwrite)
    path = path.resolve()  # a link stays, and the file it leads to is written
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    write = _write_npz if path.suffix.lower() == ".npz" else _write_zip
    try:
        with open(partial, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                write(archive, source, progress or (lambda done: None))
            file.flush()
            os.fsync(file.fileno())
        check_target(path, source.resolution, overwrite=overwrite)  # it may have come in the meantime
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise  # of the source, or said already
        raise OSError(error.errno, f"{error.strerror}, so nothing was written", str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def check_target(path: Path, resolution: int, *, overwrite: bool) -> None:
    """Raise what `save_images` would raise for this path, before anything is read."""
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".zip"):
        raise ValueError(f"path is {path}; a .npz or a .zip is written, so let the name end in one of them.")
    if suffix == ".npz" and resolution in _CHANNELS:
        raise ValueError(f"pictures of {resolution} pixels in a .npz look like channels. Write a .zip.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Give the name of a file in it.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already. Give another name, or overwrite=True to replace it.")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is a pipe or a device, no ordinary file. Give the name of a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path is {path}, but there is no folder {path.parent.absolute()}. Make it first.")


def in_order(source: AbstractImages, make: Callable[[np.ndarray], Any]) -> Iterator[Any]:
    """`make` of every picture, in order, by one thread a core."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        for start in range(0, len(source), _WINDOW):
            rows = range(start, min(start + _WINDOW, len(source)))
            yield from threads.map(lambda index: make(source.read(index)), rows)


def _write_npz(archive: zipfile.ZipFile, source: AbstractImages, progress: Callable[[int], Any]) -> None:
    shape = (len(source), 3, source.resolution, source.resolution)
    with archive.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True) as member:
        member.write(_header("|u1", shape))
        for done, pixels in enumerate(in_order(source, np.ndarray.tobytes), 1):
            member.write(pixels)
            progress(done)
    if source.labels is not None:
        labels = np.asarray(source.labels, "<i4")
        archive.writestr(zipfile.ZipInfo("labels.npy"), _header("<i4", labels.shape) + labels.tobytes())


def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _write_zip(archive: zipfile.ZipFile, source: AbstractImages, progress: Callable[[int], Any]) -> None:
    names = [f"{index // 1000:05d}/img{index:08d}.png" for index in range(len(source))]
    for done, (name, data) in enumerate(zip(names, in_order(source, _png), strict=True), 1):
        archive.writestr(zipfile.ZipInfo(name), data)  # of 1980: equal pictures make equal files
        progress(done)
    if source.labels is not None:
        entries = [[name, int(label)] for name, label in zip(names, source.labels, strict=True)]
        archive.writestr(zipfile.ZipInfo(LABEL_FILE), json.dumps({"labels": entries}))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
