"""The place in the data is the same for any number of devices and processes: no example is lost, none seen twice."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from hamflow.data import ArrayImages, batches
from hamflow.training import DataPosition

HERE = pathlib.Path(__file__).parent
POSITION = DataPosition(seed=5, step=7, batch_size=8, num_examples=20)


def test_it_is_written_as_plain_numbers():
    # 7 batches of 8 are 56 of 20: two whole epochs and 16.
    assert POSITION.to_json() == {"data": {"seed": 5, "epoch": 2, "step": 7, "batch_size": 8, "num_examples": 20}}
    assert DataPosition(0, 5, 8, 20).epoch == 2
    assert DataPosition(0, 0, 8, 20).epoch == 0


def test_what_was_saved_there_passes_and_so_does_what_says_nothing():
    saved = json.loads(json.dumps({"format": 1, **POSITION.to_json()}))
    assert POSITION.check(saved) is None
    assert POSITION.check({"format": 1, "step": 7}) is None
    saved["data"]["seed"] = 6
    with pytest.raises(ValueError, match="has the seed 6"):
        POSITION.check(saved)
    assert POSITION.check(saved, allow={"seed"}) is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            DataPosition(5, 7, 16, 20),
            r"step 7 was trained in batches of 16, and this run has batches of 8: a step would",
        ),
        (DataPosition(6, 7, 8, 20), "has the seed 6, and this run has the seed 5: the order of the data would change"),
        (DataPosition(5, 7, 8, 21), "is of 21 examples, and this run is of 20 examples"),
        (DataPosition(5, 6, 8, 20), "was saved after step 6, and this run was saved after step 7"),
    ],
)
def test_another_place_is_refused(other, message):
    with pytest.raises(ValueError, match=message):
        POSITION.check(other.to_json())
    POSITION.check(other.to_json(), allow={"seed", "num_examples", "step", "batch_size"})


@pytest.mark.parametrize("name", ["seed", "step", "batch_size", "num_examples"])
def test_numbers_that_make_no_sense(name):
    with pytest.raises(ValueError, match=f"{name} is -1"):
        DataPosition(**{"seed": 0, "step": 0, "batch_size": 1, "num_examples": 1, name: -1})


@pytest.mark.parametrize("processes", [1, 4, 8])
def test_two_processes_stop_and_others_go_on(tmp_path, processes):
    """In the middle of an epoch of 20 pictures, after one batch of 8."""
    np.save(tmp_path / "pictures.npy", np.zeros((20, 5, 5, 3), np.uint8))
    images = ArrayImages(tmp_path / "pictures.npy")

    def rows(count, start, stop):
        seen = []
        for index in range(count):
            stream = batches(
                images, 8, seed=5, start_step=start, num_threads=0, process_index=index, process_count=count
            )
            seen += [next(stream)["index"] for _ in range(start, stop)]
            stream.close()
        return np.concatenate(seen)

    # 5 batches of 8 are two epochs of 20: every picture twice, over the stop.
    seen = np.concatenate([rows(2, 0, 1), rows(processes, 1, 5)])
    assert np.bincount(seen, minlength=20).tolist() == [2] * 20


SCRIPT = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
import equinox as eqx
import numpy as np
import optax
from hamflow.data import stream_indices
from hamflow.training import Checkpoints, DataPosition, device_mesh, init_state, make_step
from hamflow.training import replicate, replicated, shard_batch
from training_problem import Regressor, loss

SEED, BATCH, NUM = 5, 8, 20
optimizer = optax.adam(0.05)
X = np.random.default_rng(0).normal(size=(NUM, 4)).astype(np.float32)

def new(mesh):
    return replicate((init_state(Regressor(), optimizer), jax.random.key(1)), mesh)

def position(state):
    return DataPosition(SEED, int(state.step), BATCH, NUM)

def steps(mesh, state, key, stop):
    step = make_step(loss, optimizer, sharding=replicated(mesh))
    seen = []
    for n in range(int(state.step), stop):
        index = stream_indices(SEED, NUM, n * BATCH, (n + 1) * BATCH)
        batch = shard_batch({"x": X[index], "y": X[index, 0], "index": index}, mesh)
        shards = batch["index"].addressable_shards
        assert len(shards) == mesh.size
        seen += [int(i) for shard in shards for i in np.asarray(shard.data)]
        state, metrics = step(state, batch, key)
    return state, seen, float(metrics["loss"])

def same(a, b):
    leaves = [jax.tree.leaves(eqx.filter(each, eqx.is_array)) for each in (a, b)]
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(*leaves, strict=True))

two = device_mesh(devices=jax.devices()[:2])
state, key = new(two)
state, before, _ = steps(two, state, key, 1)
found = {"before": before}
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(state, key, position(state).to_json())
    for count in (1, 4, 8):
        mesh = device_mesh(devices=jax.devices()[:count])
        again, key_again, saved = checkpoints.restore(*new(mesh))
        position(again).check(saved)
        assert len(again.model.weight.sharding.device_set) == count
        equal = same(again, state) and same(jax.random.key_data(key_again), jax.random.key_data(key))
        _, after, loss_value = steps(mesh, again, key_again, 5)
        found[count] = [equal, after, loss_value]
print(json.dumps(found))
"""


def test_saved_on_two_devices_and_resumed_on_one_four_and_eight(tmp_path):
    path = os.pathsep.join([str(HERE), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    before = found.pop("before")
    assert len(before) == 8
    losses = []
    for equal, after, loss in found.values():
        assert equal
        seen = before + after
        assert sorted(seen[:20]) == list(range(20))
        assert sorted(seen[20:]) == list(range(20))
        losses.append(loss)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
