"""The main example, run as a user runs it, on tiny settings: what it leaves, how it goes on, what bad input gets."""

import dataclasses
import importlib.util
import io
import json
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import hamflow as hf

SCRIPT = Path(__file__).parents[2] / "examples" / "ffhq.py"


@pytest.fixture(scope="module")
def ffhq():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("ffhq", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ffhq"] = module
    spec.loader.exec_module(module)
    return module


def png(size=16, value=100):
    pixels = np.full((size, size, 3), value, np.uint8)
    pixels[: size // 2, :, 0] = 255 - value
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A zip in the EDM layout that is not in the repository, with labels."""
    path = tmp_path_factory.mktemp("data") / "photos.zip"
    names = [f"00000/img{i:08d}.png" for i in range(12)]
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, png(value=20 * i))
        archive.writestr("dataset.json", json.dumps({"labels": [[name, i % 3] for i, name in enumerate(names)]}))
    return path


@pytest.fixture(scope="module")
def tiny(ffhq, photographs):
    """Two steps of four pictures of 8x8."""
    return ffhq.Config(
        data=photographs,
        resolution=8,
        cond=True,
        xflip=True,
        channels=4,
        multipliers=(1,),
        blocks=(1,),
        attention=(),
        batch=4,
        duration=8e-6,
        lr_decay=False,
        num_samples=4,
        sampling_steps=2,
        save_every=4e-6,
    )


@pytest.fixture(scope="module")
def finished(ffhq, tiny, tmp_path_factory):
    """A run folder after two steps."""
    outdir = tmp_path_factory.mktemp("runs")
    ffhq.main(dataclasses.replace(tiny, outdir=outdir))
    (folder,) = outdir.iterdir()
    return folder


def test_leaves_a_whole_run_folder(finished):
    assert finished.name == "00000-photos-8-cond-oscillation-batch4-seed0"
    with Image.open(finished / "samples.png") as samples:
        assert samples.mode == "RGB"
        assert min(samples.size) >= 2 * 8
    with Image.open(finished / "loss.png") as loss:
        assert min(loss.size) > 100
    lines = [json.loads(line) for line in (finished / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert [line["images"] for line in lines] == [4, 8]
    assert all(0.1 < line["loss"] < 10 for line in lines)  # of a unit target, before anything is learned
    assert json.loads((finished / "config.json").read_text())["batch"] == 4
    model = hf.load(finished / "model.safetensors")
    velocity = model(0.3, jax.numpy.zeros((3, 8, 8)), 1)
    assert velocity.shape == (3, 8, 8)
    assert bool(jax.numpy.isfinite(velocity).all())


def test_resume_goes_on_with_the_settings_of_the_run(ffhq, finished, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ffhq.py", "--resume", str(finished), "--duration", "1.6e-5"])
    ffhq.main(ffhq.parse())
    lines = [json.loads(line) for line in (finished / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]


def test_resume_with_another_setting_shows_the_difference(ffhq, finished, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ffhq.py", "--resume", str(finished), "--lr", "0.5"])
    with pytest.raises(ValueError, match=r"lr: 0\.015 in the run, 0\.5 now"):
        ffhq.main(ffhq.parse())


def test_dry_run_leaves_nothing(ffhq, tiny, tmp_path, capsys):
    ffhq.main(dataclasses.replace(tiny, outdir=tmp_path / "runs", dry_run=True))
    assert not (tmp_path / "runs").exists()
    assert '"batch": 4' in capsys.readouterr().out


def test_not_finite_stops_before_the_update(ffhq, tiny, tmp_path):
    """A learning rate of 1e30 makes the weights overflow: step 1 or a later one has no finite loss."""
    huge = dataclasses.replace(tiny, outdir=tmp_path, lr=1e30, lr_rampup=0.0, duration=40e-6)
    with pytest.raises(
        SystemExit, match=r"(?s)Step \d+: the loss is .*Indices of the batch: .*last good state is saved"
    ):
        ffhq.main(huge)
    (folder,) = tmp_path.iterdir()
    assert not (folder / "samples.png").exists()
    losses = [json.loads(line)["loss"] for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert np.isfinite(losses).all()


def zip_of(path, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/") + ".png", content)
    return path


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (lambda p: p / "nowhere.zip", {}, "nowhere.zip"),
        (lambda p: (p / "empty").mkdir() or p / "empty", {}, "empty"),
        (lambda p: zip_of(p / "none.zip"), {}, r"none\.zip"),
        (lambda p: zip_of(p / "cut.zip", a=png(), b=png()[:60], c=png(), d=png()), {"cond": False}, r"b\.png"),
        (lambda p: zip_of(p / "bare.zip", a=png(), b=png()), {"cond": True, "batch": 2}, "label"),
        (lambda p: zip_of(p / "few.zip", a=png(), b=png()), {"cond": False, "batch": 4}, r"4.*2|2.*4"),
    ],
    ids=["missing", "empty folder", "no pictures", "truncated", "no labels", "batch too large"],
)
def test_bad_data_is_named_and_leaves_nothing(ffhq, tiny, tmp_path, make, changes, message):
    config = dataclasses.replace(tiny, data=make(tmp_path), outdir=tmp_path / "runs", **changes)
    with pytest.raises((ValueError, OSError), match=message):
        ffhq.main(config)
    assert not (tmp_path / "runs").exists()


def test_corrupt_pictures_are_counted_and_skipped(ffhq, tiny, tmp_path, capsys):
    path = zip_of(tmp_path / "some.zip", a=png(), b=png()[:60], c=png(), d=png(), e=png())
    config = dataclasses.replace(tiny, data=path, cond=False, skip_corrupt=True, dry_run=True)
    ffhq.main(config)
    assert "skipped 1 pictures: b.png" in capsys.readouterr().out


def test_outdir_that_is_a_file_is_refused_before_training(ffhq, tiny, tmp_path):
    (tmp_path / "runs").write_text("here is no folder")
    with pytest.raises(NotADirectoryError, match="runs"):
        ffhq.main(dataclasses.replace(tiny, outdir=tmp_path / "runs"))
