"""The data set inside the package, and the script that made it."""

import importlib.util
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from hamflow.data import embedded_faces, open_images

CLASSES = ["person", "person-gesture", "person-role", "person-fantasy"]


@pytest.fixture(scope="module")
def faces():
    return open_images(embedded_faces(), labels=True)


def test_there_are_997_portraits_in_four_classes(faces):
    assert (len(faces), faces.resolution, faces.name, faces.skipped) == (997, 64, "faces64", {})
    np.testing.assert_array_equal(np.bincount(faces.labels), [168, 180, 492, 157])


def test_every_portrait_is_sound_and_stands_on_white(faces):
    pictures = np.stack([faces[i]["image"] for i in range(997)])
    assert pictures.shape == (997, 3, 64, 64)
    corners = pictures[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all()
    assert (pictures.min(axis=(1, 2, 3)) < 100).all()  # none is blank
    assert len(np.unique(pictures.reshape(997, -1), axis=0)) > 800  # some emoji share a picture


def test_the_file_is_small_and_its_licence_lies_beside_it():
    path = embedded_faces()
    assert path.stat().st_size < 6_000_000
    licence = (path.parent / "LICENSE").read_text()
    for words in ("Noto Emoji", "Apache License", "Version 2.0, January 2004", "MIT License", "Cal Henderson"):
        assert words in licence
    assert "emoji-datasource-google" in (path.parent / "README.md").read_text()


def test_the_description_names_classes_and_sources():
    with zipfile.ZipFile(embedded_faces()) as archive:
        content = json.loads(archive.read("dataset.json"))
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert content["class_names"] == CLASSES
    assert len(set(content["sources"].values())) == 997


@pytest.fixture(scope="module")
def make_faces():
    spec = importlib.util.spec_from_file_location("make_faces", embedded_faces().with_name("make_faces.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path):
    """An unpacked package with five entries, of which four pictures are portraits."""

    def entry(name, subcategory, category="People & Body", drawn=True, tones=()):
        looks = {tone: {"image": f"{name}-{tone}.png", "has_img_google": True} for tone in tones}
        return {
            "image": f"{name}.png",
            "category": category,
            "subcategory": subcategory,
            "has_img_google": drawn,
            "skin_variations": looks,
        }

    entries = [
        entry("d", "person-fantasy"),
        entry("b", "person", tones=["1f3fb", "1f3ff"]),
        entry("a", "hands"),
        entry("c", "person", category="Symbols"),
        entry("e", "person", drawn=False),
    ]
    folder = tmp_path / "package" / "img" / "google" / "64"
    folder.mkdir(parents=True)
    for i, name in enumerate(["a", "b", "b-1f3fb", "b-1f3ff", "c", "d", "e"]):
        Image.new("RGBA", (64, 64), (10 * i, 0, 0, 255 if i % 2 else 0)).save(folder / f"{name}.png")
    (tmp_path / "package" / "emoji.json").write_text(json.dumps(entries))
    return tmp_path / "package"


def test_the_script_selects_composites_and_repeats_itself(make_faces, package, tmp_path):
    first, second = tmp_path / "first.zip", tmp_path / "second.zip"
    assert make_faces.make(package, first) == make_faces.make(package, second) == 4
    assert first.read_bytes() == second.read_bytes()
    source = open_images(first, labels=True)
    assert source.labels.tolist() == [0, 0, 0, 3]  # sorted by name: b-1f3fb, b-1f3ff, b, d
    assert [int(source[i]["image"][0, 0, 0]) for i in range(4)] == [255, 30, 10, 50]
    assert not list(tmp_path.glob(".*.partial"))
