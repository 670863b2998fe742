"""Sheets of pictures, and writing them whole or not at all."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from hamflow.data import image_grid, save_png


def test_tiles_lie_row_by_row_with_a_white_gap():
    images = np.stack([np.full((3, 2, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = image_grid(images, 2, gap=1)
    w = 255
    expected = [
        [10, 10, 10, w, 20, 20, 20],
        [10, 10, 10, w, 20, 20, 20],
        [w, w, w, w, w, w, w],
        [30, 30, 30, w, w, w, w],
        [30, 30, 30, w, w, w, w],
    ]
    assert sheet.dtype == np.uint8
    np.testing.assert_array_equal(sheet, np.stack([expected] * 3, axis=-1))


def test_floats_and_grey_are_drawn():
    images = jnp.array([-1.0, 0.2, 3.0]).reshape(3, 1, 1, 1)
    np.testing.assert_array_equal(image_grid(images, 3, gap=0)[0, :, 1], [0, 153, 255])


def test_without_columns_the_sheet_is_a_square():
    assert image_grid(np.zeros((10, 3, 4, 4), np.uint8), gap=0).shape == (12, 16, 3)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 2, 4, 4)])
def test_what_cannot_be_drawn_is_refused(shape):
    with pytest.raises(ValueError, match="images has shape"):
        image_grid(np.zeros(shape, np.uint8))


def test_nan_is_counted_and_not_drawn():
    images = np.zeros((4, 3, 2, 2), np.float32)
    images[1:3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN in 2 of 4 pictures, the first being number 1"):
        image_grid(images)


def test_a_png_holds_the_pixels(tmp_path, picture):
    pixels = picture(0, 5, 7)
    save_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(Image.open(tmp_path / "a.png"), pixels)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_old_picture(tmp_path, picture, monkeypatch):
    save_png(tmp_path / "a.png", picture(0))

    def fail(self, file, **options):
        with open(file, "wb") as partial:
            partial.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_png(tmp_path / "a.png", picture(1))
    np.testing.assert_array_equal(Image.open(tmp_path / "a.png"), picture(0))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_paths_that_cannot_be_written_are_named(tmp_path, picture):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        save_png(tmp_path / "nowhere" / "a.png", picture(0))
    with pytest.raises(ValueError, match=r"a\.jpg.*end in \.png"):
        save_png(tmp_path / "a.jpg", picture(0))
