"""A folder of pictures, nested as FFHQ ships them (`00000/00000.png`), with labels in `dataset.json` if there are."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import final

from hamflow._paths import as_path
from hamflow.data.image_files import AbstractImageFiles, is_picture, others
from hamflow.data.images import refuse_special
from hamflow.data.labels import LABEL_FILE, max_label_bytes
from hamflow.data.pictures import MAX_FILE_BYTES, too_long, unreadable


@final
class FolderImages(AbstractImageFiles):
    """The pictures in a folder and in the folders below it, in the order of their names.

    Hidden files and folders are passed over; links are followed, a folder reached twice is read once. `labels=True`
    reads `dataset.json` at the top. Other arguments and all errors as in `open_images`.
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
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path} is not a folder.")
        found = list(_files_below(self.path))
        names, self.passed_over = [name for name in found if is_picture(name)], others(found)
        label_path = self.path / LABEL_FILE
        label_file = None
        if labels and label_path.exists():
            label_file = _read(label_path, max_label_bytes(len(names)) + 1)
        self._scan(names, resolution, label_file, labels=labels, skip_corrupt=skip_corrupt)

    def read_bytes(self, name: str, limit: int = -1) -> bytes:
        """The first `limit` bytes of a file, all of it for -1; one that cannot be read is named."""
        try:
            size = os.stat(self.path / name).st_size
            if limit < 0 and size > MAX_FILE_BYTES:
                raise too_long(self._where(name), size)
            return _read(self.path / name, MAX_FILE_BYTES if limit < 0 else limit)
        except OSError as error:  # a link to nothing, a pipe, another's file, a disk that fails
            raise unreadable(self._where(name), error) from error

    def stamp(self, name: str) -> str:
        """Its size in bytes."""
        try:
            return str(os.stat(self.path / name).st_size)
        except OSError:
            return "unreadable"


def _read(path: Path, limit: int) -> bytes:
    refuse_special(path)
    with open(path, "rb") as file:
        return file.read(min(limit, os.fstat(file.fileno()).st_size))  # memory for what there is, not for the limit


def _files_below(top: Path) -> Iterator[str]:
    """The files below a folder, by a loop: folders may lie deeper in each other than Python recurses."""
    seen, below = set(), [""]
    while below:
        folder = below.pop()
        status = os.stat(top / folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(top / folder) as entries:  # an error, such as of a folder that may not be read, names it
            kinds = {entry.name: _is_folder(entry) for entry in entries}
        # The first in order is looked into first: which of two links to one folder counts must not depend on the disk.
        folders = sorted((name for name, is_folder in kinds.items() if is_folder), reverse=True)
        below += [f"{folder}{name}/" for name in folders]
        yield from (f"{folder}{name}" for name, is_folder in kinds.items() if not is_folder)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
