"""Many pictures on one sheet, and a sheet in a file."""

import math
import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hamflow._paths import as_path
from hamflow._types import Array, Float, checked
from hamflow.data.augment import to_uint8


@checked
def image_grid(
    images: Float[Array | np.ndarray, "n channel height width"] | UInt8[Array | np.ndarray, "n channel height width"],
    num_columns: int | None = None,
    *,
    gap: int = 2,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Tile pictures row by row into one, uint8 (rows, columns, 3), with a white gap of `gap` pixels between them.

    Floats are in [-1, 1] and clipped to it, uint8 is taken as it is; one channel (grey) or three. `num_columns` is the
    smallest square's unless given; tiles without a picture stay white. Raises `ValueError` for no pictures, another
    number of channels, or NaN.
    """
    pixels = np.asarray(images)
    n, channels, height, width = pixels.shape
    if n == 0 or channels not in (1, 3):
        raise ValueError(f"images has shape {pixels.shape}; (n, 1 or 3, height, width) with n of 1 or more is drawn.")
    if pixels.dtype != np.uint8:
        broken = np.flatnonzero(np.isnan(pixels).any(axis=(1, 2, 3)))
        if broken.size:
            raise ValueError(f"images holds NaN in {broken.size} of {n} pictures, the first being number {broken[0]}.")
        pixels = np.asarray(to_uint8(pixels))
    columns = math.ceil(math.sqrt(n)) if num_columns is None else num_columns
    if columns < 1 or gap < 0:
        raise ValueError(f"num_columns is {columns} and gap {gap}; at least 1 and 0.")
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture.transpose(1, 2, 0)
    return sheet


@checked
def save_png(path: str | os.PathLike[str], picture: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write a picture, uint8 (height, width, 3), as a PNG: whole, or not at all.

    Raises `FileNotFoundError` or `PermissionError` where the folder is missing or closed, `ValueError` for a name that
    does not end in `.png`.

        save_png("samples.png", image_grid(samples))
    """
    path = as_path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path is {path}; a PNG is written, so let the name end in .png.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path is {path}, but there is no folder {path.parent.absolute()}. Make it first.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        Image.fromarray(picture).save(partial, format="PNG")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
