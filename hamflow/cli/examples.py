"""Data to be measured: pictures with 8 bits a value, or arrays of numbers, read a batch at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._paths import as_path
from .arrays import read_points
from .rows import import_data
from .trained import Trained


class Examples(NamedTuple):
    """Rows that can be read by their numbers."""

    where: str
    number: int
    pixels: bool  # uint8 with 256 values, else floating
    read: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray | None


def open_examples(where: str, trained: Trained, *, labels: bool, skip_corrupt: bool) -> Examples:
    """Open `faces`, a folder, a zip, or an array, whichever suits the model.

    Pictures are cut to a square and resized to that of the model, as in training; arrays must have its shape. An array
    of bytes is pictures where the model draws pictures.

    Raises:
        ValueError, OSError: naming `--data`, for what cannot be read or is of another shape.
    """
    path = as_path(where)
    is_array = where != "faces" and path.suffix.lower() in (".npy", ".npz")
    draws_pictures = len(trained.shape) == 3 and trained.shape[1] == trained.shape[2]
    if is_array and not (draws_pictures and _is_bytes(path)):
        points, found = _points(where, draws_pictures)
        if points.shape[1:] != trained.shape:
            raise _another_shape(where, f"examples of shape {points.shape[1:]}", trained)
        _require_finite(points, where)
        if labels:
            found = _checked(found, where, len(points))
        return Examples(where, len(points), False, points.__getitem__, found if labels else None)
    if where != "faces" and not path.exists():
        raise FileNotFoundError(f"--data {where}: there is nothing. Give a folder, a .zip, a .npy, a .npz or faces")
    if not draws_pictures or trained.shape[0] != 3:
        raise _another_shape(where, "square pictures of three channels", trained)
    data = import_data()
    try:
        source = data.open_images(
            data.embedded_faces() if where == "faces" else path,
            trained.shape[1],
            labels=labels,
            skip_corrupt=skip_corrupt,
        )
    except (ValueError, OSError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"--data {where}: {_in_flags(str(error))}") from None

    def read(rows: np.ndarray) -> np.ndarray:
        try:
            return np.stack([source[row]["image"] for row in rows])
        except data.UnreadableImageError as error:
            raise ValueError(f"--data {where}: {_in_flags(str(error))}") from None

    return Examples(where, len(source), True, read, source.labels)


def _points(where: str, draws_pictures: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows of an array; for a model of pictures floating ones, since whole numbers are levels of 8 bits."""
    try:
        points, labels, is_whole = read_points(where)
    except ValueError as error:
        raise ValueError(f"--data {where}: {error}") from None
    if draws_pictures and is_whole:
        raise ValueError(
            f"--data {where} holds whole numbers, and the model draws pictures: save levels of 8 bits as uint8 "
            "(x.astype(numpy.uint8)), or values in the unit of the data as floats"
        )
    return points, labels


def _is_bytes(path: Path) -> bool:
    """Whether the examples in an array file are uint8; of a `.npz`, the array that is read as the examples."""
    from ..data.arrays import IMAGE_KEYS

    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found as archive:
                names = archive.files
                examples = [name for name in ("data", *IMAGE_KEYS) if name in names] or names[:1]
                return archive[examples[0]].dtype == np.uint8
        return found.dtype == np.uint8
    except Exception:  # whatever it is, reading it in earnest will say so
        return False


def _require_finite(points: np.ndarray, where: str) -> None:
    if len(points) == 0:
        raise ValueError(f"--data {where} has no rows")
    broken = np.flatnonzero(~np.isfinite(points).reshape(len(points), -1).all(axis=1))
    if broken.size:
        raise ValueError(f"--data {where}: row {broken[0]} (one of {broken.size}) holds NaN or infinity")


def _checked(labels: Any, where: str, number: int) -> np.ndarray:
    if labels is None:
        raise ValueError(
            f"--data {where} has no labels, and the model has classes: give --class K or --class null, or save "
            "numpy.savez(path, data=..., labels=...) (pictures of 8 bits: images=...)"
        )
    if labels.shape != (number,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"--data {where}: labels must be whole numbers of shape ({number},)")
    return labels


def _another_shape(where: str, found: str, trained: Trained) -> ValueError:
    return ValueError(f"--data {where} holds {found}, and {trained.path} has examples of shape {trained.shape}")


def _in_flags(message: str) -> str:
    """The room of data speaks of its own arguments."""
    for said, flag in (
        ("pass skip_corrupt=True", "give --skip-corrupt"),
        ("Pass labels=False", "Give --class K or --class null"),
    ):
        message = message.replace(said, flag)
    return message
