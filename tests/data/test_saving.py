"""What is written is what was read, whole or not at all."""

import json
import os
import resource
import zipfile

import numpy as np
import pytest

from hamflow.data import open_images, save_images


@pytest.fixture
def source(write_zip, seven):
    return open_images(write_zip(seven, [[name, int(name[-5])] for name in seven]), 6, labels=True)


@pytest.mark.parametrize("suffix", ["npz", "zip"])
def test_pixels_labels_and_their_order_come_back(source, tmp_path, suffix):
    done = []
    save_images(source, tmp_path / f"out.{suffix}", progress=done.append)
    copy = open_images(tmp_path / f"out.{suffix}", labels=True)
    assert done == [1, 2, 3, 4, 5, 6, 7]
    assert (len(copy), copy.resolution, copy.num_classes) == (7, 6, 7)
    for i in range(7):
        np.testing.assert_array_equal(copy[i]["image"], source[i]["image"])
        assert copy[i]["label"] == source[i]["label"]
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]


def test_the_layouts_are_those_of_numpy_and_of_edm(source, tmp_path):
    save_images(source, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert found["images"].shape == (7, 3, 6, 6)
        np.testing.assert_array_equal(found["images"][2], source.read(2))
        np.testing.assert_array_equal(found["labels"], source.labels)
    save_images(source, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist()[0] == "00000/img00000000.png"
        assert json.loads(archive.read("dataset.json"))["labels"][6] == ["00000/img00000006.png", 5]


@pytest.mark.parametrize("suffix", ["npz", "zip"])
def test_without_labels_there_are_none_and_equal_pictures_make_equal_files(write_zip, seven, tmp_path, suffix):
    for name in ("one", "two"):
        save_images(open_images(write_zip(seven)), tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    with pytest.raises(ValueError, match="has no labels"):
        open_images(tmp_path / f"one.{suffix}", labels=True)


def test_a_file_that_is_there_is_kept_unless_told_otherwise(source, tmp_path):
    (tmp_path / "out.npz").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"out\.npz is there already.*overwrite=True"):
        save_images(source, tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_bytes() == b"mine"
    save_images(source, tmp_path / "out.npz", overwrite=True)
    assert len(open_images(tmp_path / "out.npz")) == 7


def test_a_data_set_may_be_written_over_itself_and_through_a_link(source, tmp_path):
    (tmp_path / "link.zip").symlink_to(source.path)
    save_images(source, tmp_path / "link.zip", overwrite=True)
    assert (tmp_path / "link.zip").is_symlink()
    assert open_images(source.path).resolution == 6


def test_what_fails_on_the_way_leaves_nothing(write_zip, png, picture, tmp_path):
    whole = png(picture(0))
    damaged = open_images(write_zip({"a.png": whole, "b.png": whole[: len(whole) // 2]}))
    for name in ("out.npz", "out.zip"):
        with pytest.raises(ValueError, match=r"b\.png in .* is cut short"):
            save_images(damaged, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["set.zip"]


def test_a_full_disk_is_named_and_leaves_what_was_there(source, tmp_path):
    """As the limit on the size of a file, which fails in a write like a full disk."""
    (tmp_path / "out.zip").write_bytes(b"mine")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OSError, match=r"so nothing was written: '.*out\.zip'"):
            save_images(source, tmp_path / "out.zip", overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "out.zip").read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["out.zip", "set.zip"]


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("out.npy", ValueError, r"out\.npy; a \.npz or a \.zip is written"),
        ("nowhere/out.npz", FileNotFoundError, r"there is no folder .*nowhere"),
        ("folder.npz", IsADirectoryError, r"folder\.npz is a folder"),
        ("pipe.npz", OSError, r"pipe\.npz is a pipe or a device"),
    ],
)
def test_places_that_do_not_do(source, tmp_path, name, error, reason):
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(error, match=reason):
        save_images(source, tmp_path / name, overwrite=True)


def test_sides_that_look_like_channels_are_refused_in_an_array(source, tmp_path):
    small = open_images(source.path, 3)
    with pytest.raises(ValueError, match=r"pictures of 3 pixels in a \.npz look like channels.*\.zip"):
        save_images(small, tmp_path / "out.npz")
    save_images(small, tmp_path / "out.zip")
    assert open_images(tmp_path / "out.zip").resolution == 3
