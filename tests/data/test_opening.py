"""open_images finds the kind by what is at the path."""

import os

import numpy as np
import pytest

from hamflow.data import ArrayImages, FolderImages, ZipImages, open_images


def test_each_kind_is_recognised(write_zip, write_folder, seven, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    plain = write_zip(seven)
    unnamed = tmp_path / "a zip by content"
    unnamed.write_bytes(plain.read_bytes())
    assert isinstance(open_images(plain), ZipImages)
    assert isinstance(open_images(unnamed), ZipImages)
    assert isinstance(open_images(str(write_folder(seven))), FolderImages)
    assert isinstance(open_images(tmp_path / "a.npy"), ArrayImages)
    assert open_images(unnamed).name == "a_zip_by_content"


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"nothing at {tmp_path}/nowhere"):
        open_images(tmp_path / "nowhere")


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "set.tar").write_bytes(b"x" * 600)
    with pytest.raises(ValueError, match=r"set\.tar is a file that is not read.*\.zip"):
        open_images(tmp_path / "set.tar")


def test_a_wrong_argument_is_named(tmp_path):
    with pytest.raises(TypeError, match="resolution"):
        open_images(tmp_path, "64")


@pytest.mark.parametrize("name", ["set.zip", "set.npy", "set.npz", "set"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is a pipe or a device"):
        open_images(tmp_path / name)
    for kind in (ZipImages, ArrayImages):
        with pytest.raises(OSError, match=rf"{name} is no ordinary file"):
            kind(tmp_path / name)
