"""Pictures in one array: a `.npy`, which stays on disk, or a `.npz`, which may bring labels."""

import os
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from hamflow._paths import as_path
from hamflow.data.array_files import ArrayOnDisk, guarded, read_archive
from hamflow.data.images import AbstractImages, check_resolution, refuse_special, short_name
from hamflow.data.labels import MissingLabelsError, check_num_classes
from hamflow.data.pictures import picture_array, rgb_picture, square_picture

IMAGE_KEYS = ("images", "image", "x", "arr_0")
_LABEL_KEYS = ("labels", "label")
_CHANNELS = (1, 3, 4)  # grey, red green blue, and with alpha


@final
class ArrayImages(AbstractImages):
    """The pictures of a uint8 array in a `.npy` or `.npz` file.

    The array is (n, height, width), (n, height, width, c) or (n, c, height, width) with c = 1, 3 or 4: grey, colour,
    colour and alpha. The channels are the last axis or the second, whichever has such a length; if both have, the file
    is refused. A `.npy` stays on disk, so it may be larger than memory. A `.npz` is read whole, and its checksums are
    compared: its pictures are named images, image, x or arr_0, its labels, integers (n,), labels or label. Pickled
    arrays are refused. Other arguments and all errors as in `open_images`; there is nothing that `skip_corrupt` could
    leave out of an array.
    """

    def __init__(self, path: str | os.PathLike[str], resolution: int | None = None, *, labels: bool = False):
        check_resolution(resolution)
        self.path = as_path(path).absolute()
        self.name = short_name(self.path.stem)
        self.skipped = {}
        self._pixels, found_labels = _load(self.path)
        self._channel_axis = _channel_axis(self._pixels, self.path)
        if labels:
            self.labels = _checked_labels(found_labels, len(self._pixels), self.path)
        else:
            self.labels = None
        sides = [size for axis, size in enumerate(self._pixels.shape) if axis not in (0, self._channel_axis)]
        if resolution is None and sides[0] != sides[1]:
            raise ValueError(
                f"{self.path}: the pictures are {sides[1]} wide and {sides[0]} high. "
                f"Pass resolution=, for instance {min(sides)}, to cut out the square in the centre."
            )
        self.resolution = sides[0] if resolution is None else resolution
        self.sizes = {(sides[1], sides[0]): len(self._pixels)}

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, index: int) -> np.ndarray:
        """Return picture `index` as uint8 (3, resolution, resolution)."""
        pixels = self.stored(index)
        if self._channel_axis is None:
            pixels = pixels[..., None]
        elif self._channel_axis == 1:
            pixels = pixels.transpose(1, 2, 0)
        if self.is_decoded:  # Pillow would hand back the same numbers
            pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
            return np.array(pixels.transpose(2, 0, 1), order="C")
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        image = rgb_picture(Image.fromarray(np.ascontiguousarray(pixels)))
        return picture_array(square_picture(image, self.resolution))

    @property
    def is_decoded(self) -> bool:
        """Whether there is nothing to cut, to resize or to composite, so that a cache would be a second copy."""
        has_alpha = self._channel_axis is not None and self._pixels.shape[self._channel_axis] == 4
        return [*self.sizes] == [(self.resolution, self.resolution)] and not has_alpha

    def stored(self, index: int) -> np.ndarray:
        """Return the pixels of picture `index` as they lie in the file, uint8 of any of the shapes that are read."""
        return np.asarray(self._pixels[index])

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        del state["_pixels"]  # a worker maps the file itself
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pixels, _ = _load(self.path)


def _load(path: Path) -> tuple[np.ndarray | ArrayOnDisk, np.ndarray | None]:
    refuse_special(path)
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":
        return guarded(lambda: ArrayOnDisk(path), str(path)), None
    if not magic.startswith(b"PK"):
        raise ValueError(
            f"{path} is not a .npy or .npz file of numpy. If it is a pickle, it is not read: "
            "a pickle can run any code. Save the array again with numpy.save."
        )

    def choose(names: list[str]) -> list[str | None]:
        images = [key for key in IMAGE_KEYS if key in names]
        labels = [key for key in _LABEL_KEYS if key in names]
        if len(images) != 1 or len(labels) > 1:
            raise ValueError(
                f"{path} holds {', '.join(names) or 'nothing'}: exactly one of {', '.join(IMAGE_KEYS)} "
                f"is read as the pictures, at most one of {', '.join(_LABEL_KEYS)} as their labels."
            )
        return [images[0], labels[0] if labels else None]

    pixels, labels = read_archive(path, choose)
    assert pixels is not None  # it was chosen
    return pixels, labels


def _channel_axis(pixels: Any, path: Path) -> int | None:
    shape, dtype = getattr(pixels, "shape", ()), getattr(pixels, "dtype", None)
    if dtype != np.uint8:
        advice = "Floats in [0, 1] become it by (255 * x).round().astype('uint8')."
        if dtype is not None and dtype.kind in "iu":
            advice = "Whole numbers from 0 to 255 become it by x.astype('uint8')."
        raise ValueError(f"{path}: the pictures have dtype {dtype}; uint8 from 0 to 255 is read. {advice}")
    if len(shape) not in (3, 4) or 0 in shape:
        raise ValueError(
            f"{path}: the pictures have shape {shape}; "
            "(n, height, width), (n, height, width, c) or (n, c, height, width) is read, none of them 0."
        )
    if len(shape) == 3:
        return None
    axes = [axis for axis in (1, 3) if shape[axis] in _CHANNELS]
    if len(axes) != 1:
        raise ValueError(
            f"{path}: the pictures have shape {shape}, so the channels (1, 3 or 4 of them) could be "
            f"{'the second axis or the last' if axes else 'no axis'}. Save the array again as (n, height, width, c)"
            f"{', with larger pictures' if axes else ''}."
        )
    return axes[0]


def _checked_labels(labels: Any, num_images: int, path: Path) -> np.ndarray:
    if labels is None:
        raise MissingLabelsError(
            f"{path} has no labels. Pass labels=False, or save them beside the pictures: "
            "numpy.savez(path, images=images, labels=labels)."
        )
    shape = getattr(labels, "shape", None)
    if shape != (num_images,):
        raise ValueError(f"{path}: labels of shape {shape} for {num_images} pictures; ({num_images},) is read.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: the labels have dtype {labels.dtype}; whole numbers 0, 1, 2, ... are read.")
    wrong = np.flatnonzero((labels < 0) | (labels.astype(np.uint64) >= 2**31))
    if wrong.size:
        raise ValueError(f"{path}: label {wrong[0]} is {labels[wrong[0]]}; labels are 0, 1, 2, ...")
    largest = int(labels.argmax())
    check_num_classes(int(labels[largest]) + 1, num_images, f"{path}: label {largest}")
    return labels.astype(np.int32)
