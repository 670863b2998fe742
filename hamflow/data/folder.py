"""A folder of pictures, nested as FFHQ ships them (`00000/00000.png`), with labels in `dataset.json` if there are."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, final

from hamflow.data.image_files import AbstractImageFiles, is_picture
from hamflow.data.images import refuse_special
from hamflow.data.labels import LABEL_FILE
from hamflow.data.pictures import unreadable


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
        self.path = Path(path).absolute()
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path} is not a folder.")
        names = [name for name in _files_below(self.path) if is_picture(name)]
        label_path = self.path / LABEL_FILE
        label_file = _read(label_path) if labels and label_path.exists() else None
        self._scan(names, resolution, label_file, labels=labels, skip_corrupt=skip_corrupt)

    def read_bytes(self, name: str, limit: int = -1) -> bytes:
        """The first `limit` bytes of a file, all of it for -1; one that cannot be read is named."""
        try:
            return _read(self.path / name, limit)
        except OSError as error:  # a link to nothing, a pipe, another's file, a disk that fails
            raise unreadable(self._where(name), error) from error

    def stamp(self, name: str) -> str:
        """Its size in bytes."""
        try:
            return str(os.stat(self.path / name).st_size)
        except OSError:
            return "unreadable"


def _read(path: Path, limit: int = -1) -> bytes:
    refuse_special(path)
    with open(path, "rb") as file:
        return file.read(limit)


def _files_below(top: Path) -> Iterator[str]:
    def stop(error: OSError) -> NoReturn:
        raise error  # os.walk would pass over a folder that may not be read

    seen = set()
    for folder, below, files in os.walk(top, followlinks=True, onerror=stop):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()  # which of two links to one folder counts must not depend on the disk
        for file in files:
            yield (Path(folder) / file).relative_to(top).as_posix()
