"""`hamflow data`: what it says of a set, what it writes, and what bad input gets."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from hamflow import cli
from hamflow.data import fingerprint, open_images

WHITE_AND_BLACK = np.repeat([255, 255, 255, 0], 75).reshape(4, 3, 5, 5).astype(np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A labelled set of four pictures, three white and one black, in three forms, and a damaged one."""
    names = [f"{i}.png" for i in range(4)]
    files = {name: encoded(picture.transpose(1, 2, 0)) for name, picture in zip(names, WHITE_AND_BLACK, strict=True)}
    labels = json.dumps({"labels": [[name, i % 3] for i, name in enumerate(names)]})
    (tmp_path / "folder").mkdir()
    for name, data in files.items():
        (tmp_path / "folder" / name).write_bytes(data)
    (tmp_path / "folder" / "dataset.json").write_text(labels)
    np.save(tmp_path / "plain.npy", WHITE_AND_BLACK[:, 0])
    with zipfile.ZipFile(tmp_path / "damaged.zip", "w") as archive:
        for name, data in {**files, "2.png": files["2.png"][:-20]}.items():
            archive.writestr(name, data)
        archive.writestr("dataset.json", labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_it_says(here, capsys):
    """Three whites of +1 and a black of -1: mean 1/2, variance 1 - 1/4."""
    assert cli.main(["data", "folder"]) == 0
    said = capsys.readouterr().out
    assert "4 pictures from folder, as 5x5" in said
    for name, value in (
        ("as stored", "5x5 (4)"),
        ("classes", "3, of 1 to 2 pictures"),
        ("mean", "0.500000"),
        ("standard deviation", f"{0.75**0.5:.6f}"),
        ("damaged", "none"),
        ("fingerprint", fingerprint(open_images("folder", labels=True), full=True)),
    ):
        assert f"{name:<20}{value}\n" in said
    assert sorted(os.listdir(here)) == ["damaged.zip", "folder", "plain.npy"]


def test_the_resolution_and_the_labels_are_choices(here, capsys):
    assert cli.main(["data", "folder", "--resolution", "2", "--no-labels"]) == 0
    said = capsys.readouterr().out
    assert "as 2x2" in said
    assert "5x5 (4)" in said
    assert "no labels" in said


@pytest.mark.parametrize("suffix", ["npz", "zip"])
def test_convert(here, capsys, suffix):
    assert cli.main(["data", "folder", "--convert", f"out.{suffix}"]) == 0
    said = capsys.readouterr().out
    copy = open_images(f"out.{suffix}", labels=True)
    assert copy.labels is not None
    assert copy.labels.tolist() == [0, 1, 2, 0]
    np.testing.assert_array_equal(np.stack([copy.read(i) for i in range(4)]), WHITE_AND_BLACK)
    assert f"out.{suffix}: 4 pictures, fingerprint {fingerprint(copy, full=True)}" in said


def test_damaged_pictures_are_named_and_left_out_only_if_told_to(here, capsys):
    assert cli.main(["data", "damaged.zip", "--convert", "out.npz"]) == 1
    captured = capsys.readouterr()
    assert "3 pictures from damaged.zip" in captured.out
    assert f"{'damaged':<20}1\n  2.png in {here / 'damaged.zip'} is cut short or damaged" in captured.out
    assert (
        "out.npz was not written, since 1 of its pictures are damaged: mend them, or give --skip-corrupt"
        in captured.err
    )
    assert not (here / "out.npz").exists()
    assert cli.main(["data", "damaged.zip", "--convert", "out.npz", "--skip-corrupt"]) == 0
    copy = open_images("out.npz", labels=True)
    assert copy.labels is not None
    assert copy.labels.tolist() == [0, 1, 0]


def test_an_array_and_the_embedded_faces(here, capsys):
    assert cli.main(["data", "plain.npy"]) == 0
    assert "no labels" in capsys.readouterr().out
    assert cli.main(["data", "faces", "--resolution", "4"]) == 0
    assert (
        "997 pictures from faces, as 4x4\nas stored           64x64 (997)\nclasses             4,"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lost"], "There is nothing at"),
        (["mixed"], "a.png is 5x5 and b.png is 6x6 (width x height). Give --resolution, for instance 5, to cut out"),
        (["folder", "--resolution", "0"], "--resolution: '0' must be a whole number of at least 1"),
        (["folder", "--convert", "plain.npy"], "--convert is plain.npy; a .npz or a .zip is written"),
        (["folder", "--convert", "damaged.zip"], "damaged.zip is there already. Give another name, or --force"),
        (["folder", "--convert", "nowhere/out.npz"], "--convert is nowhere/out.npz, but there is no folder"),
        (["folder", "--force"], "--force says how to write: give --convert"),
        (["folder", "--skip-corrupt"], "--skip-corrupt says how to write: give --convert"),
        (["folder", "--convert", "out.npz", "--resolution", "4"], "pictures of 4 pixels in a .npz look like channels"),
        (["wrong"], "dataset.json is not valid JSON (Expecting value: line 1 column 1 (char 0)). Give --no-labels"),
    ],
)
def test_bad_input(here, arguments, message, capsys):
    for name in ("mixed", "wrong"):
        (here / name).mkdir()
    for name, side in (("a", 5), ("b", 6)):
        (here / "mixed" / f"{name}.png").write_bytes(encoded(np.zeros((side, side), np.uint8)))
    (here / "wrong" / "a.png").write_bytes(encoded(np.zeros((4, 4), np.uint8)))
    (here / "wrong" / "dataset.json").write_text("no JSON")
    before = (here / "damaged.zip").read_bytes()
    try:
        status = cli.main(["data", *arguments])
    except SystemExit as left:
        status = left.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert (here / "damaged.zip").read_bytes() == before
    assert not (here / "out.npz").exists()


def test_force_replaces(here, capsys):
    (here / "out.zip").write_bytes(b"old")
    assert cli.main(["data", "folder", "--convert", "out.zip", "--force"]) == 0
    assert len(open_images("out.zip")) == 4
    capsys.readouterr()
