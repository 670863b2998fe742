"""What a zip and a folder have in common; every test runs on both."""

import pickle

import numpy as np
import pytest
from PIL import Image

from hamflow.data import UnreadableImageError, open_images


def test_pictures_come_in_the_order_of_their_names(write_files, seven, picture):
    source = open_images(write_files(seven))
    assert (len(source), source.resolution, source.num_classes, source.has_labels) == (7, 8, 0, False)
    assert (source.name, source.skipped) == ("set", {})
    order = [0, 2, 4, 6, 1, 3, 5]  # 00000/ has the even ones
    for index, seed in enumerate(order):
        item = source[index]
        assert item.keys() == {"image", "index"}
        assert item["index"] == index
        np.testing.assert_array_equal(item["image"], np.moveaxis(picture(seed), -1, 0))


def test_labels_follow_their_file(write_files, seven):
    labels = [[name, int(name[-5]) * 2] for name in seven]
    source = open_images(write_files(seven, labels), labels=True)
    assert source.num_classes == 13
    assert [int(source[i]["label"]) for i in range(7)] == [0, 4, 8, 12, 2, 6, 10]
    assert source[0]["label"].dtype == np.int32
    assert source.labels.dtype == np.int32


def test_labels_are_not_read_unless_asked_for(write_files, seven):
    source = open_images(write_files(seven, labels=[["nowhere.png", -1]]))
    assert not source.has_labels
    assert "label" not in source[0]


@pytest.mark.parametrize("index", [-1, 7])
def test_an_index_outside_is_an_error(write_files, seven, index):
    with pytest.raises(IndexError, match="outside the 7 pictures"):
        open_images(write_files(seven))[index]


def test_a_source_survives_pickling(write_files, seven):
    source = open_images(write_files(seven, [[name, 1] for name in seven]), 4, labels=True)
    copy = pickle.loads(pickle.dumps(source))
    for i in range(7):
        np.testing.assert_array_equal(copy[i]["image"], source[i]["image"])
    assert repr(copy) == repr(source)
    assert "'set', 7 pictures of 4x4, 2 classes" in repr(copy)


def test_mixed_sizes_are_cropped_and_resized(write_files, png, picture):
    pixels = {"a.png": picture(0, 10, 13), "b.jpg": picture(1, 9, 6), "c.webp": picture(2, 4, 4)}
    kinds = {"a.png": ("PNG", {}), "b.jpg": ("JPEG", {}), "c.webp": ("WEBP", {"lossless": True})}
    source = open_images(write_files({name: png(p, kinds[name][0], **kinds[name][1]) for name, p in pixels.items()}), 4)
    wide = Image.fromarray(pixels["a.png"]).crop((1, 0, 11, 10)).resize((4, 4), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(source[0]["image"], np.moveaxis(np.asarray(wide), -1, 0))
    assert source[1]["image"].shape == (3, 4, 4)
    np.testing.assert_array_equal(source[2]["image"], np.moveaxis(pixels["c.webp"], -1, 0))


def test_mixed_sizes_without_a_resolution_name_the_first_two(write_files, png, picture):
    path = write_files({"a.png": png(picture(0)), "b.png": png(picture(1)), "c.png": png(picture(2, 5, 6))})
    with pytest.raises(ValueError, match=r"a\.png is 8x8 and c\.png is 6x5.*resolution=, for instance 5"):
        open_images(path)


def test_one_size_that_is_no_square_needs_a_resolution(write_files, png, picture):
    path = write_files({"a.png": png(picture(0, 6, 9))})
    with pytest.raises(ValueError, match=r"9 wide and 6 high.*resolution="):
        open_images(path)
    assert open_images(path, 6)[0]["image"].shape == (3, 6, 6)


def test_what_file_managers_leave_behind_is_no_picture(write_files, seven):
    litter = {"__MACOSX/00000/._img00000000.png": b"x", ".cache/a.png": b"x", "00000/.b.png": b"x", "notes.txt": b"x"}
    assert len(open_images(write_files({**litter, **seven}))) == 7


def test_nothing_to_read_is_an_error_with_the_path(write_files):
    path = write_files({"notes.txt": b"x"})
    with pytest.raises(ValueError, match=rf"{path} holds no picture \(\.apng, .*\.png"):
        open_images(path)


def test_a_header_that_is_refused_is_named_when_opening(write_files, seven, png):
    path = write_files({**seven, "00001/bad.png": png(np.zeros((8, 8), np.uint16))})
    with pytest.raises(UnreadableImageError, match=rf"00001/bad\.png in {path} has 16 bits.*skip_corrupt=True"):
        open_images(path)


def test_an_empty_file_is_named(write_files, seven):
    with pytest.raises(UnreadableImageError, match=r"00000/z\.png.*is empty"):
        open_images(write_files({**seven, "00000/z.png": b""}))


def test_a_header_behind_a_long_block_is_found(write_files, png, picture):
    """The header of this JPEG lies behind 5 x 60 kB of application data, so neither 16 nor 256 KiB hold it."""
    data = png(picture(0), "JPEG")
    block = b"\xff\xe9" + (60_002).to_bytes(2, "big") + bytes(60_000)
    source = open_images(write_files({"a.jpg": data[:2] + 5 * block + data[2:]}))
    assert source.resolution == 8


def test_a_truncated_picture_is_named_when_it_is_read(write_files, png, picture):
    whole = png(picture(0))
    source = open_images(write_files({"a.png": whole, "b.png": whole[: len(whole) // 2]}))
    source[0]
    with pytest.raises(UnreadableImageError, match=r"b\.png in .* cut short or damaged"):
        source[1]


def test_skip_corrupt_leaves_out_counts_and_keeps_labels_in_step(write_files, png, picture):
    whole = png(picture(0))
    bad = {"b.png": whole[: len(whole) // 2], "d.png": b"", "e.png": png(np.zeros((8, 8), np.uint16))}
    files = {"a.png": whole, "c.png": png(picture(2)), **bad}
    labels = [[name, i] for i, name in enumerate(sorted(files))]
    source = open_images(write_files(files, labels), labels=True, skip_corrupt=True)
    assert list(source.skipped) == ["b.png", "d.png", "e.png"]
    assert "cut short" in source.skipped["b.png"]
    assert "empty" in source.skipped["d.png"]
    assert "16 bits" in source.skipped["e.png"]
    assert [int(source[i]["label"]) for i in range(len(source))] == [0, 2]
    np.testing.assert_array_equal(source[1]["image"], np.moveaxis(picture(2), -1, 0))


def test_skip_corrupt_with_nothing_left_is_an_error(write_files):
    with pytest.raises(ValueError, match=r"none of its 2 pictures can be read.*a\.png.*empty"):
        open_images(write_files({"a.png": b"", "b.png": b""}), skip_corrupt=True)


@pytest.mark.parametrize("resolution", [0, -3])
def test_a_resolution_is_a_number_of_pixels(write_files, seven, resolution):
    with pytest.raises(ValueError, match=f"resolution is {resolution}"):
        open_images(write_files(seven), resolution)


def test_labels_of_nested_folders_under_another_name_are_refused(write_files, seven):
    flat = [[name.split("/")[1], 0] for name in seven]
    with pytest.raises(
        ValueError, match=r"no label for 00000/img00000000\.png and 6 more; no picture for the label of"
    ):
        open_images(write_files(seven, flat), labels=True)


def test_a_photograph_stands_upright(write_files, png, picture):
    """By its EXIF: 6 is a camera on its side. The crop comes after it, of what is then the height."""
    pixels = picture(0, 12, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    source = open_images(write_files({"a.png": png(pixels, exif=exif)}), 8)
    upright = np.rot90(pixels, -1)
    np.testing.assert_array_equal(source[0]["image"], np.moveaxis(upright[:, 2:10], -1, 0))
