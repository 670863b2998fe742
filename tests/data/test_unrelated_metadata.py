"""What is said beside the pixels is no damage of them, and what is not read is named."""

import io
import json
import struct
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from hamflow.data import open_images
from hamflow.data.pictures import FORMATS, PICTURE_SUFFIXES, decode_picture

# Twelve bytes each: tag, type, count, value. XResolution is a rational number, Artist text, ImageWidth positive.
MISTYPED = {
    "resolution as text": struct.pack("<HHI4s", 0x011A, 2, 4, b"72\0\0"),
    "a float artist": struct.pack("<HHIf", 0x013B, 11, 1, 1.5),
    "a negative width": struct.pack("<HHIi", 0x0100, 9, 1, -5),
    "an unknown type": struct.pack("<HHII", 0x0110, 77, 1, 0),
}


def exif(*entries):
    """A block of EXIF with these entries in its one directory."""
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return body


def orientation(value):
    return struct.pack("<HHIHH", 0x0112, 3, 1, value, 0)


def jpeg(block):
    """A picture whose left half is black and right half white, 32 wide and 16 high."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=block, quality=95)
    return file.getvalue()


@pytest.mark.parametrize("name", MISTYPED)
def test_a_mistyped_tag_beside_the_orientation(name):
    """Orientation 6 says: turn by 90 degrees clockwise. Left goes up, so the upper half is black."""
    upright = np.asarray(decode_picture(jpeg(exif(orientation(6), MISTYPED[name])), "it"))
    assert upright.shape == (32, 16, 3)
    assert upright[:14].mean() < 10
    assert upright[18:].mean() > 245


@pytest.mark.parametrize("value", range(10))
def test_each_orientation_is_that_of_pillow(value):
    from PIL import ImageOps

    content = jpeg(exif(orientation(value)))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(np.asarray(decode_picture(content, "it")), np.asarray(expected))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # as hamflow.data does where pytest has no filters of its own
@pytest.mark.parametrize("block", [b"Exif\0\0II*\0", b"Exif\0\0XXXX", exif(orientation(6))[:-9]])
def test_metadata_that_cannot_be_read_at_all(block):
    assert min(decode_picture(jpeg(block), "it").size) == 16


def test_suffixes_are_those_that_pillow_knows_for_the_formats():
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert known <= PICTURE_SUFFIXES


def test_every_suffix_is_read_and_the_rest_is_named(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jfif", "b.jpe", "c.JPG", "notes.txt", ".hidden.txt", "dataset.json", "d.psd"):
        content = jpeg(b"") if name[2:].lower() in ("jfif", "jpe", "jpg") else b"{}"
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    for source in (open_images(folder, 16), open_images(tmp_path / "photos.zip", 16)):
        assert source.names == ("a.jfif", "b.jpe", "c.JPG")
        assert source.passed_over == ("d.psd", "notes.txt")


def test_a_zip_with_backslashes_and_decomposed_names(tmp_path):
    """As Windows packs it, with labels under other spellings of the same names."""
    decomposed = unicodedata.normalize("NFD", "caf\u00e9")
    labels = {"labels": [["one/a.jpg", 1], [unicodedata.normalize("NFC", decomposed) + "/b.jpg", 0]]}
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for name in ("one\\a.jpg", f"{decomposed}\\b.jpg", "__MACOSX\\._a.jpg", "one\\.hidden.jpg"):
            archive.writestr(zipfile.ZipInfo(name), jpeg(b""))
        archive.writestr("dataset.json", json.dumps(labels))
    source = open_images(tmp_path / "windows.zip", 16, labels=True)
    assert len(source) == 2
    assert dict(zip(source.names, source.labels.tolist(), strict=True)) == {
        f"{decomposed}\\b.jpg": 0,
        "one\\a.jpg": 1,
    }
