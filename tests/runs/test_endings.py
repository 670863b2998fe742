"""Runs that do not get to their end by something else than a signal: no step is lost, and what is said can be done."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

import hamflow as hf
from hamflow import training
from hamflow.runs import Options, Points, command_line, export, points, train

TINY = Points(num_points=100, width=8, depth=1, batch=8, duration=80e-6, steps_together=1, num_samples=20)
TINY = dataclasses.replace(TINY, save_every=1.0, held_out=0.0, sampling_steps=1, lr=0.01, lr_rampup=0.0, lr_decay=False)


def steps_of(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


def only(folder):
    (found,) = folder.iterdir()
    return found


def broken(*_, **__):
    raise RuntimeError("no picture today")


def test_an_error_in_something_else_costs_no_step(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(points.PointsTask, "draw", broken)
    recipe = dataclasses.replace(TINY, snapshot_every=32e-6)
    with pytest.raises(RuntimeError, match="no picture today"):
        train(recipe, Options(outdir=tmp_path))
    assert steps_of(only(tmp_path)) == [4]
    err = capsys.readouterr().err
    assert "The training is saved after 4 steps. To go on:\n" in err
    assert f"--resume {only(tmp_path)}" in err
    monkeypatch.undo()
    train(recipe, Options(resume=only(tmp_path)))
    assert (only(tmp_path) / "snapshots" / "00000008.png").exists()


def test_a_reader_that_goes_away_costs_no_step(tmp_path, monkeypatch):
    """As in `hamflow train moons | head -4`: rich leaves with status 1 when nobody reads its lines."""

    def update(*_):
        raise SystemExit(1)

    monkeypatch.setattr(training.Progress, "update", update)
    with pytest.raises(SystemExit) as stop:
        train(TINY, Options(outdir=tmp_path))
    assert stop.value.code == 1
    assert steps_of(only(tmp_path)) == [3]  # the first number is read when the third step was started


def test_a_signal_in_the_last_save_is_heard(tmp_path, monkeypatch, capsys):
    real = training.Checkpoints.save

    def save(self, state, *arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(self, state, *arguments, **options)

    monkeypatch.setattr(training.Checkpoints, "save", save)
    with pytest.raises(SystemExit) as stop:
        train(TINY, Options(outdir=tmp_path))
    assert stop.value.code == 143
    assert steps_of(only(tmp_path)) == [10]
    assert not (only(tmp_path) / "samples.png").exists()
    assert "The training is saved after 10 steps. To go on:" in capsys.readouterr().err


@pytest.mark.parametrize("together", [1, 7])
def test_after_too_many_skipped_steps_the_same_batches_come_again(tmp_path, together):
    """The first step makes the weights overflow; steps 1 to 10 are skipped, and a run that goes on begins with 1."""
    recipe = dataclasses.replace(TINY, lr=1e30, on_nonfinite="skip", duration=160e-6, steps_together=together)
    with pytest.raises(SystemExit, match=r"10 in a row now, 1 the first of them") as stop:
        train(recipe, Options(outdir=tmp_path))
    assert "move " not in str(stop.value)  # there is no older checkpoint
    assert steps_of(only(tmp_path)) == [1]
    stored = training.read_arrays(only(tmp_path) / "checkpoints", ".")
    assert (stored[".step"], stored[".images"]) == (1, 8)
    with pytest.raises(SystemExit, match=r"10 in a row now, 1 the first of them"):  # no training that has ended
        train(dataclasses.replace(recipe, lr=1e-3), Options(resume=only(tmp_path)))


def test_an_older_checkpoint_is_advised_where_there_is_one(tmp_path):
    folder = train(TINY, Options(outdir=tmp_path))
    huge = dataclasses.replace(TINY, lr=1e30, duration=160e-6)
    with pytest.raises(SystemExit, match=r"start a new run, or move .*/checkpoints/11 away to go on from an older"):
        train(huge, Options(resume=folder))
    assert steps_of(folder) == [10, 11]


def test_an_export_is_of_the_flow_that_the_run_has_now(tmp_path):
    folder = train(TINY, Options(outdir=tmp_path / "runs"))
    before = (folder / "initial.safetensors").read_bytes()
    longer = dataclasses.replace(TINY, flow="diffusion", duration=96e-6)
    train(longer, Options(resume=folder, override=True))
    model = hf.load(export(folder, tmp_path / "now.safetensors"))
    ended = hf.load(folder / "model.safetensors")
    std = json.loads((folder / "config.json").read_text())["data_std"]
    assert float(model.flow.horizon) == float(ended.flow.horizon) == 160.0 * std  # EDM's 80 for one half
    for ours, theirs in zip(jax.tree.leaves(model.network), jax.tree.leaves(ended.network), strict=True):
        assert np.array_equal(ours, theirs)
    assert (folder / "initial-until-10.safetensors").read_bytes() == before


def test_settings_that_made_no_step_are_not_kept_for_those_that_did(tmp_path):
    folder = train(TINY, Options(outdir=tmp_path))
    for lr in (1e-4, 5e-5):
        training.update_config(folder, {**json.loads((folder / "config.json").read_text()), "lr": lr}, 10)
    assert json.loads((folder / "config-until-10.json").read_text())["lr"] == 0.01
    assert json.loads((folder / "config.json").read_text())["lr"] == 5e-5


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(TINY, Options(outdir=tmp_path_factory.mktemp("runs")))


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"keep_best": 1, "held_out": 1e-9}, {}, "--keep-best is of the held-out loss, and none of the 100 points"),
        ({"ema_width": (0.1, 0.1)}, {}, "--ema-width 0.1 0.1: one of them twice"),
        ({}, {"profile": "5:2"}, "--profile is '5:2'"),
        ({}, {"wandb": "mine"}, "--wandb needs wandb: pip install wandb"),
        ({}, {"replay": "elsewhere/nonfinite-1", "resume": True}, "elsewhere/nonfinite-1 is no bundle of --resume "),
        ({"ema_width": (0.05, 0.1)}, {"resume": True}, "keeps 1 average, and cannot keep 2 from here on: give as many"),
        (
            {"num_points": 99},
            {"resume": True},
            r"(?s)num_points: 100 in the run, 99 now.*moved or mended, add --changed",
        ),
        ({"seed": 2**32}, {}, r"--seed is 4294967296: it must be in \[0, "),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_made(finished, tmp_path, changes, options, message):
    options = {name: finished if name == "resume" else value for name, value in options.items()}
    if "replay" in options:
        options["replay"] = tmp_path / options["replay"]
    before = sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*"))
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(TINY, **changes), Options(outdir=tmp_path / "runs", **options))
    assert not (tmp_path / "runs").exists()
    assert sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*")) == before


def test_a_dry_run_looks_for_the_checkpoint(finished, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_bytes((finished / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in"):
        train(TINY, Options(resume=run, dry_run=True))


@pytest.mark.parametrize(("name", "value"), [("batch", "20"), ("batch", None), ("points", 3), ("data_std", "x")])
def test_a_config_that_makes_no_sense_is_named(tmp_path, finished, name, value):
    saved = json.loads((finished / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, name: value}))
    with pytest.raises(SystemExit, match=rf"ValueError: .*/config\.json is damaged: {name} is {value!r}"):
        command_line(Points(), arguments=["--resume", str(tmp_path)])


def test_held_out_examples_that_become_others_are_announced(finished, tmp_path, capsys):
    recipe = dataclasses.replace(TINY, held_out=0.2)
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in"):
        train(recipe, Options(resume=tmp_path, override=True, dry_run=True))
    out = capsys.readouterr().out
    assert "other points are held out from here on, some of which it was trained on before" in out
    assert "the order of the points changes from here on" in out
