"""The weights of a run as a file: of a run that was cut off, of any step, and what is refused."""

import dataclasses
import os
import re
import shutil
import signal

import equinox as eqx
import jax
import numpy as np
import pytest

import hamflow as hf
from hamflow import cli, training
from hamflow.runs import Options, Points, export, train
from hamflow.runs.optimiser import make_optimizer

TINY = Points(num_points=100, width=8, depth=1, batch=8, duration=80e-6, steps_together=1, num_samples=20)
TINY = dataclasses.replace(TINY, save_every=16e-6, keep=9, held_out=0.0, sampling_steps=1, lr=0.01, lr_rampup=0.0)


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """A run that was told to stop in its fifth step."""
    outdir, real = tmp_path_factory.mktemp("runs"), training.feed

    def feed(*arguments, **options):
        for number, pair in enumerate(real(*arguments, **options)):
            if number == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            yield pair

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "feed", feed)
        with pytest.raises(SystemExit) as stop:
            train(TINY, Options(outdir=outdir))
    assert stop.value.code == 143
    (folder,) = outdir.iterdir()
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir()) == [2, 4, 5]
    assert not (folder / "model.safetensors").exists()
    return folder


def arrays_of(model):
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def test_the_average_of_a_run_that_was_cut_off_is_what_the_commands_take(cut_off, tmp_path, capsys):
    assert cli.main(["export", str(cut_off), str(tmp_path / "now.safetensors")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'now.safetensors'}\n"
    model = hf.load(tmp_path / "now.safetensors")
    # What orbax reads back by itself, in a state of the same structure.
    state = training.init_state(model, make_optimizer(TINY), trainable=model.trainable())
    with training.Checkpoints(cut_off / "checkpoints", keep=9) as checkpoints:
        state, _, _ = checkpoints.restore(state, jax.random.key(0))
    expected, found = arrays_of(state.ema), arrays_of(model)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert np.array_equal(array, found[name]), name
    assert not np.array_equal(arrays_of(state.model)[".network.layer_in.weight"], found[".network.layer_in.weight"])
    flags = ["--shape", "2", "--seeds", "0-3", "--steps", "2", "--outdir", str(tmp_path / "out")]
    assert cli.main(["sample", "--network", str(tmp_path / "now.safetensors"), *flags]) == 0


def test_any_step_and_what_is_trained(cut_off, tmp_path):
    steps = {step: export(cut_off, tmp_path / f"{step}.safetensors", step=step, weights="model") for step in (2, 4)}
    weights = [arrays_of(hf.load(path))[".network.layer_in.weight"] for path in steps.values()]
    assert np.abs(weights[0] - weights[1]).max() > 1e-4  # two steps of Adam at .01
    assert np.abs(weights[0] - weights[1]).max() < 0.05
    stored = training.read_arrays(cut_off / "checkpoints", ".model", step=2)
    assert np.array_equal(stored[".model.network.layer_in.weight"], weights[0])


def test_the_folder_itself_by_default_and_not_twice(cut_off, tmp_path):
    try:
        assert export(cut_off) == cut_off / "model.safetensors"
        with pytest.raises(FileExistsError, match=r"model\.safetensors is there already: replace it with --force"):
            export(cut_off)
        assert export(cut_off, replace=True, step=2) == cut_off / "model.safetensors"
    finally:
        (cut_off / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not the folder of a run"),
        (["{run}", "x.safetensors", "--step", "3"], r"no checkpoint of step 3 in .*: those there are of \[2, 4, 5\]"),
        (["{run}", "x.npz"], r"x\.npz must be called \.safetensors"),
        (["{run}", "x.safetensors", "--ema-width", "0.1"], "--ema-width 0.1: .* has no averages to make it from"),
        (["{run}", "x.safetensors", "--ema-width", "0.1", "--step", "2"], "leave out --step and --weights"),
    ],
)
def test_what_is_refused(cut_off, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", *(argument.format(run=cut_off) for argument in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert os.listdir(tmp_path) == []


def test_a_damaged_checkpoint_is_named_and_nothing_written(cut_off, tmp_path):
    shutil.copytree(cut_off, tmp_path / "run")
    arrays = max((tmp_path / "run" / "checkpoints" / "5").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(training.CorruptCheckpoint, match=r"checkpoints/5 is damaged: .*Step 4 is good"):
        export(tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_folder_in_use_is_read_all_the_same(cut_off, tmp_path):
    """And what another process is writing there is left alone."""
    half = cut_off / "checkpoints" / "6.orbax-checkpoint-tmp"
    half.mkdir()
    with training.lock_run(cut_off):
        export(cut_off, tmp_path / "now.safetensors")
    assert half.is_dir()
    half.rmdir()
