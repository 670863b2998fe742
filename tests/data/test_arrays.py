"""Pictures in .npy and .npz files."""

import pickle

import numpy as np
import pytest
from PIL import Image

from hamflow.data import ArrayImages, open_images


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(array: np.ndarray):
        np.save(tmp_path / "set.npy", array)
        return tmp_path / "set.npy"

    return save


@pytest.fixture
def savez(tmp_path):
    def savez(**arrays: np.ndarray):
        np.savez(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return savez


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 8, 8), lambda x: np.stack([x] * 3, axis=1)),
        ((5, 8, 8, 1), lambda x: np.repeat(np.moveaxis(x, -1, 1), 3, axis=1)),
        ((5, 1, 8, 8), lambda x: np.repeat(x, 3, axis=1)),
        ((5, 8, 8, 3), lambda x: np.moveaxis(x, -1, 1)),
        ((5, 3, 8, 8), lambda x: x),
    ],
)
def test_every_layout_comes_out_channel_first(save, shape, expected):
    pixels = random(*shape)
    source = open_images(save(pixels))
    assert isinstance(source, ArrayImages)
    assert (source.resolution, source.name, len(source)) == (8, "set", 5)
    np.testing.assert_array_equal(np.stack([source[i]["image"] for i in range(5)]), expected(pixels))


def test_alpha_is_composited_on_white(save):
    pixels = np.zeros((1, 2, 2, 4), np.uint8)
    pixels[0, 0, 0, 3] = 255  # one opaque black pixel
    image = open_images(save(pixels))[0]["image"]
    np.testing.assert_array_equal(image, np.stack([[[0, 255], [255, 255]]] * 3))


def test_resizing_is_the_same_as_for_files(save):
    pixels = random(2, 9, 12, 3)
    source = open_images(save(pixels), 4)
    expected = Image.fromarray(pixels[1, :, 1:10]).resize((4, 4), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(source[1]["image"], np.moveaxis(np.asarray(expected), -1, 0))


def test_an_npz_brings_labels(savez):
    path = savez(images=random(4, 8, 8), labels=np.array([3, 0, 1, 1]))
    source = open_images(path, labels=True)
    assert [int(source[i]["label"]) for i in range(4)] == [3, 0, 1, 1]
    assert source[0]["label"].dtype == np.int32
    assert source.num_classes == 4
    assert not open_images(path).has_labels


@pytest.mark.parametrize("key", ["images", "image", "x", "arr_0"])
def test_the_names_of_the_pictures(savez, key):
    assert len(open_images(savez(**{key: random(4, 8, 8)}))) == 4


def test_an_npy_is_mapped_and_pickling_sends_no_pixels(save):
    pixels = random(200, 8, 8, 3)
    source = open_images(save(pixels))
    sent = pickle.dumps(source)
    assert len(sent) < 1000 < pixels.nbytes
    np.testing.assert_array_equal(pickle.loads(sent)[7]["image"], source[7]["image"])


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 8, 8), np.float32), "dtype float32; uint8"),
        (np.zeros((2, 8, 8), np.uint16), "dtype uint16; uint8"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((0, 8, 8), np.uint8), r"shape \(0, 8, 8\)"),
        (np.zeros((2, 8, 8, 2), np.uint8), "could be no axis"),
        (np.zeros((2, 3, 8, 3), np.uint8), "could be the second axis or the last"),
        (np.zeros((2, 8, 6), np.uint8), "6 wide and 8 high.*resolution=, for instance 6"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(save, array, reason):
    with pytest.raises(ValueError, match=rf"set\.npy.*{reason}"):
        open_images(save(array))


def test_objects_and_pickles_are_refused(tmp_path, savez):
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(random(2, 8, 8)))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(ValueError, match=rf"{name}.*pickle"):
            open_images(tmp_path / name)
    with pytest.raises(ValueError, match=r"set\.npz cannot be read.*pickle"):
        open_images(savez(images=objects))


def test_files_that_were_cut_short_are_named(tmp_path, save, savez):
    for path in (save(random(5, 8, 8)), savez(images=random(5, 8, 8))):
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read.*cut short"):
            open_images(path)
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.npz is not a \.npy or \.npz"):
        open_images(tmp_path / "empty.npz")


def test_other_names_in_an_npz_are_listed(savez):
    with pytest.raises(ValueError, match="holds train, test: exactly one of images, image, x, arr_0"):
        open_images(savez(train=random(2, 8, 8), test=random(2, 8, 8)))
    with pytest.raises(ValueError, match="holds images, x: exactly one"):
        open_images(savez(images=random(2, 8, 8), x=random(2, 8, 8)))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.zeros(3, int), r"labels of shape \(3,\) for 4 pictures"),
        (np.zeros((4, 10), int), r"labels of shape \(4, 10\) for 4 pictures"),
        (np.zeros(4), "labels have dtype float64"),
        (np.array([0, 1, -2, 0]), "label 2 is -2"),
        (np.array([0, 1, 2, 2**31]), "label 3 is 2147483648"),
        (np.array([0, 1, 1000, 2]), "label 2 is 1000, which makes 1001 classes of 4 pictures"),
        (np.zeros(4, bool), "labels have dtype bool"),
        (np.array(list("abcd")), "labels have dtype <U1"),
        (np.array(0), r"labels of shape \(\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(savez, labels, reason):
    with pytest.raises(ValueError, match=rf"set\.npz.*{reason}"):
        open_images(savez(images=random(4, 8, 8), labels=labels), labels=True)


def test_missing_labels_are_named(save):
    with pytest.raises(ValueError, match=r"set\.npy has no labels.*labels=False"):
        open_images(save(random(4, 8, 8)), labels=True)
