"""Damaged picture files: each is decoded, or refused by name; a damaged PNG is never decoded."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from PIL import Image

from hamflow.data import UnreadableImageError
from hamflow.data.pictures import decode_picture, picture_array, picture_size

SIDE = 9


def encoded(mode: str, kind: str, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    "grey.png": encoded("L", "PNG"),
    "colour.png": encoded("RGB", "PNG"),
    "alpha.png": encoded("RGBA", "PNG"),
    "palette.png": encoded("P", "PNG"),
    "bits.png": encoded("1", "PNG"),
    "stored.png": encoded("RGB", "PNG", compress_level=0),
    "colour.jpg": encoded("RGB", "JPEG"),
    "progressive.jpg": encoded("RGB", "JPEG", progressive=True),
    "grey.jpg": encoded("L", "JPEG"),
    "colour.webp": encoded("RGB", "WEBP"),
    "lossless.webp": encoded("RGBA", "WEBP", lossless=True),
    "colour.bmp": encoded("RGB", "BMP"),
    "palette.bmp": encoded("P", "BMP"),
}
PNGS = [name for name in FILES if name.endswith(".png")]


def decode(data: bytes, name: str) -> np.ndarray | None:
    """The picture, or None if it is refused by name; anything else fails the test."""
    try:
        picture_size(data, f"{name} in here")
        image = picture_array(decode_picture(data, f"{name} in here"))
    except UnreadableImageError as error:
        said = str(error)
    else:
        return _of_three_channels(image)
    assert said.startswith(f"{name} in here ")
    assert "skip_corrupt=True" in said
    return None


def _of_three_channels(image: np.ndarray) -> np.ndarray:
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[0] == 3
    return image


@pytest.mark.parametrize("name", FILES)
def test_every_kind_is_read_whole(name):
    image = decode(FILES[name], name)
    assert image is not None
    assert image.shape == (3, SIDE, SIDE)


@pytest.mark.parametrize("name", FILES)
def test_truncated_at_any_byte(name):
    """A PNG never comes through; of the others at most one that has lost nothing but its last bytes."""
    for length in range(len(FILES[name])):
        image = decode(FILES[name][:length], name)
        assert image is None or (name not in PNGS and length > len(FILES[name]) // 2), length


@pytest.mark.parametrize("name", PNGS)
def test_no_flipped_byte_of_a_png_comes_through(name):
    for position in range(len(FILES[name])):
        for mask in (0x01, 0x20, 0xFF):
            damaged = bytearray(FILES[name])
            damaged[position] ^= mask
            assert decode(bytes(damaged), name) is None, (position, mask)


@given(name=st.sampled_from(sorted(FILES)), data=st.data())
def test_bytes_written_over(name, data):
    """A run of any bytes at any place, of the formats without checksums too: a picture, or a name."""
    original = FILES[name]
    start = data.draw(st.integers(0, len(original) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=12))
    damaged = original[:start] + patch + original[start + len(patch) :]
    assert decode(damaged, name) is None or name not in PNGS or damaged[: len(original)] == original


@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\x00\x00\x00WEBPVP8 ", b"BM"]), st.binary()
)
@example(b"\x89PNG\r\n\x1a\n", bytes(30))
def test_any_bytes_behind_a_signature(signature, rest):
    image = decode(signature + rest, "any")  # a name, or else a picture
    assert image is None or image.shape[1:] == picture_size(signature + rest, "any")[::-1]


def test_a_wrong_byte_in_stored_pixels_is_told_by_its_checksum():
    damaged = bytearray(FILES["stored.png"])
    damaged[80] ^= 1
    with pytest.raises(
        UnreadableImageError, match=r"a\.png is cut short or damaged \(the checksum of its chunk 'IDAT'"
    ):
        decode_picture(bytes(damaged), "a.png")


def test_a_png_without_its_end_is_told_so():
    with pytest.raises(UnreadableImageError, match=r"a\.png is cut short .*the end of the PNG is missing"):
        decode_picture(FILES["colour.png"][:-12], "a.png")


def test_the_depth_is_not_read_from_another_chunk():
    """A text in front of the header would have hidden the 16 bits of the header behind it."""
    whole = FILES["colour.png"]
    text = whole[:8] + b"\0\0\0\4tEXta\0bc" + zlib.crc32(b"tEXta\0bc").to_bytes(4, "big") + whole[8:]
    with pytest.raises(UnreadableImageError, match=r"a\.png is cut short or damaged .*its first chunk is not IHDR"):
        picture_size(text, "a.png")


def test_a_jpeg_of_a_thousand_scans_is_refused():
    """Each scan passes over the whole picture: a small file of them keeps a machine busy for minutes."""
    data = FILES["progressive.jpg"]
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(UnreadableImageError, match=r"a\.jpg is a JPEG of 10\d\d scans.*skip_corrupt=True"):
        decode_picture(data[:scan] + 1000 * data[scan:-2] + data[-2:], "a.jpg")


def test_a_wrong_byte_in_a_jpeg_may_become_another_picture():
    """Nothing in a JPEG tells: why a zip and a full fingerprint are worth having. It says what is not promised."""
    original, seen = decode(FILES["colour.jpg"], "a.jpg"), 0
    start = FILES["colour.jpg"].index(b"\xff\xda") + 20
    for position in range(start, len(FILES["colour.jpg"]) - 2):
        damaged = bytearray(FILES["colour.jpg"])
        damaged[position] ^= 1
        image = decode(bytes(damaged), "a.jpg")
        seen += image is not None and not np.array_equal(image, original)
    assert seen > 0
