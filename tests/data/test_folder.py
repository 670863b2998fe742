"""What only a folder can bring."""

import pytest

from hamflow.data import FolderImages, open_images


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


def test_a_link_to_nothing_is_named(write_folder, seven):
    path = write_folder(seven)
    (path / "gone.png").symlink_to(path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        open_images(path)


def test_the_class_itself_wants_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        FolderImages(tmp_path / "nowhere")
