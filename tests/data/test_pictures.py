"""One picture: modes, alpha, orientation, crop, resize, and what is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from hamflow.data.pictures import (
    UnreadableImageError,
    decode_picture,
    picture_array,
    picture_size,
    rgb_picture,
    square_picture,
)


def test_an_rgb_png_comes_back_channel_first(png, picture):
    pixels = picture(0, height=5, width=7)
    array = picture_array(decode_picture(png(pixels), "a.png"))
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, np.moveaxis(pixels, -1, 0))


def test_the_size_is_read_from_the_first_bytes(png, picture):
    assert picture_size(png(picture(0, height=40, width=50))[:64], "a.png") == (50, 40)


def test_grey_is_repeated_and_one_bit_is_black_or_white(png, picture):
    grey = picture(1)[..., 0]
    np.testing.assert_array_equal(picture_array(decode_picture(png(grey), "a.png")), np.stack([grey] * 3))
    bits = grey > 127
    array = picture_array(decode_picture(png(bits), "a.png"))
    np.testing.assert_array_equal(array, np.stack([255 * bits.astype(np.uint8)] * 3))


def test_alpha_is_composited_on_white_for_every_value():
    """Every pair of grey c and alpha a: c a / 255 + 255 (1 - a / 255), rounded; no pair is a tie, since 255 is odd."""
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    image = Image.fromarray(np.stack([colour] * 3 + [alpha], axis=-1).astype(np.uint8))
    expected = np.round((colour * alpha + 255 * (255 - alpha)) / 255)
    for channel in picture_array(rgb_picture(image)):
        np.testing.assert_array_equal(channel, expected)


def test_grey_with_alpha_is_composited_too(png):
    pixels = np.array([[[0, 255], [0, 0]]], np.uint8)  # opaque black, clear black
    np.testing.assert_array_equal(decode_picture(png(pixels), "a.png"), [[[0, 0, 0], [255, 255, 255]]])


def test_a_palette_is_looked_up_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    plain, clear = io.BytesIO(), io.BytesIO()
    image.save(plain, "PNG")
    image.save(clear, "PNG", transparency=1)
    np.testing.assert_array_equal(decode_picture(plain.getvalue(), "a.png"), [[[10, 20, 30], [200, 100, 50]]])
    np.testing.assert_array_equal(decode_picture(clear.getvalue(), "a.png"), [[[10, 20, 30], [255, 255, 255]]])


def test_a_transparent_colour_of_an_rgb_png_becomes_white(png):
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    array = decode_picture(png(pixels, transparency=(1, 2, 3)), "a.png")
    np.testing.assert_array_equal(array, [[[255, 255, 255], [4, 5, 6]]])


def test_exif_orientation_is_applied(png, picture):
    pixels = picture(2, height=4, width=6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: show it turned by 90 degrees clockwise
    np.testing.assert_array_equal(decode_picture(png(pixels, exif=exif), "a.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(6, 9, (0, 6), (1, 7)), (8, 3, (2, 5), (0, 3))])
def test_the_square_is_cut_from_the_centre(picture, height, width, rows, columns):
    pixels = picture(3, height, width)
    cut = square_picture(Image.fromarray(pixels), min(height, width))
    np.testing.assert_array_equal(cut, pixels[slice(*rows), slice(*columns)])


def lanczos(signal: np.ndarray, size: int) -> np.ndarray:
    """Resample columns by the definition: sinc(x) sinc(x/3), stretched by the reduction, weights normalised."""
    scale = len(signal) / size
    centre = (np.arange(size) + 0.5) * scale
    x = (np.arange(len(signal)) + 0.5 - centre[:, None]) / max(scale, 1)
    weight = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return (weight / weight.sum(1, keepdims=True)) @ signal


@pytest.mark.parametrize("resolution", [4, 8, 24])
def test_resizing_is_lanczos(resolution):
    """Against the formula in float64. A picture that varies along one axis is rounded once to 8 bits, so within .51."""
    row = np.linspace(40, 210, 16) + 20 * np.sin(np.arange(16))
    pixels = np.repeat(np.round(row)[None, :, None], 16, axis=0).repeat(3, axis=2).astype(np.uint8)
    result = np.asarray(square_picture(Image.fromarray(pixels), resolution), np.float64)
    expected = lanczos(pixels[0, :, 0].astype(np.float64), resolution)
    assert result.shape == (resolution, resolution, 3)
    assert np.abs(result - expected[None, :, None]).max() < 0.51


def test_crop_then_resize_is_what_pillow_does_with_that_box(picture):
    image = Image.fromarray(picture(5, height=20, width=31))
    expected = image.crop((5, 0, 25, 20)).resize((8, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(square_picture(image, 8), expected)


def sixteen_bit_rgb() -> bytes:
    """A 1x1 PNG of 16 bits a channel, written by hand since Pillow cannot."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + bytes(6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), shade) for shade in ("red", "blue")]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a picture at all", "not a picture that can be read"),
        (sixteen_bit_rgb(), "16 bits a channel"),
        (animation(), "animation"),
    ],
)
def test_bad_bytes_are_refused_with_the_name(data, reason):
    for read in (picture_size, decode_picture):
        with pytest.raises(UnreadableImageError, match=rf"^00000/a\.png.*{reason}"):
            read(data, "00000/a.png")


def test_sixteen_bit_grey_cmyk_and_a_gif_are_refused(png):
    for data, reason in (
        (png(np.zeros((2, 2), np.uint16)), "16 bits a channel"),
        (encode_mode("CMYK", "JPEG"), "is CMYK"),
        (encode_mode("P", "GIF"), "not a picture that can be read"),
    ):
        with pytest.raises(UnreadableImageError, match=reason):
            picture_size(data, "a")


def encode_mode(mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_half_a_file_is_refused_and_the_whole_is_read(png, picture, kind):
    data = png(picture(6, 16, 16), kind)
    assert decode_picture(data, "a").size == (16, 16)
    with pytest.raises(UnreadableImageError, match="cut short or damaged"):
        decode_picture(data[: len(data) // 2], "a")


@pytest.mark.parametrize("limit", [99, 40])
def test_a_decompression_bomb_is_refused(png, monkeypatch, limit):
    """Pillow warns above its limit and raises above twice the limit; both are one named error here."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableImageError, match=r"^a\.png claims more than"):
        picture_size(png(np.zeros((10, 10), np.uint8)), "a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_where_warnings_are_no_errors(png, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(UnreadableImageError, match="claims more than"):
        picture_size(png(np.zeros((10, 10), np.uint8)), "a.png")
