"""What only a zip can get wrong."""

import os
import stat
import threading
import zipfile

import numpy as np
import pytest

from hamflow.data import UnreadableImageError, ZipImages, open_images


def test_deflated_and_stored_members_read_alike(tmp_path, seven):
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / f"{kind}.zip", "w", kind) as archive:
            for name, data in seven.items():
                archive.writestr(name, data)
    stored, deflated = (open_images(tmp_path / f"{kind}.zip") for kind in (0, 8))
    assert isinstance(stored, ZipImages)
    for i in range(7):
        np.testing.assert_array_equal(stored[i]["image"], deflated[i]["image"])


@pytest.mark.parametrize("name", ["../up.png", "a/../../up.png", "/root.png", "C:/x.png", "..\\up.png", "../notes.txt"])
def test_names_that_point_outside_are_refused(write_zip, seven, name):
    with pytest.raises(ValueError, match="points outside the zip"):
        open_images(write_zip({**seven, name: b"x"}))


def test_a_link_is_refused(tmp_path, seven):
    link = zipfile.ZipInfo("00000/link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"00000/link\.png in .* is a link"):
        open_images(tmp_path / "set.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(tmp_path, png, picture):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.png", png(picture(0)))
        archive.writestr("a.png", png(picture(1)))
    with pytest.raises(ValueError, match=r"a\.png is in .*set\.zip twice"):
        open_images(tmp_path / "set.zip")


def test_an_encrypted_member_is_refused(write_zip, seven):
    path = write_zip(seven)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")  # the first entry of the central directory; its flags are 8 bytes on
    data[at + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is encrypted"):
        open_images(path)


def test_a_folder_entry_named_like_a_picture_is_no_picture(write_zip, seven):
    assert len(open_images(write_zip({"album.png/": b"", **seven}))) == 7


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_what_is_not_a_zip_is_named(tmp_path, data):
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"set\.zip is not a zip, or a zip that was cut short"):
        open_images(tmp_path / "set.zip")


def test_a_zip_that_was_cut_short_is_named(write_zip, seven):
    path = write_zip(seven)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"set\.zip is not a zip, or a zip that was cut short"):
        open_images(path)


def test_a_failing_checksum_is_named_and_can_be_skipped(write_zip, png, picture):
    path = write_zip({"a.png": png(picture(0)), "b.png": png(picture(1))})
    data = bytearray(path.read_bytes())
    data[data.index(png(picture(1))) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=r"b\.png in .* cannot be read .*CRC"):
        open_images(path)
    assert list(open_images(path, skip_corrupt=True).skipped) == ["b.png"]


def test_many_threads_read_one_zip(write_zip, png, picture):
    source = open_images(write_zip({f"{i:03d}.png": png(picture(i, 16, 16)) for i in range(24)}))
    expected = [np.moveaxis(picture(i, 16, 16), -1, 0) for i in range(24)]
    wrong = []

    def read(offset: int) -> None:
        for k in range(96):
            i = (7 * k + offset) % 24
            if not np.array_equal(source[i]["image"], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_picture_that_is_lost_while_the_zip_is_open_is_named(write_zip, png, picture):
    """Pictures of 30 kB each, so that the second is not in the buffer of the file."""
    path = write_zip({name: png(picture(0, 100, 100)) for name in ("a.png", "b.png")})
    source = open_images(path)
    os.truncate(path, 100)
    with pytest.raises(UnreadableImageError, match=r"b\.png in .*set\.zip cannot be read"):
        source[1]
