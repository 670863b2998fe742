"""The data set inside the package: 997 portraits of Noto Emoji, 64x64, in a zip like any other (see README.md)."""

from importlib import resources
from pathlib import Path


def embedded_faces() -> Path:
    """Return the path of the zip of portraits, for `open_images`.

    997 pictures of 64x64 pixels on white; the labels are 0 person, 1 person-gesture, 2 person-role, 3 person-fantasy.
    Raises `FileNotFoundError` if the package was installed without it.

        source = open_images(embedded_faces(), resolution=32, labels=True)
    """
    path = Path(str(resources.files("hamflow.data.faces") / "faces64.zip"))
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: the package is incomplete. Install hamflow again from its wheel.")
    return path
