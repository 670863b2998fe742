"""Open a data set of pictures, whatever lies at the path."""

import os
import zipfile
from pathlib import Path

from hamflow._paths import as_path
from hamflow._types import checked
from hamflow.data.arrays import ArrayImages
from hamflow.data.folder import FolderImages
from hamflow.data.images import AbstractImages
from hamflow.data.zip import ZipImages


@checked
def open_images(
    path: str | os.PathLike[str],
    resolution: int | None = None,
    *,
    labels: bool = False,
    skip_corrupt: bool = False,
) -> AbstractImages:
    """Open the pictures at `path`: a folder, a zip, a `.npy` or a `.npz`.

    - `resolution`: height and width in pixels. Pictures of another size have their centre cut to a square, which is
      resized with Lanczos. None leaves them as they are, and then all must be square and of one size.
    - `labels`: read the class labels too (`dataset.json`, or the labels of a `.npz`), and require them.
    - `skip_corrupt`: decode every file once now and leave out those that cannot be read as 8-bit pictures; what was
      left out is in `.skipped`. Without it the headers are checked now, and a file damaged further on is named when it
      is read.

    Raises `FileNotFoundError` for a path that does not exist, and `ValueError` that names the file and says what to
    do for everything that is not a data set.

        source = open_images(embedded_faces(), resolution=32)
        source[0]["image"].shape  # (3, 32, 32), uint8
    """
    path = as_path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is nothing at {path.absolute()}. Give a folder, a .zip, a .npy or a .npz.")
    if path.is_dir():
        return FolderImages(path, resolution, labels=labels, skip_corrupt=skip_corrupt)
    if not path.is_file():
        raise ValueError(
            f"{path.absolute()} is a pipe or a device. Give a folder, a .zip, a .npy or a .npz that lies on the disk."
        )
    if path.suffix.lower() in (".npy", ".npz"):
        return ArrayImages(path, resolution, labels=labels)
    if path.suffix.lower() == ".zip" or _is_zip(path):
        return ZipImages(path, resolution, labels=labels, skip_corrupt=skip_corrupt)
    raise ValueError(f"{path.absolute()} is a file that is not read. Give a folder, a .zip, a .npy or a .npz.")


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # one of many parts, or a damaged one: opening it says so
        return True
