"""A run on pictures, as a user runs it, on tiny settings: what it leaves, how it goes on, what bad input gets."""

import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import signal
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

import hamflow as hf
from hamflow import cli, training
from hamflow.data import open_images
from hamflow.runs import Options, Pictures, command_line, pictures, train


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Every run of the script makes its functions anew; most are the same programs: XLA compiles each once."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    jax.config.update(names[0], str(tmp_path_factory.mktemp("compiled")))
    jax.config.update(names[1], 0.1)
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


def run(recipe, **changes):
    """Train a recipe with other settings, and options of the command."""
    names = {field.name for field in dataclasses.fields(Options)}
    options = Options(**{name: value for name, value in changes.items() if name in names})
    return train(dataclasses.replace(recipe, **{k: v for k, v in changes.items() if k not in names}), options)


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


def command(*arguments):
    """The command line, as from a shell."""
    command_line(Pictures(), arguments=[*map(str, arguments)])


@pytest.fixture(scope="module")
def tiny(photographs):
    """Two steps of four pictures of 8x8."""
    return Pictures(
        data=photographs,
        resolution=8,
        cond=True,
        xflip=True,
        held_out=0.0,
        channels=4,
        multipliers=(1,),
        blocks=(1,),
        attention=(),
        batch=4,
        duration=8e-6,
        optimizer="adam",  # half the time to compile; the smoke run of `.ci/run` takes Muon
        lr_decay=False,
        num_samples=4,
        sampling_steps=2,
        save_every=4e-6,
    )


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A run folder after two steps."""
    outdir = tmp_path_factory.mktemp("runs")
    run(tiny, outdir=outdir)
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


def test_resume_goes_on_with_the_settings_of_the_run(finished):
    command("--resume", finished, "--duration", "1.6e-5")
    lines = [json.loads(line) for line in (finished / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_resume_with_another_setting_shows_the_difference(finished, more):
    with pytest.raises(SystemExit, match=r"(?s)channels: 4 in the run, 8 now.*seed: 0 in the run, 1 now.*new run"):
        command(f"--resume={finished}", "--channels", 8, "--seed", 1, *more)


def test_a_resumed_run_may_learn_at_another_rate_and_keeps_it(finished, capsys):
    steps = len((finished / "stats.jsonl").read_text().splitlines())
    duration = (steps + 1) * 4e-6
    command(f"--resume={finished}", "--lr", 0.005, "--lr-decay", "--duration", duration)
    out = capsys.readouterr().out
    assert "lr: 0.015 in the run, 0.005 now" in out
    assert "the learning rate follows the schedule of the new duration" in out
    config = json.loads((finished / "config.json").read_text())
    assert (config["lr"], config["lr_decay"], config["duration"], config["batch"]) == (0.005, True, duration, 4)
    assert json.loads((finished / f"config-until-{steps}.json").read_text())["lr"] == 0.015
    assert len((finished / "stats.jsonl").read_text().splitlines()) == steps + 1


def test_a_finished_run_draws_again(finished, capsys):
    """And says that it is longer than what is asked for, at no negative speed."""
    before = (finished / "config.json").read_bytes()
    with open(finished / "stats.jsonl", "a") as file:
        file.write('{"step": "three"}\n[]\n')
    command("--resume", finished, "--num-samples", 9, "--sampling-steps", 1, "--duration", 4e-6)
    out = capsys.readouterr().out
    assert "it has the 1 step asked for already: no training, only samples" in out
    assert "stats.jsonl: left out 2 lines that cannot be read" in out
    assert "images/s" not in out
    assert "9 samples of 1 evaluation each" in out
    with Image.open(finished / "samples.png") as samples:
        assert samples.size == (28, 28)  # three rows of 8, two gaps of 2
    assert (finished / "config.json").read_bytes() == before


def test_other_pictures_at_the_same_place_are_refused(tiny, finished, monkeypatch, tmp_path):
    data = tmp_path / "photos.zip"
    data.write_bytes(tiny.data.read_bytes())
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    saved = json.loads((finished / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**saved, "data": str(data)}))
    command("--resume", run, "--dry-run")  # the same pictures somewhere else
    labels = json.dumps({"labels": [[f"{name}.png", 0] for name in "abcd"]})
    with zipfile.ZipFile(data, "w") as archive:
        for i, name in enumerate("abcd"):
            archive.writestr(f"{name}.png", png(value=i))
        archive.writestr("dataset.json", labels)
    with pytest.raises(SystemExit, match=r"(?s)pictures\.number: 12 in the run, 4 now.*mended, add --changed-data"):
        command("--resume", run, "--dry-run")
    command("--resume", run, "--dry-run", "--changed-data")


def test_labels_are_dropped_with_cond(tiny, monkeypatch, tmp_path):
    def found(key, labels, rate, num_classes):
        raise RuntimeError(f"{labels.shape} {rate} {num_classes}")

    monkeypatch.setattr(pictures, "drop_labels", found)
    with pytest.raises(RuntimeError, match=r"\(1,\) 0\.2 3"):
        run(tiny, outdir=tmp_path, label_dropout=0.2)


def test_a_run_from_before_label_dropout_goes_on_without_it(finished, tmp_path, capsys):
    saved = json.loads((finished / "config.json").read_text())
    assert saved.pop("label_dropout") == 0.1
    assert [saved.pop(name) for name in ("keep", "keep_every", "on_nonfinite")] == [2, 0.0, "stop"]
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "config.json").write_text(json.dumps(saved))
    command("--resume", tmp_path, "--dry-run")
    out = capsys.readouterr().out
    assert '"label_dropout": 0.0' in out
    assert "in the run" not in out
    command("--resume", tmp_path, "--dry-run", "--keep", 3)
    assert "keep: (absent) in the run, 3 now" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"label_dropout: \(absent\) in the run, 0\.1 now"):
        command("--resume", tmp_path, "--dry-run", "--label-dropout", 0.1)


def test_a_run_folder_is_what_the_commands_take(finished, tmp_path):
    flags = ["--seeds", "3-4", "--class", "2", "--steps", "1", "--outdir", str(tmp_path)]
    assert cli.main(["sample", "--network", str(finished), *flags]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000003.png", "000004.png"]


def test_dry_run_leaves_nothing(tiny, tmp_path, capsys):
    run(tiny, outdir=tmp_path / "runs", dry_run=True)
    assert not (tmp_path / "runs").exists()
    assert '"batch": 4' in capsys.readouterr().out


def test_not_finite_stops_before_the_update(tiny, tmp_path):
    """A learning rate of 1e30 makes the weights overflow: step 1 or a later one has no finite loss."""
    huge = {"outdir": tmp_path, "lr": 1e30, "lr_rampup": 0.0, "duration": 40e-6}
    message = r"(?s)Step \d+: the loss is .*Indices of the batch: .*last good state is saved.*start a new run\.$"
    with pytest.raises(SystemExit, match=message) as stop:
        run(tiny, **huge)
    (folder,) = tmp_path.iterdir()
    assert f"--resume {folder} --lr 3.3e+29\n" in str(stop.value)
    assert not (folder / "samples.png").exists()
    (bundle,) = folder.glob("nonfinite-*")
    assert f"--resume {folder} --replay {bundle}\n" in str(stop.value)
    found = training.read_bundle(bundle)
    assert found["batch"]["image"].shape == (4, 3, 8, 8)
    assert found["batch"]["index"].tolist() == found["batch_indices"]
    losses = [json.loads(line)["loss"] for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert np.isfinite(losses).all()


def test_skipping_goes_on_until_ten_in_a_row(tiny, tmp_path, capsys):
    """The first step makes the weights overflow, so that no later one is finite."""
    huge = {"outdir": tmp_path, "lr": 1e30, "lr_rampup": 0.0, "duration": 80e-6, "on_nonfinite": "skip"}
    with pytest.raises(SystemExit, match="10 in a row now, 1 the first of them"):
        run(tiny, **huge)
    assert capsys.readouterr().out.count("The update was skipped") == 9


def test_a_folder_in_use_is_refused_and_not_touched(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name != ".lock"}
    with (
        training.lock_run(finished),
        pytest.raises(SystemExit, match=rf"RunInUse: .*is in use by process {os.getpid()} on "),
    ):
        command("--resume", finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name != ".lock"} == before


def test_other_settings_with_override_are_recorded_or_end_clearly(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    steps = len((run / "stats.jsonl").read_text().splitlines())
    command("--resume", run, "--seed", 7, "--override", "--duration", (steps + 1) * 4e-6, "--num-samples", 1)
    out = capsys.readouterr().out
    assert "seed: 0 in the run, 7 now" in out
    assert "the order of the pictures changes from here on" in out
    assert json.loads((run / "config.json").read_text())["seed"] == 7
    assert json.loads((run / f"config-until-{steps}.json").read_text())["seed"] == 0
    before = (run / "config.json").read_bytes()
    with pytest.raises(SystemExit, match="was trained in batches of 4, and this run has batches of 2"):
        command("--resume", run, "--batch", 2, "--override")
    with pytest.raises(SystemExit, match="is of another model or optimiser"):
        command("--resume", run, "--channels", 8, "--override")
    assert (run / "config.json").read_bytes() == before


def test_replay_says_where_it_began(finished, tmp_path, capsys):
    """A picture is a uint8, so the number that went wrong lies in a parameter."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    model = hf.load(run / "model.safetensors")
    model = jax.tree.map(lambda leaf: leaf * np.nan if hasattr(leaf, "ndim") and leaf.ndim == 4 else leaf, model)
    batch = {"image": np.zeros((4, 3, 8, 8), np.uint8), "index": np.arange(4), "label": np.zeros(4, np.int32)}
    error = training.NonFiniteLoss(7, {"step": 7, "loss": np.nan, "grad_norm": np.nan}, batch["index"], batch)
    bundle = training.save_bundle(run, error, model, jax.random.key(0))
    command("--resume", run, "--replay", bundle)
    assert "The loss is not finite. It was so before the first operation: " in capsys.readouterr().out


def signalled_with(number):
    """A feed during whose first batch the process gets a signal."""
    real = training.feed  # as long as it is not replaced by this one

    def feed(*arguments, **options):
        for pair in real(*arguments, **options):
            os.kill(os.getpid(), number)
            yield pair

    return feed


def test_sigterm_ends_with_143_and_loses_no_step(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(training, "feed", signalled_with(signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        run(tiny, outdir=tmp_path)
    assert stop.value.code == 143
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["1"]
    position = json.loads((folder / "checkpoints" / "1" / "position" / "metadata").read_text())
    assert position["data"] == {"seed": 0, "epoch": 0, "step": 1, "batch_size": 4, "num_examples": 12}


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
def test_bad_data_is_named_and_leaves_nothing(tiny, tmp_path, make, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(tiny, data=make(tmp_path), outdir=tmp_path / "runs", **changes)
    assert not (tmp_path / "runs").exists()


def test_corrupt_pictures_are_counted_and_skipped(tiny, tmp_path, capsys):
    path = zip_of(tmp_path / "some.zip", a=png(), b=png()[:60], c=png(), d=png(), e=png())
    run(tiny, data=path, cond=False, skip_corrupt=True, dry_run=True)
    assert "skipped 1 picture: b.png\n" in capsys.readouterr().out


def test_outdir_that_is_a_file_is_refused_before_training(tiny, tmp_path):
    (tmp_path / "runs").write_text("here is no folder")
    with pytest.raises(NotADirectoryError, match="runs"):
        run(tiny, outdir=tmp_path / "runs")


def test_a_picture_that_turns_out_damaged_ends_with_what_was_learned_and_the_run_goes_on(tiny, tmp_path, capsys):
    """It is the last of the first epoch, so neither the header's check nor the first 1024 pictures show it."""
    num_images, batch = 1100, 550
    data = tmp_path / "data"
    data.mkdir()
    last = hf.data.epoch_order(0, 0, num_images)[-1]
    for i in range(num_images):
        whole = png(8, value=i % 256)
        (data / f"{i:04}.png").write_bytes(whole[: len(whole) // 2] if i == last else whole)
    changes = {"cond": False, "batch": batch, "duration": 3 * batch * 1e-6, "save_every": 1.0}
    with pytest.raises(SystemExit) as stop:
        run(tiny, data=data, outdir=tmp_path / "runs", **changes)
    (folder,) = (tmp_path / "runs").iterdir()
    message = str(stop.value)
    assert message.startswith(f"{last:04}.png in {data} is cut short or damaged")
    assert "pass --skip-corrupt to leave" in message
    assert "The training is saved after 1 step." in message
    assert f"--resume {folder} --skip-corrupt\n" in message
    with pytest.raises(SystemExit, match="saved after 1 step"):  # nothing else was lost, nothing is hidden
        command("--resume", folder)
    capsys.readouterr()
    command("--resume", folder, "--skip-corrupt")
    out = capsys.readouterr().out
    assert f"skipped 1 picture: {last:04}.png\n" in out
    assert "skip_corrupt: false in the run, true now" in out
    assert "pictures.number: 1100 in the run, 1099 now" in out
    assert "the order of the pictures changes from here on" in out
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [550, 1100, 1650]
    assert (folder / "samples.png").exists()
    before, after = (json.loads((folder / name).read_text()) for name in ("config-until-1.json", "config.json"))
    assert before["data_std"] == after["data_std"]  # one flow from the first step to the last
    command("--resume", folder, "--dry-run")  # the settings of the run, these pictures among them, are the new ones


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--num-samples", 0),
        ("--sampling-steps", 0),
        ("--save-every", 0),
        ("--batch", 0),
        ("--resolution", 0),
        ("--duration", "inf"),
        ("--lr", -1),
        ("--lr", "nan"),
        ("--lr-rampup", -1),
        ("--ema", -1),
        ("--momentum", 1),
        ("--beta2", 1.5),
        ("--dropout", 1),
        ("--label-dropout", 1),
        ("--seed", -1),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_first(tmp_path, flag, value):
    with pytest.raises(SystemExit, match=rf"^ValueError: {flag} is .*: it must be in "):
        command(flag, value, "--data", tmp_path / "nowhere", "--outdir", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", 13], r"--batch is 13, but photos has 11 pictures"),
        (["--channels", 3], r"--channels must be even"),
        (
            ["--multipliers", *[1] * 5, "--blocks", *[1] * 5],
            r"--resolution 8 is not divisible by 16 = --patch \* .*fewer --multipliers",
        ),
        (["--blocks", 1, 1], "--blocks must be one number"),
        (["--attention", 5], r"--attention \[5\] are never reached"),
        (["--outdir", "/proc/x"], r"--outdir /proc/x cannot be written"),
        (["--outdir", "/dev/null"], r"--outdir /dev/null is not a folder"),
        (["--outdir", "x" * 300], r"--outdir x+ cannot be written \(File name too long\)"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_dry_run_refuses_what_the_run_refuses_in_flags(photographs, tmp_path, arguments, message, more):
    small = ["--resolution", 8, "--channels", 4, "--multipliers", 1, "--blocks", 1, "--batch", 4, "--outdir", tmp_path]
    with pytest.raises(SystemExit, match=message):
        command("--data", photographs, *small, *arguments, *more)
    assert os.listdir(tmp_path) == []


def test_messages_speak_of_flags():
    for said, wanted in {
        "Pass resolution=, for instance 6, to cut": "Pass --resolution, for instance 6, to cut",
        "try resolution=64, or": "try --resolution 64, or",
        "no labels. Pass labels=False, or": "no labels. Leave out --cond, or",
        "/home/batch_size/resolution=8/outdir x": "/home/batch_size/resolution=8/outdir x",
        "A batch of 12 cannot be split": "--batch 12 cannot be split",
    }.items():
        assert training.in_flags(said, Pictures.FLAGS) == wanted


def test_ctrl_c_while_it_reads(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures.data, "open_images", interrupted)
    with pytest.raises(SystemExit) as stop:
        command()
    assert stop.value.code == 130
    assert "Stopped before the training began" in capsys.readouterr().err


def test_pictures_are_held_out_and_what_is_known_by_heart_is_shown(tiny, tmp_path, capsys):
    often = {"snapshot_every": 4e-6, "validate_every": 4e-6}
    folder = run(tiny, held_out=0.25, outdir=tmp_path, tensorboard=True, ema_width=(0.1,), profile="1:2", **often)
    out = capsys.readouterr().out
    assert "9 pictures and 3 held out in 3 classes" in out
    assert re.search(r"a step: compiled in [\d.]+ s; a step: [\d.]+ MFLOP|a step: compiled in .* GFLOP", out)
    assert re.search(r"distance to the nearest training picture over that of held-out pictures: median [\d.]+", out)
    assert "profile: a trace of 1 step" in out
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out_loss" in line] == [0, 1]
    assert 0.1 < lines[-1]["held_out_loss"] < 10  # of a unit target, hardly trained
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == ["00000001.png", "00000002.png"]
    assert (folder / "neighbours.png").exists()
    assert any((folder / "tensorboard").iterdir())
    assert json.loads((folder / "config.json").read_text())["pictures"]["number"] == 12


def test_ctrl_c_in_the_training_and_in_the_sampling(tiny, monkeypatch, tmp_path, capsys):
    outdir = tmp_path / "my runs"
    monkeypatch.setattr(training, "feed", signalled_with(signal.SIGINT))
    with pytest.raises(SystemExit) as stop:
        run(tiny, outdir=outdir)
    (folder,) = outdir.iterdir()
    err = capsys.readouterr().err
    assert stop.value.code == 130
    assert "The training is saved after 1 step. To go on:" in err
    assert shlex.split(err.splitlines()[-1])[-2:] == ["--resume", str(folder)]
    monkeypatch.undo()

    def generate(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "generate", generate)
    with pytest.raises(SystemExit) as stop:
        command("--resume", folder)
    assert stop.value.code == 130
    err = capsys.readouterr().err
    assert "The training is saved after 2 steps. For its samples:" in err
    assert shlex.split(err.splitlines()[-1])[-2:] == ["--resume", str(folder)]


def test_what_cannot_be_compared_does_not_end_a_run(tiny, monkeypatch, tmp_path, capsys):
    """Samples that are NaN: the run has ended, and its files are there."""
    monkeypatch.setattr(pictures, "generate", lambda *_, **__: np.full((4, 3, 8, 8), np.nan, np.float32))
    monkeypatch.setattr(pictures.data, "image_grid", lambda samples: np.zeros((8, 8, 3), np.uint8))
    folder = run(tiny, outdir=tmp_path)
    assert "no nearest neighbours: pictures holds NaN" in capsys.readouterr().out
    assert (folder / "model.safetensors").exists()
    assert (folder / "loss.png").exists()


def test_few_pictures_are_all_trained_on(tiny, tmp_path, capsys):
    """A twentieth of seven is none: nothing is held out, and nothing refused."""
    source = open_images(tiny.data, 8)
    np.save(tmp_path / "seven.npy", np.stack([source.read(i) for i in range(7)]))
    run(tiny, data=tmp_path / "seven.npy", cond=False, held_out=0.05, dry_run=True, outdir=tmp_path)
    assert capsys.readouterr().out.startswith("7 pictures from ")
