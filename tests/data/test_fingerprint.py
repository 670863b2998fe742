"""A fingerprint stays with the pictures, and changes with each of them."""

import numpy as np
import pytest

from hamflow.data import fingerprint, open_images
from hamflow.data.cache import CachedImages


def test_it_stays_when_the_files_move(write_files, seven, tmp_path):
    path = write_files(seven)
    before = fingerprint(open_images(path))
    assert len(before) == 16
    path.rename(tmp_path / "elsewhere.zip")
    assert fingerprint(open_images(tmp_path / "elsewhere.zip")) == before


@pytest.mark.parametrize("change", ["one more", "one less", "another name", "another size", "labels"])
def test_it_changes_with_every_file(write_zip, write_folder, seven, png, picture, change, tmp_path):
    name = min(seven)
    rest = {other: data for other, data in seven.items() if other != name}
    files = {
        "one more": {**seven, "more.png": png(picture(9))},
        "one less": rest,
        "another name": {**rest, "moved.png": seven[name]},
        "another size": {**rest, name: png(np.zeros((8, 8, 3), np.uint8))},
        "labels": seven,
    }[change]
    zips = {key: open_images(write_zip(value, name=f"{key}.zip")) for key, value in {"a": seven, "b": files}.items()}
    labelled = open_images(write_zip(seven, [[name, 1] for name in seven], name="c.zip"), labels=True)
    before, after = fingerprint(zips["a"]), fingerprint(labelled if change == "labels" else zips["b"])
    assert before != after


def test_a_zip_tells_contents_of_one_size_apart(write_zip, png, picture):
    one, two = (bytearray(png(picture(0), compress_level=0)) for _ in range(2))
    two[-20] ^= 1
    sources = [open_images(write_zip({"a.png": bytes(data)}, name=f"{i}.zip")) for i, data in enumerate((one, two))]
    assert fingerprint(sources[0]) != fingerprint(sources[1])


def test_of_an_array_it_is_in_the_pixels(tmp_path):
    pixels = np.zeros((40, 8, 8), np.uint8)
    found = []
    for i, change in enumerate([0, 0, 1]):
        pixels[-1, 0, 0] = change
        np.save(tmp_path / f"{i}.npy", pixels)
        found.append(fingerprint(CachedImages(open_images(tmp_path / f"{i}.npy"))))
    assert found[0] == found[1] != found[2]


def test_what_is_left_out_counts_too(write_files, png, picture):
    whole = png(picture(0))
    path = write_files({"a.png": whole, "b.png": whole[: len(whole) // 2]})
    assert fingerprint(open_images(path)) != fingerprint(open_images(path, skip_corrupt=True))
