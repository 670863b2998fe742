"""Checkpoints: all of the state comes back, and what cannot be trusted or does not fit is refused by name."""

import json
import logging
import shutil
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_problem import Regressor, batch_of, loss

from hamflow.training import Checkpoints, CorruptCheckpoint, init_state, make_step

OPTIMIZER = optax.adam(0.05)
KEY = jax.random.key(11)


def fresh():
    return init_state(Regressor(), OPTIMIZER)


@pytest.fixture(scope="module")
def states():
    """The states after 0, 1, 2 and 3 steps."""
    step, state = make_step(loss, OPTIMIZER), fresh()
    states = [jax.tree.map(lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, state)]
    for n in range(3):
        state, _ = step(state, batch_of(0, n), KEY)
        states.append(jax.tree.map(lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, state))
    return states


@pytest.fixture
def folder(tmp_path, states):
    """Checkpoints of steps 1, 2 and 3."""
    with Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints:
        for state in states[1:]:
            checkpoints.save(state, KEY, {"seed": 5})
    return tmp_path / "checkpoints"


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if eqx.is_array(left):
            assert (left.dtype, left.sharding) == (right.dtype, right.sharding)
            if jnp.issubdtype(left.dtype, jax.dtypes.prng_key):
                left, right = jax.random.key_data(left), jax.random.key_data(right)
            assert left.weak_type == right.weak_type
            assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_there_and_back(tmp_path, states, asynchronous):
    with Checkpoints(tmp_path, asynchronous=asynchronous) as checkpoints:
        checkpoints.save(states[2], KEY, {"seed": 5, "epoch": {"step": 3}})
        state, key, position = checkpoints.restore(fresh(), jax.random.key(0))
    assert_same(state, states[2])
    assert_same(key, KEY)
    assert position == {"format": 1, "step": 2, "seed": 5, "epoch": {"step": 3}}


def test_any_leaf_comes_back(tmp_path):
    model = {
        "bfloat16": jnp.arange(3, dtype=jnp.bfloat16),
        "keys": jax.random.split(jax.random.key(4, impl="rbg"), 2),
        "empty": jnp.zeros((0, 2)),
        "a/b.c['d']": jnp.asarray([np.nan, -0.0, np.inf]),
        "python": 3.0,
        "function": jnp.tanh,
        "none": None,
    }
    state = init_state(model, OPTIMIZER)
    blank = init_state(jax.tree.map(lambda x: x * 0 if eqx.is_inexact_array(x) else x, model), OPTIMIZER)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, KEY)
        assert_same(checkpoints.restore(blank, KEY)[0], state)


def test_restoring_into_shapes_alone(folder, states):
    like = eqx.filter_eval_shape(fresh)
    sharding = states[0].step.sharding
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) if hasattr(x, "shape") else x, like
    )
    with Checkpoints(folder) as checkpoints:
        assert_same(checkpoints.restore(like, KEY)[0], states[3])


def test_training_on_while_saving_does_not_disturb(tmp_path):
    """The step reuses the memory of the state that is being written."""
    size = 1_000_000
    optimizer = optax.sgd(1.0)
    step = make_step(lambda model, batch, key: (-jnp.sum(model), {}), optimizer)
    state = init_state(jnp.zeros(size), optimizer)
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        for _ in range(3):
            for _ in range(5):
                state, _ = step(state, np.zeros(1), KEY)
            checkpoints.save(state, KEY)
        for n in (5, 10, 15):
            like = init_state(jnp.zeros(size), optimizer)
            np.testing.assert_array_equal(checkpoints.restore(like, KEY, step=n)[0].model, np.full(size, n, np.float32))


def test_the_latest_are_kept(tmp_path, states):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for state in states:
            checkpoints.save(state, KEY)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 3]
        assert_same(checkpoints.restore(fresh(), KEY, step=2)[0], states[2])


@pytest.fixture(scope="module")
def at():
    """A state as if after so many steps."""
    return lambda n: eqx.tree_at(lambda s: s.step, fresh(), jnp.asarray(n, jnp.int32))


def test_every_so_many_steps_are_kept_for_ever(tmp_path, at):
    for n in range(1, 10):
        with Checkpoints(tmp_path, keep=2, keep_every=3) as checkpoints:  # opened anew each time: nothing is forgotten
            checkpoints.save(at(n), KEY)
    assert checkpoints.steps() == [3, 6, 8, 9]


@pytest.mark.parametrize(("higher", "kept"), [(False, [2, 5, 8]), (True, [1, 4, 8])])
@pytest.mark.parametrize("reopen", [False, True])
def test_the_best_are_kept(tmp_path, at, higher, kept, reopen):
    """Two of them and the latest; a checkpoint without metrics is no candidate, nan and inf are the worst."""
    losses = [5.0, 1.0, np.nan, 7.0, 0.5, 3.0, None, -np.inf if higher else np.inf]
    losses[0], losses[3] = (9.0, 7.0) if higher else (5.0, 7.0)
    options = {"keep": 1, "keep_best": 2, "metric": "validation", "higher_is_better": higher}
    checkpoints = Checkpoints(tmp_path, **options)
    for n, value in enumerate(losses, start=1):
        checkpoints.save(at(n), KEY, metrics=None if value is None else {"validation": value, "other": n})
        if reopen:
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path, **options)
    assert checkpoints.restore(fresh(), KEY)[2]["metrics"] == {"validation": "-inf" if higher else "inf", "other": 8.0}
    checkpoints.close()
    assert checkpoints.steps() == kept


def test_mistakes_in_what_is_kept(tmp_path, at):
    with (
        Checkpoints(tmp_path, keep_best=1, metric="validation") as checkpoints,
        pytest.raises(ValueError, match=r"looks at the metric 'validation', and there are only \['loss'\]"),
    ):
        checkpoints.save(at(1), KEY, metrics={"loss": 1.0})
    with pytest.raises(ValueError, match="keep_every is 0"):
        Checkpoints(tmp_path, keep_every=0)
    with pytest.raises(ValueError, match="keep_best is -1"):
        Checkpoints(tmp_path, keep_best=-1)


def test_saving_a_step_twice_and_an_older_one(folder, states):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(states[3], KEY)
        with pytest.raises(ValueError, match="has a checkpoint of step 3, and this state is of step 0"):
            checkpoints.save(states[0], KEY)


def test_a_state_that_stopped_is_saved_as_the_good_state_it_is(tmp_path, states):
    stopped = eqx.tree_at(lambda s: s.finite, states[2], jnp.asarray(False))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(stopped, KEY)
        assert_same(checkpoints.restore(fresh(), KEY)[0], states[2])


def test_what_a_kill_left_is_cleared_away(folder, states):
    shutil.copytree(folder / "3", folder / "3.orbax-checkpoint-tmp")
    shutil.rmtree(folder / "3")
    (folder / "3.orbax-checkpoint-tmp" / "sha256.json").unlink()
    with Checkpoints(folder, keep=3) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert_same(checkpoints.restore(fresh(), KEY)[0], states[2])
        checkpoints.save(states[3], KEY)
    with Checkpoints(folder) as checkpoints:
        assert_same(checkpoints.restore(fresh(), KEY)[0], states[3])


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_is_reported_and_harms_nothing_older(tmp_path, states, monkeypatch, asynchronous):
    real, full = Checkpoints._write_checksums, []

    def write(self, **arguments):
        if full and threading.current_thread() is not threading.main_thread():
            raise OSError(28, "No space left on device")
        real(self, **arguments)

    monkeypatch.setattr(Checkpoints, "_write_checksums", write)

    def run():
        with Checkpoints(tmp_path, asynchronous=asynchronous) as checkpoints:
            checkpoints.save(states[1], KEY)
            checkpoints.restore(fresh(), KEY)
            full.append(True)
            checkpoints.save(states[2], KEY)

    with pytest.raises(
        OSError, match=r"could not be written to .*: \[Errno 28\] No space left.* Those before it are as"
    ):
        run()
    full.clear()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        checkpoints.save(states[2], KEY)
        assert_same(checkpoints.restore(fresh(), KEY)[0], states[2])


def test_no_checkpoint(tmp_path, folder):
    with (
        Checkpoints(tmp_path / "empty") as checkpoints,
        pytest.raises(FileNotFoundError, match=r"no checkpoint in .*empty: nothing was saved yet"),
    ):
        checkpoints.restore(fresh(), KEY)
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(FileNotFoundError, match=r"step 7 in .*those there are of \[1, 2, 3\]"),
    ):
        checkpoints.restore(fresh(), KEY, step=7)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def test_a_flipped_byte_anywhere_is_refused_or_harmless(folder, states):
    rng = np.random.default_rng(0)
    refused = 0
    for path in files_of(folder / "3"):
        good = path.read_bytes()
        damaged = bytearray(good)
        damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with Checkpoints(folder, keep=3, keep_best=1) as checkpoints:  # which reads what may be damaged as it opens
            if path.parent == folder / "3" and path.name != "sha256.json":  # orbax's notes on the time of completion
                assert_same(checkpoints.restore(fresh(), KEY)[0], states[3])
            else:
                refused += 1
                with pytest.raises(
                    CorruptCheckpoint, match=r"checkpoints/3 is damaged: .*\. Step 2 is good: move 3 away"
                ):
                    checkpoints.restore(fresh(), KEY)
        path.write_bytes(good)
    assert refused > 8


def test_a_file_that_is_missing_or_cut_short(folder):
    path = max(files_of(folder / "3" / "state"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    (folder / "2" / "sha256.json").unlink()
    with Checkpoints(folder, keep=3) as checkpoints:
        with pytest.raises(CorruptCheckpoint, match=r"does not match its checksum\. Step 1 is good"):
            checkpoints.restore(fresh(), KEY)
        with pytest.raises(CorruptCheckpoint, match=r"2 is damaged: sha256\.json is missing\. Step 1 is good"):
            checkpoints.restore(fresh(), KEY, step=2)
        path.unlink()
        shutil.rmtree(folder / "1" / "state")
        with pytest.raises(CorruptCheckpoint, match=r"is missing\. No older one is good: copy .* or start a new run"):
            checkpoints.restore(fresh(), KEY)


def test_the_advice_works(folder, states):
    next(iter(files_of(folder / "3" / "state"))).write_bytes(b"rubbish")
    (folder / "3").rename(folder.parent / "damaged")
    with Checkpoints(folder, keep=3) as checkpoints:
        assert_same(checkpoints.restore(fresh(), KEY)[0], states[2])
        checkpoints.save(states[3], KEY)


def test_another_model_or_optimiser_is_refused(folder):
    wider = eqx.tree_at(lambda m: m.weight, Regressor(), jnp.zeros(5))
    with Checkpoints(folder, keep=3) as checkpoints:
        with pytest.raises(ValueError, match=r"\.model\.weight: float32\[4\] in the checkpoint, float32\[5\] now"):
            checkpoints.restore(init_state(wider, OPTIMIZER), KEY)
        with pytest.raises(ValueError, match=r"\.mu\.\S+: float32\[\S*\] in the checkpoint, absent now"):
            checkpoints.restore(init_state(Regressor(), optax.sgd(0.1)), KEY)
        half = eqx.tree_at(lambda m: m.weight, Regressor(), jnp.zeros(4, jnp.bfloat16))
        with pytest.raises(ValueError, match=r"weight: float32\[4\] in the checkpoint, bfloat16\[4\] now"):
            checkpoints.restore(init_state(half, OPTIMIZER), KEY)


def test_another_format_is_refused(folder):
    path = folder / "3" / "position" / "metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9}))
    sums = json.loads((folder / "3" / "sha256.json").read_text())
    import hashlib

    sums["position/metadata"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "3" / "sha256.json").write_text(json.dumps(sums))
    with Checkpoints(folder, keep=3) as checkpoints, pytest.raises(ValueError, match="has format 9, and this hamflow"):
        checkpoints.restore(fresh(), KEY)


def test_bad_folders(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
        with pytest.raises(NotADirectoryError, match="is not a folder"):
            Checkpoints(folder)
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(tmp_path, keep=0)


def test_orbax_is_quiet_and_others_are_not(folder, states, caplog, capfd):
    with caplog.at_level(logging.DEBUG), Checkpoints(folder, keep=3) as checkpoints:
        checkpoints.restore(fresh(), KEY)
        logging.getLogger("absl").warning("from somebody else")
    assert capfd.readouterr().out == ""
    assert [record.message for record in caplog.records if record.name == "absl"] == ["from somebody else"]
