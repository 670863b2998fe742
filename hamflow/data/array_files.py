"""The arrays of a `.npy` and a `.npz`: every size is checked before memory is taken for it.

A header of eighty bytes can claim any shape, and a few kilobytes can unpack to gigabytes. So the size that a header
claims must be the size that is there, and what is unpacked must be of a kind and a size that a data set has.

The members of a `.npz` carry a checksum, which is compared. A `.npy` has none: `fingerprint(source, full=True)` tells
whether one byte of it changed.
"""

import io
import math
import os
import threading
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np

_HEAD_BYTES = 1 << 14  # numpy refuses a header of more than 10,000 characters
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}
_BOMB_BYTES, _BOMB_RATIO = 1 << 28, 100


@final
class ArrayOnDisk:
    """An array of pictures in a `.npy`, read one row at a time.

    Not a memory map: the pages of a file that is cut short while it is mapped end the process with a signal that no
    handler can name; here it is an `OSError`. Arrays in the order of Fortran are mapped: their rows lie scattered.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (open as long as the array is)
        weakref.finalize(self, self._file.close)
        self.shape, fortran, self.dtype, self._offset = _header(self._file.read(_HEAD_BYTES))
        _require_size(self.shape, self.dtype, os.fstat(self._file.fileno()).st_size - self._offset)
        self._lock = threading.Lock()
        self._scattered = None
        if fortran and math.prod(self.shape):
            self._scattered = np.memmap(path, self.dtype, "r", self._offset, self.shape, order="F")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        if self._scattered is not None:
            return np.array(self._scattered[index])
        shape = self.shape[1:]
        size = math.prod(shape) * self.dtype.itemsize
        with self._lock:  # one handle has one position
            self._file.seek(self._offset + index * size)
            data = self._file.read(size)
        if len(data) != size:
            raise OSError(f"{self.path} was cut short since it was opened: picture {index} is gone. Copy it again.")
        return np.frombuffer(data, self.dtype).reshape(shape)


def read_archive(path: Path, choose: Callable[[list[str]], list[str | None]]) -> list[np.ndarray | None]:
    """Read some arrays of a `.npz` whole; `choose` is given the names that there are and says which, in order."""
    archive = guarded(lambda: zipfile.ZipFile(path), str(path))
    with archive:
        infos = archive.infolist()
        members = {info.filename.removesuffix(".npy"): info for info in infos if info.filename.endswith(".npy")}
        if len(members) != sum(info.filename.endswith(".npy") for info in infos):
            raise ValueError(f"{path} holds an array twice. Save it again with numpy.savez.")
        return [
            None if name is None else guarded(lambda i=members[name]: _member(archive, i), f"{name}.npy in {path}")
            for name in choose(list(members))
        ]


def guarded(load: Callable[[], Any], where: str) -> Any:
    """What `load` returns; whatever it raises becomes a `ValueError` that begins with `where`.

    Damaged bytes make the readers of numpy and of the standard library raise almost anything.
    """
    try:
        return load()
    except _UnreadableArray as error:
        raise ValueError(f"{where} cannot be read: {error}") from None
    except Exception as error:
        said = str(error) or type(error).__name__
        raise ValueError(
            f"{where} cannot be read ({said}). It was cut short or damaged, or it holds Python objects, which are "
            "pickles and are not read: save a uint8 array again with numpy.save or numpy.savez."
        ) from error


class _UnreadableArray(Exception):
    """Its text says what is wrong, and what to do."""


def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in the order of Fortran, dtype, and the number of bytes before the first element."""
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise _UnreadableArray(f"its format has the version {version}, which no array of numbers needs.")
    shape, fortran, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise _UnreadableArray(
            "it holds Python objects, which are pickles and are not read: a pickle can run any code. Save a uint8 "
            "array again with numpy.save or numpy.savez."
        )
    if any(size < 0 for size in shape):
        raise _UnreadableArray(f"its shape is {shape}. The file is damaged: copy it again.")
    return tuple(map(int, shape)), fortran, dtype, stream.tell()


def _require_size(shape: tuple[int, ...], dtype: np.dtype, found: int) -> None:
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != found:
        raise _UnreadableArray(
            f"by its header it holds {claimed} bytes (shape {shape}), and there are {found}. It was cut short or "
            "damaged: copy it again."
        )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    refuse_packing(info)
    if info.file_size > _BOMB_BYTES and info.file_size > _BOMB_RATIO * info.compress_size:
        raise _UnreadableArray(
            f"{info.compress_size} bytes would unpack to {info.file_size}, more than {_BOMB_RATIO} times as many, "
            "as in a decompression bomb. If it is none, save the array with numpy.savez, which does not compress."
        )
    with archive.open(info) as member:
        head = member.read(min(_HEAD_BYTES, info.file_size))
        shape, fortran, dtype, offset = _header(head)
        _require_size(shape, dtype, info.file_size - offset)
        _require_memory(info.file_size)
        whole = np.empty(info.file_size - offset, np.uint8)
        whole[: len(head) - offset] = np.frombuffer(head, np.uint8, offset=offset)
        filled = len(head) - offset
        while filled < len(whole):  # in pieces, which are all that is held twice; the last one compares the checksum
            piece = member.read(min(1 << 22, len(whole) - filled))
            if not piece:
                raise EOFError("it ends early")
            whole[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
    return whole.view(dtype).reshape(shape, order="F" if fortran else "C")


def refuse_packing(info: zipfile.ZipInfo) -> None:
    """Raise `ValueError` for a member that is encrypted, or compressed by another method than deflate.

    The others unpack a whole block at a time: of bzip2, four kilobytes may become gigabytes before a limit is seen.
    """
    if info.flag_bits & 1:
        raise ValueError("it is encrypted: pack it again without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        name = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise ValueError(f"it is compressed by {name}: pack it again stored, or by deflate, the method of every zip")


def _require_memory(size: int) -> None:
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return
    if size > memory:
        raise _UnreadableArray(
            f"its {size} bytes do not fit in the {memory} of this machine's memory. Save the pictures with numpy.save: "
            "a .npy stays on the disk."
        )
