"""What a step that was not finite leaves is enough to see it again."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_problem import Regressor, batch_of, loss

from hamflow.training import (
    NonFiniteLoss,
    Recorder,
    init_state,
    make_step,
    read_bundle,
    replay,
    save_bundle,
)

KEY = jax.random.key(11)
OPTIMIZER = optax.adam(0.05)


def poisoned(n):
    batch = batch_of(0, n)
    if n == 3:
        batch["x"] = np.where(np.arange(16)[:, None] == 5, np.float32(np.nan), batch["x"])
    return batch


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A bundle of step 3, and the state after three steps."""
    step, state, record = make_step(loss, OPTIMIZER), init_state(Regressor(), OPTIMIZER), Recorder()
    for n in range(5):
        batch = poisoned(n)
        state, metrics = step(state, batch, KEY)
        record(metrics, batch["index"], batch=batch)
    with pytest.raises(NonFiniteLoss) as raised:
        record.flush()
    folder = tmp_path_factory.mktemp("run")
    return save_bundle(folder, raised.value, state.model, KEY), state


def test_it_holds_the_step(stopped):
    bundle, _ = stopped
    assert bundle.name == "nonfinite-3"
    about = json.loads((bundle / "bundle.json").read_text())
    assert (about["step"], about["record"]["loss"], about["skipped"]) == (3, "nan", 0)
    assert about["batch_indices"] == batch_of(0, 3)["index"].tolist()
    found = read_bundle(bundle)
    np.testing.assert_array_equal(jax.random.key_data(found["key"]), jax.random.key_data(KEY))
    for name, array in poisoned(3).items():
        np.testing.assert_array_equal(found["batch"][name], array)
        assert found["batch"][name].dtype == array.dtype


def test_it_is_replayed_on_a_model_with_other_numbers(stopped):
    bundle, _ = stopped
    assert replay(bundle, loss, Regressor()).given == "batch['x']"
    assert replay(bundle, loss, Regressor(), batch=batch_of(0, 3)) is None


def test_the_key_of_the_replay_is_that_of_the_step(stopped):
    """A loss that is not finite for that draw alone."""
    bundle, _ = stopped
    draw = jax.random.uniform(jax.random.fold_in(KEY, 3))

    def unlucky(model, batch, key):
        return jnp.log(jnp.abs(jax.random.uniform(key) - draw)) * model.bias, {}

    model = Regressor()
    origin = replay(bundle, unlucky, model, batch=batch_of(0, 3))
    assert origin.primitive == "log"


def test_its_parameters_are_those_before_the_step(stopped):
    bundle, state = stopped

    def seen(model, batch, key):
        same = (model.weight == state.model.weight).all() & (model.bias == state.model.bias)
        return jnp.where(same, jnp.nan, 0.0) + model.bias, {}

    assert replay(bundle, seen, Regressor(), batch=batch_of(0, 3)) is not None
    assert float(state.model.weight[0]) != float(Regressor().weight[0])


def bundle_of(folder, model, batch):
    error = NonFiniteLoss(7, {"step": 7, "loss": float("inf"), "grad_norm": 1.0}, None, batch)
    return save_bundle(folder, error, model, jax.random.key(4, impl="rbg"))


def test_any_model_and_any_batch(tmp_path):
    model = {
        "a/b['c']": jnp.arange(3, dtype=jnp.bfloat16) / 3,
        "keys": jax.random.split(jax.random.key(4, impl="rbg"), 2),
        "scalar": jnp.asarray(2.5),
        "f": jnp.tanh,
        "n": 3,
    }
    batch = ({"x": jnp.ones((2, 2), jnp.bfloat16), "name": "a"}, [np.arange(2), None])
    bundle = bundle_of(tmp_path, model, batch)
    found = read_bundle(bundle)
    (first, second), key = found["batch"], found["key"]
    assert first["x"].dtype == jnp.bfloat16
    assert first["x"].tolist() == [[1, 1], [1, 1]]
    assert (first["name"], second[0].tolist(), second[1]) == ("a", [0, 1], None)
    assert str(jax.random.key_impl(key)) == "rbg"
    assert found["record"]["loss"] == "inf"

    blank = {**model, "a/b['c']": jnp.zeros(3, jnp.bfloat16), "scalar": jnp.zeros(())}
    blank["keys"] = jax.random.split(jax.random.key(9, impl="rbg"), 2)

    def seen(model, batch, key):
        same = (model["a/b['c']"] == jnp.arange(3, dtype=jnp.bfloat16) / 3).all() & (model["scalar"] == 2.5)
        same &= (jax.random.key_data(model["keys"])[1] == jax.random.key_data(jax.random.split(key0, 2))[1]).all()
        return jnp.where(same, jnp.nan, 0.0), {}

    key0 = jax.random.key(4, impl="rbg")
    assert replay(bundle, seen, blank, batch={"x": np.zeros(2)}) is not None


def test_of_several_processes_each_has_a_bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    bundle = bundle_of(tmp_path, Regressor(), batch_of(0, 0))
    assert bundle == tmp_path / "nonfinite-7" / "process-3"
    np.testing.assert_array_equal(read_bundle(bundle)["batch"]["x"], batch_of(0, 0)["x"])


def test_what_is_wrong_with_a_bundle_is_named(tmp_path, stopped):
    bundle = bundle_of(tmp_path, Regressor(), None)
    with pytest.raises(ValueError, match=r"nonfinite-7 has no batch: give batch="):
        replay(bundle, loss, Regressor())
    wide = eqx.tree_at(lambda m: m.weight, Regressor(), jnp.zeros(5))
    with pytest.raises(ValueError, match=r"another model: \.weight is float32\[4\] there, float32\[5\] here"):
        replay(bundle, loss, wide, batch=batch_of(0, 0))
    with pytest.raises(ValueError, match=r"another model: \.bias is in the bundle only"):
        replay(bundle, loss, eqx.tree_at(lambda m: m.bias, Regressor(), 0.0), batch=batch_of(0, 0))
    with pytest.raises(FileNotFoundError, match="is no whole bundle"):
        read_bundle(tmp_path / "nothing")
    (bundle / "bundle.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_bundle(bundle)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="no bundle was written"):
        bundle_of(tmp_path / "file", Regressor(), None)
