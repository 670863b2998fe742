"""A checkpoint of the first release loads for ever."""

import importlib.util
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from hamflow.training import Checkpoints, init_state

FOLDER = pathlib.Path(__file__).parent / "first_release"


def test_a_checkpoint_of_the_first_release_loads(tmp_path):
    spec = importlib.util.spec_from_file_location("first_release_write", FOLDER / "write.py")
    assert spec is not None
    assert spec.loader is not None
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    blank = jax.tree.map(lambda x: x * 0 if isinstance(x, jax.Array) else x, written.start())
    like = init_state(blank, written.OPTIMIZER, trainable=written.trainable())
    shutil.copytree(FOLDER / "checkpoints", tmp_path / "checkpoints")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, key, position = checkpoints.restore(like, jax.random.key(0))
    assert position == {"format": 1, "step": 3, "seed": 5}
    assert (int(state.step), int(state.images), bool(state.finite)) == (3, 6, True)
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(11)))
    # The momentum is 1, 1.5 and 1.75 times the slope, and a step half of it: 2.125 in all. The average halves its
    # distance to the weights in each step: .25, .75, 1.4375. All of this is exact in binary.
    slope = np.asarray(written.SLOPE, np.float32)
    np.testing.assert_array_equal(state.model["layers"][0], np.arange(4) - 2.125 * slope)
    np.testing.assert_array_equal(state.ema["layers"][0], np.arange(4) - 1.4375 * slope)
    np.testing.assert_array_equal(jax.tree.leaves(state.opt_state)[0], 1.75 * slope)
    for model in (state.model, state.ema):
        assert model["layers"][1].dtype == jnp.bfloat16
        assert model["layers"][1].tolist() == [0.5]
        assert model["count"].tolist() == [0, 1, 2]
        assert model["name"] == "first"
