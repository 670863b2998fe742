"""What only a folder can bring."""

import os

import pytest

from hamflow.data import FolderImages, UnreadableImageError, open_images


def test_linked_folders_are_followed_and_a_cycle_ends(write_folder, seven, tmp_path, png, picture):
    path = write_folder(seven)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "extra.png").write_bytes(png(picture(9)))
    (path / "more").symlink_to(elsewhere)
    (path / "00000" / "loop").symlink_to(path)
    source = open_images(path)
    assert isinstance(source, FolderImages)
    assert [name for name in source.names if not name.startswith("0000")] == ["more/extra.png"]
    assert len(source) == 8


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} holds no picture"):
        open_images(tmp_path)


def test_a_link_to_nothing_and_a_pipe_are_named_and_can_be_skipped(write_folder, seven):
    path = write_folder(seven)
    (path / "gone.png").symlink_to(path / "nowhere.png")
    os.mkfifo(path / "pipe.png")  # which nobody would ever write to
    (path / "folder.png").mkdir()  # a folder is one, whatever it is called
    with pytest.raises(
        UnreadableImageError, match=r"^gone\.png in .* cannot be read \(No such file.*skip_corrupt=True"
    ):
        open_images(path)
    (path / "gone.png").unlink()
    with pytest.raises(UnreadableImageError, match=r"^pipe\.png in .* cannot be read .*no ordinary file"):
        open_images(path)
    (path / "gone.png").symlink_to(path / "gone.png")
    source = open_images(path, skip_corrupt=True)
    assert len(source) == 7
    assert sorted(source.skipped) == ["gone.png", "pipe.png"]


def test_a_picture_that_went_away_is_named(write_folder, seven):
    path = write_folder(seven)
    source = open_images(path)
    (path / source.names[3]).unlink()
    with pytest.raises(UnreadableImageError, match=f"^{source.names[3]} in .*Put it back"):
        source[3]


def test_labels_that_are_a_pipe_are_refused(write_folder, seven):
    path = write_folder(seven)
    os.mkfifo(path / "dataset.json")
    with pytest.raises(OSError, match=r"dataset\.json is no ordinary file"):
        open_images(path, labels=True)


def test_the_class_itself_wants_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        FolderImages(tmp_path / "nowhere")
