"""The pieces put together as a script does (`training_loop.py`): training, resuming, stopping, many devices."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from training_loop import Knobs, train
from training_problem import batch_of

from hamflow.training import NonFiniteLoss, read_stats

HERE = pathlib.Path(__file__).parent


def logged(run):
    """What was written down, but for the time it took."""
    return [
        {name: value for name, value in line.items() if name != "seconds"} for line in read_stats(f"{run}/stats.jsonl")
    ]


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if isinstance(left, jax.Array):
            assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Twenty steps without a break."""
    return train(Knobs(str(tmp_path_factory.mktemp("straight"))))


def test_it_trains_and_writes_everything_down(straight):
    run, state = straight
    lines = logged(run)
    assert [line["step"] for line in lines] == list(range(20))
    assert [line["images"] for line in lines] == list(range(16, 321, 16))
    assert lines[-1]["loss"] < 0.2 * lines[0]["loss"]
    assert sorted(os.listdir(run)) == ["checkpoints", "config.json", "stats.jsonl"]
    assert json.loads(pathlib.Path(run, "config.json").read_text())["lr"] == 0.05
    assert pathlib.Path(run).name == "00000-line-batch16-seed0"
    assert state.model.constant == state.ema.constant == 2.0


@pytest.mark.parametrize("first_part", [7, 10])
def test_a_resumed_run_is_the_same_bit_for_bit(straight, tmp_path, first_part):
    run, _ = train(Knobs(str(tmp_path), duration=first_part))
    run, state = train(Knobs(str(tmp_path), resume=run))
    assert_same_bits(state, straight[1])
    assert logged(run) == logged(straight[0])


def test_ctrl_c_saves_and_the_run_goes_on(straight, tmp_path, capfd):
    def after_step(n):
        if n == 7:
            os.kill(os.getpid(), signal.SIGINT)

    run, state = train(Knobs(str(tmp_path)), after_step=after_step)
    assert int(state.step) == 8
    out, err = capfd.readouterr()
    assert "SIGINT: finishing this step" in err
    assert f"Saved after 8 steps. To go on: --resume {run}" in out
    assert [line["step"] for line in logged(run)] == list(range(8))
    run, state = train(Knobs(str(tmp_path), resume=run))
    assert_same_bits(state, straight[1])
    assert logged(run) == logged(straight[0])


def test_a_run_that_was_cut_off_repeats_nothing_in_its_log(straight, tmp_path):
    class Cut(BaseException):
        pass

    def after_step(n):
        if n == 13:
            raise Cut

    with pytest.raises(Cut):
        train(Knobs(str(tmp_path)), after_step=after_step)
    run = str(next(tmp_path.iterdir()))
    assert len(logged(run)) > 10  # further than the checkpoint of step 10
    run, state = train(Knobs(str(tmp_path), resume=run))
    assert_same_bits(state, straight[1])
    assert logged(run) == logged(straight[0])


def test_a_loss_that_is_not_finite_stops_before_the_update(straight, tmp_path):
    def poisoned(seed, step, batch_size):
        batch = batch_of(seed, step, batch_size)
        if step == 12:
            batch["x"] = np.where(np.arange(16)[:, None] == 3, np.float32(np.nan), batch["x"])
        return batch

    with pytest.raises(NonFiniteLoss, match="Step 12: the loss is nan") as error:
        train(Knobs(str(tmp_path)), batch_of=poisoned)
    assert error.value.step == 12
    np.testing.assert_array_equal(error.value.batch_indices, batch_of(0, 12)["index"])
    run = str(next(tmp_path.iterdir()))
    assert [line["step"] for line in logged(run)] == list(range(12))
    assert sorted(os.listdir(f"{run}/checkpoints")) == ["10", "12"]
    # The last good state was kept: with the good batch in its place the run ends as if nothing had happened.
    run, state = train(Knobs(str(tmp_path), resume=run))
    assert_same_bits(state, straight[1])
    assert logged(run) == logged(straight[0])


def test_a_changed_setting_is_refused_before_anything_is_touched(straight):
    run, _ = straight
    before = {path: path.stat().st_mtime_ns for path in pathlib.Path(run).rglob("*")}
    with pytest.raises(ValueError, match=r"lr: 0\.05 in the run, 0\.1 now"):
        train(Knobs("elsewhere", lr=0.1, resume=run))
    assert {path: path.stat().st_mtime_ns for path in pathlib.Path(run).rglob("*")} == before


SCRIPT = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
from training_loop import Knobs, train

outdir, half = sys.argv[1:]
assert len(jax.devices()) == 8
train(Knobs(outdir, resume=half), devices=jax.devices()[:1])      # a new process goes on with the run of another
eight, state = train(Knobs(outdir, duration=10))                  # 00001: ten steps on eight devices
assert len(state.model.weight.sharding.device_set) == 8
assert state.model.weight.sharding.is_fully_replicated
train(Knobs(outdir, resume=eight), devices=jax.devices()[:2])     # and ten more on two
train(Knobs(outdir))                                              # 00002: all on eight
try:
    train(Knobs(outdir, batch=12))
except ValueError as error:
    print(error)
"""


def test_a_new_process_and_eight_devices(straight, tmp_path):
    half, _ = train(Knobs(str(tmp_path), duration=10))
    path = os.pathsep.join([str(HERE), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path), half],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "A batch of 12 cannot be split over 8 devices: make it a multiple of 8, for example 16." in ended.stdout
    assert ended.stderr == ""
    assert logged(half) == logged(straight[0])
    expected = [line["loss"] for line in logged(straight[0])]
    for run in ("00001-line-batch16-seed0", "00002-line-batch16-seed0"):
        losses = [line["loss"] for line in logged(tmp_path / run)]
        np.testing.assert_allclose(losses, expected, rtol=2e-5)
