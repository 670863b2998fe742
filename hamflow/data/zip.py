"""A zip of pictures in the layout of EDM: `00000/img00000000.png`, ..., and labels in `dataset.json` if there are."""

import os
import stat
import threading
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, final

from hamflow._paths import as_path
from hamflow.data.array_files import refuse_packing
from hamflow.data.image_files import AbstractImageFiles, is_picture, others
from hamflow.data.images import refuse_special
from hamflow.data.labels import LABEL_FILE, max_label_bytes
from hamflow.data.pictures import MAX_FILE_BYTES, too_long, unreadable


@final
class ZipImages(AbstractImageFiles):
    """The pictures in a zip, in the order of their names; nothing is unpacked.

    Hidden files and the `__MACOSX` folder are passed over. A member with an absolute name, with `..`, that is a link,
    encrypted, compressed by another method than deflate, or there twice is refused by name. `labels=True` reads
    `dataset.json` at the top. Other arguments and all errors as in `open_images`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: int | None = None,
        *,
        labels: bool = False,
        skip_corrupt: bool = False,
    ):
        self.path = as_path(path).absolute()
        self._open()
        members: set[str] = set()
        for member in self._archive.infolist():
            _refuse_tricks(member, self.path)
            if member.filename in members:
                raise ValueError(f"{member.filename} is in {self.path} twice. Pack the zip again with one of the two.")
            members.add(member.filename)
        names = [name for name in members if is_picture(name) and not name.endswith("/")]
        self.passed_over = others(members)
        label_file = None
        for name in sorted(members.difference(names)):
            # The name stands at the bytes too, and is compared: a wrong letter must not make a picture something else.
            wanted = labels and name == LABEL_FILE
            try:
                content = self._bytes(name, max_label_bytes(len(names)) + 1 if wanted else 0)
            except Exception as error:
                raise ValueError(f"{self._where(name)} cannot be read ({error}). Pack the zip again.") from error
            label_file = content if wanted else label_file
        self._scan(names, resolution, label_file, labels=labels, skip_corrupt=skip_corrupt)

    def read_bytes(self, name: str, limit: int = -1) -> bytes:
        """The first `limit` bytes of a member, all of it for -1; a failing checksum is named."""
        size = self._archive.getinfo(name).file_size
        if limit < 0 and size > MAX_FILE_BYTES:
            raise too_long(self._where(name), size)
        try:
            return self._bytes(name, size if limit < 0 else min(limit, size))
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes make zipfile and its decompressors raise almost anything
            raise unreadable(self._where(name), error, "Pack the zip again") from error

    def _bytes(self, name: str, limit: int) -> bytes:
        # One handle has one position: threads take turns at reading, and decode at the same time. A number of bytes is
        # always given: without one, zipfile unpacks as many as there are, whatever size the zip claims.
        with self._lock, self._archive.open(name) as member:
            return member.read(limit)

    def stamp(self, name: str) -> str:
        """Its size in bytes and its checksum."""
        member = self._archive.getinfo(name)
        return f"{member.file_size} {member.CRC}"

    def _open(self) -> None:
        refuse_special(self.path)
        try:
            self._archive = zipfile.ZipFile(self.path)
        except Exception as error:  # damaged bytes make zipfile raise almost anything
            if isinstance(error, OSError) and error.filename is not None:
                raise  # it may not be read: that names it, and it is no fault of its bytes
            raise ValueError(
                f"{self.path} is not a zip, or a zip that was cut short ({error}). Copy it again."
            ) from error
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        del state["_archive"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()


def _refuse_tricks(member: zipfile.ZipInfo, path: Path) -> None:
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or (name[:1].isalpha() and name[1:2] == ":"):
        raise ValueError(f"{name!r} in {path} points outside the zip. Pack it again with names relative to one folder.")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{name} in {path} is a link. Pack the zip again with the file itself.")
    try:
        refuse_packing(member)
    except ValueError as error:
        raise ValueError(f"{name} in {path} cannot be read: {error}.") from None
