"""Runs on points: several steps a dispatch, several averages, the best checkpoints, other weights to start from."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import hamflow as hf
from hamflow import training
from hamflow.runs import Options, Points, export, train

SIZE = 8  # examples a step


@pytest.fixture(scope="module")
def tiny():
    """Six steps of eight points, four and two of them in a dispatch."""
    return Points(
        num_points=100,
        width=8,
        depth=1,
        batch=SIZE,
        duration=6 * SIZE * 1e-6,
        steps_together=4,
        validate_every=2 * SIZE * 1e-6,
        save_every=4 * SIZE * 1e-6,
        num_samples=40,
        sampling_steps=2,
        lr=0.01,
        lr_rampup=0.0,
        lr_decay=False,
    )


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """With two averages, which are kept every two steps, and the best checkpoint."""
    widths = {"ema_width": (0.05, 0.1), "averages_every": 2 * SIZE * 1e-6}
    recipe = dataclasses.replace(tiny, **widths, keep=1, keep_best=1)
    return train(recipe, Options(outdir=tmp_path_factory.mktemp("runs")))


def lines_of(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def arrays_of(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(arrays_of(first), arrays_of(second), strict=True))


def test_leaves_a_whole_run_folder(finished):
    assert finished.name == "00000-two-moons-oscillation-batch8-seed0"
    steps = [line["step"] for line in lines_of(finished) if "loss" in line]
    assert steps == [0, 1, 2, 3, 4, 5]
    measured = {line["step"]: line["held_out_loss"] for line in lines_of(finished) if "held_out_loss" in line}
    assert sorted(measured) == [1, 3, 5]
    assert all(0.1 < loss < 10 for loss in measured.values())
    with Image.open(finished / "samples.png") as samples:
        assert min(samples.size) > 200
    model = hf.load(finished / "model.safetensors")
    assert model(0.3, jnp.zeros(2)).shape == (2,)


def test_the_best_checkpoint_is_kept_beside_the_latest(finished):
    measured = {line["step"] + 1: line["held_out_loss"] for line in lines_of(finished) if "held_out_loss" in line}
    best = min((4, 6), key=measured.__getitem__)
    kept = sorted(int(path.name) for path in (finished / "checkpoints").iterdir() if path.name.isdecimal())
    assert kept == sorted({best, 6})
    for step in kept:
        position = json.loads((finished / "checkpoints" / str(step) / "position" / "metadata").read_text())
        assert position["metrics"]["held_out_loss"] == pytest.approx(measured[step], rel=1e-6)


def test_one_step_a_dispatch_gives_the_same(tiny, finished, tmp_path):
    """Up to what XLA fuses otherwise in a loop."""
    folder = train(dataclasses.replace(tiny, steps_together=1, ema_width=(0.05,)), Options(outdir=tmp_path))
    losses = [[line["loss"] for line in lines_of(run) if "loss" in line] for run in (finished, folder)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    pairs = zip(*(arrays_of(hf.load(run / "model.safetensors")) for run in (finished, folder)), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_stopped_at_a_checkpoint_and_resumed_is_the_same_bit_for_bit(tiny, tmp_path):
    """The first stack of the second part is that of the whole run, so the programs are the same."""
    whole = train(tiny, Options(outdir=tmp_path / "whole"))
    half = dataclasses.replace(tiny, duration=4 * SIZE * 1e-6)
    folder = train(half, Options(outdir=tmp_path / "half"))
    train(tiny, Options(resume=folder))
    states = [training.read_arrays(run / "checkpoints") for run in (whole, folder)]
    assert states[0].keys() == states[1].keys()
    assert len(states[0]) > 20
    for name, array in states[0].items():
        assert np.array_equal(array, states[1][name]), name
    losses = [[line["loss"] for line in lines_of(run) if "loss" in line] for run in (whole, folder)]
    assert losses[0] == losses[1]


def test_averages_are_kept_and_those_of_other_widths_made(finished, tmp_path):
    names = sorted(path.name for path in (finished / "averages").iterdir())
    assert names == [f"{number:012}-{width}.safetensors" for number in (16, 32, 48) for width in ("0.05", "0.1")]
    last = hf.load(finished / "averages" / "000000000048-0.05.safetensors")
    assert same(last, hf.load(finished / "model.safetensors"))
    # That of a width that was kept is the one that was kept.
    again = hf.load(export(finished, tmp_path / "again.safetensors", ema_width=0.1))
    for ours, kept in zip(
        arrays_of(again), arrays_of(hf.load(finished / "averages" / "000000000048-0.1.safetensors")), strict=True
    ):
        np.testing.assert_allclose(ours, kept, rtol=1e-5, atol=1e-7)


def test_a_training_begins_with_other_weights(tiny, finished, tmp_path):
    folder = train(dataclasses.replace(tiny, start=finished, seed=5), Options(outdir=tmp_path))
    assert same(hf.load(folder / "initial.safetensors"), hf.load(finished / "model.safetensors"))
    assert json.loads((folder / "config.json").read_text())["start"] == str(finished)
    with pytest.raises(ValueError, match=r"--start .* is of another network: \.network\..*settings of that run"):
        train(dataclasses.replace(tiny, start=finished, width=16), Options(outdir=tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors: the run has not ended. `hamflow export "):
        train(dataclasses.replace(tiny, start=tmp_path), Options(outdir=tmp_path))


@pytest.mark.parametrize("event", [(), (2,), (2, 3)])
def test_points_of_ones_own(tiny, tmp_path, event):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "mine.npy", rng.normal(2.0, 3.0, size=(60, *event)))
    folder = train(dataclasses.replace(tiny, data=tmp_path / "mine.npy"), Options(outdir=tmp_path / "runs"))
    assert folder.name == "00000-mine-oscillation-batch8-seed0"
    config = json.loads((folder / "config.json").read_text())
    assert config["points"]["number"] == 60
    assert config["data_mean"] == pytest.approx(2.0, abs=0.7)  # 54 points or more: five standard errors are 2.0
    assert config["data_std"] == pytest.approx(3.0, abs=1.5)
    assert hf.load(folder / "model.safetensors")(0.3, jnp.zeros(event)).shape == event
    assert (folder / "samples.png").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 91}, "--batch is 91, and there are 90 points"),
        ({"keep_best": 1, "held_out": 0.0}, "--keep-best is of the held-out loss, and --held-out is 0"),
        ({"averages_every": 0.1}, "--averages-every is of averages by --ema-width"),
        ({"ema_width": (0.5,)}, "relative_width is 0.5"),
        ({"width": 0}, r"--width is 0: it must be in"),
        ({"steps_together": 0}, r"--steps-together is 0: it must be in"),
    ],
)
def test_settings_that_do_not_fit_are_named(tiny, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(tiny, **changes), Options(outdir=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.array([[0.0, np.nan]] * 20), "holds numbers that are not finite"),
        (np.ones((20, 2)), "holds one point only"),
        (np.array(["a", "b"]), "give numbers of shape"),
    ],
)
def test_bad_points_are_named_and_leave_nothing(tiny, tmp_path, points, message):
    np.save(tmp_path / "bad.npy", points)
    with pytest.raises(ValueError, match=rf"bad\.npy.*{message}"):
        train(dataclasses.replace(tiny, data=tmp_path / "bad.npy"), Options(outdir=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_other_points_at_the_same_place_are_refused(tiny, finished):
    recipe = dataclasses.replace(tiny, ema_width=(0.05, 0.1), averages_every=2 * SIZE * 1e-6, keep=1, keep_best=1)
    with pytest.raises(ValueError, match=r"(?s)data_seed: 0 in the run, 1 now.*points\.fingerprint.*--changed-data"):
        train(dataclasses.replace(recipe, data_seed=1), Options(resume=finished))
