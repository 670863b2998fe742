"""One step against a step by hand; what is not trained; keys; numbers that are not finite."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_problem import Regressor, batch_of, learned, loss

from hamflow.training import ExponentialMovingAverage, Recorder, init_state, make_step, only, split

KEY = jax.random.key(3)


def quadratic(model, batch, key):
    """Mean over the batch of (w x - y)^2 / 2, so d/dw = mean((w x - y) x)."""
    return jnp.mean((model["w"] * batch["x"] - batch["y"]) ** 2) / 2, {"w": model["w"]}


BATCH = {"x": np.array([1.0, 2.0], np.float32), "y": np.array([0.0, 6.0], np.float32), "index": np.array([7, 8])}


def copied(state):
    return jax.tree.map(lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf, state)


def assert_equal(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_step_by_hand():
    optimizer = optax.sgd(0.1)
    ema = ExponentialMovingAverage(halflife_images=2, rampup_ratio=None)  # beta = 1/2
    state = init_state({"w": jnp.asarray(1.0)}, optimizer)
    step = make_step(quadratic, optimizer, ema)
    state, metrics = step(state, BATCH, KEY)
    # errors 1 and -4; loss (1 + 16)/4; gradient (1 x 1 - 4 x 2)/2 = -3.5; w = 1 + .35; ema = (1 + 1.35)/2
    np.testing.assert_allclose(state.model["w"], 1.35, rtol=1e-6)
    np.testing.assert_allclose(state.ema["w"], 1.175, rtol=1e-6)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {"step": 0, "images": 2, "loss": 4.25, "grad_norm": 3.5, "finite": 1.0, "w": 1.0}
    )
    assert (int(state.step), int(state.images), bool(state.finite)) == (1, 2, True)


def test_it_learns_and_compiles_once():
    traces = []

    def counted(model, batch, key):
        traces.append(1)
        return loss(model, batch, key)

    optimizer = optax.adam(0.05)
    state = init_state(Regressor(), optimizer)
    step = make_step(counted, optimizer)
    losses = []
    for n in range(60):
        state, metrics = step(state, batch_of(0, n), KEY)
        losses.append(float(metrics["loss"]))
        if n == 0:
            first = len(traces)
    assert np.mean(losses[-10:]) < 0.1 * np.mean(losses[:5])
    assert len(traces) == first


def test_the_key_of_a_step_is_folded_in():
    def noise(model, batch, key):
        return jnp.sum(model["w"]) * 0.0, {"draw": jax.random.uniform(key)}

    optimizer = optax.sgd(0.1)
    state = init_state({"w": jnp.zeros(1)}, optimizer)
    step = make_step(noise, optimizer)
    for n in range(3):
        state, metrics = step(state, BATCH, KEY)
        assert metrics["draw"] == jax.random.uniform(jax.random.fold_in(KEY, n))


@pytest.mark.parametrize(
    "trainable",
    [
        only(Regressor(), learned),
        lambda leaf: eqx.is_array(leaf) and (leaf.shape == (4,)),
        eqx.tree_at(lambda m: m.constant, jax.tree.map(lambda _: True, Regressor()), False),
    ],
    ids=["only", "function", "booleans"],
)
def test_constants_are_left_alone(trainable):
    optimizer = optax.adamw(0.05, weight_decay=0.5)
    state = init_state(Regressor(), optimizer, trainable=trainable)
    assert len(jax.tree.leaves(state.opt_state[0].mu)) < 3  # no moments for the constant
    step = make_step(loss, optimizer, trainable=trainable)
    before = copied(state)
    for n in range(3):
        state, _ = step(state, batch_of(0, n), KEY)
    assert np.any(state.model.weight != before.model.weight)
    assert np.any(state.ema.weight != before.ema.weight)
    assert state.model.constant == state.ema.constant == 2.0
    assert state.model.activation is jnp.tanh


def test_only_marks_what_split_takes():
    trained, rest = split(Regressor(), only(Regressor(), learned))
    assert (trained.constant, rest.weight, rest.bias) == (None, None, None)
    assert eqx.tree_equal(eqx.combine(trained, rest), Regressor())


def test_everything_is_trained_by_default():
    optimizer = optax.adam(0.05)
    state, _ = make_step(loss, optimizer)(init_state(Regressor(), optimizer), batch_of(0, 0), KEY)
    assert state.model.constant != 2.0


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="Nothing to train"):
        init_state({"a": 1.0, "b": jnp.arange(3)}, optax.sgd(0.1))
    with pytest.raises(ValueError, match="Nothing to train"):
        init_state(Regressor(), optax.sgd(0.1), trainable=lambda leaf: False)


def test_the_users_model_survives_and_the_state_is_reused():
    model = Regressor()
    optimizer = optax.adam(0.05)
    old = init_state(model, optimizer)
    new, _ = make_step(loss, optimizer)(old, batch_of(0, 0), KEY)
    assert old.model.weight.is_deleted()  # its memory holds the new state
    assert not new.model.weight.is_deleted()
    np.testing.assert_array_equal(model.weight, Regressor().weight)


def test_weak_types_and_numpy_arrays_do_not_compile_twice():
    traces = []

    def counted(model, batch, key):
        traces.append(1)
        return jnp.sum(model["w"] * model["n"]) ** 2, {}

    model = {"w": jnp.asarray(1.0), "n": np.ones(2, np.float32), "python": 3.0, "key": jax.random.key(1), "none": None}
    optimizer = optax.adam(0.1)
    state = init_state(model, optimizer)
    step = make_step(counted, optimizer)
    state, _ = step(state, BATCH, KEY)
    first = len(traces)
    state, _ = step(state, BATCH, KEY)
    assert len(traces) == first
    assert state.model["python"] == 3.0
    assert type(state.model["python"]) is float


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    optimizer = optax.adam(0.05)
    step = make_step(loss, optimizer)
    state = init_state(Regressor(), optimizer)
    for n in range(3):
        state, metrics = step(state, batch_of(0, n), KEY)
    good = copied(state)
    assert metrics["finite"]

    batch = batch_of(0, 3)
    batch["x"] = batch["x"].copy()
    batch["x"][5, 2] = bad
    for other in (batch, batch_of(0, 4), batch_of(0, 5)):  # nor do the steps that were started before the host noticed
        state, metrics = step(state, other, KEY)
        assert not metrics["finite"]
        assert metrics["step"] == 3
    assert_equal(eqx.tree_at(lambda s: s.finite, copied(state), good.finite), good)
    assert int(state.step) == 3


def test_a_gradient_that_is_not_finite_stops_too():
    def root(model, batch, key):
        return jnp.sqrt(jnp.sum(model["w"] ** 2)), {}  # finite at 0, its derivative is not

    optimizer = optax.sgd(0.1)
    state, metrics = make_step(root, optimizer)(init_state({"w": jnp.zeros(2)}, optimizer), BATCH, KEY)
    assert metrics["loss"] == 0
    assert not metrics["finite"]
    np.testing.assert_array_equal(state.model["w"], np.zeros(2))


def test_a_check_inside_the_loss_is_reported_in_its_own_words(caplog):
    def checked(model, batch, key):
        x = eqx.error_if(batch["x"], batch["x"] > 2.5, "the data leave the box: rescale them")
        return jnp.mean(model["w"] * x), {}

    optimizer = optax.sgd(0.1)
    step, state, record = make_step(checked, optimizer), init_state({"w": jnp.ones(())}, optimizer), Recorder()
    state, metrics = step(state, BATCH, KEY)
    record(metrics)

    def go_on():
        _, metrics = step(state, {"x": BATCH["x"] + 1}, KEY)
        record(metrics)
        record.flush()

    with pytest.raises(eqx.EquinoxRuntimeError, match=r"^the data leave the box: rescale them$"):
        go_on()
    assert caplog.records == []


def test_the_host_does_not_wait():
    """A step of about half a second is started in much less."""

    def slow(model, batch, key):
        w = jax.lax.fori_loop(0, 40, lambda _, w: jnp.tanh(w @ model), model)
        return jnp.mean(w), {}

    optimizer = optax.sgd(0.1)
    step, state = make_step(slow, optimizer), init_state(jnp.ones((400, 400)), optimizer)
    state, metrics = step(state, np.zeros(1), KEY)
    jax.block_until_ready(metrics)
    start = time.monotonic()
    state, metrics = step(state, np.zeros(1), KEY)
    started = time.monotonic() - start
    jax.block_until_ready(metrics)
    assert started < 0.3 * (time.monotonic() - start)


def test_mistakes_are_named():
    optimizer = optax.sgd(0.1)

    def run(loss, batch):
        make_step(loss, optimizer)(init_state({"w": jnp.ones(2)}, optimizer), batch, KEY)

    with pytest.raises(ValueError, match="metric named 'loss'"):
        run(lambda model, batch, key: (jnp.sum(model["w"]), {"loss": 1.0}), BATCH)
    with pytest.raises(ValueError, match=r"metric 'w' of the loss has the shape \(2,\)"):
        run(lambda model, batch, key: (jnp.sum(model["w"]), {"w": model["w"]}), BATCH)
    with pytest.raises(ValueError, match="one first axis of the same size"):
        run(lambda model, batch, key: (jnp.sum(model["w"]), {}), {"x": np.zeros((2, 3)), "y": np.zeros(3)})
    with pytest.raises(ValueError, match="one first axis"):
        run(lambda model, batch, key: (jnp.sum(model["w"]), {}), {"x": 3})


def test_double_precision(x64):
    optimizer = optax.adam(0.05)
    state = init_state({"w": jnp.asarray(1.0)}, optimizer)
    state, metrics = make_step(quadratic, optimizer, ExponentialMovingAverage(halflife_images=2, rampup_ratio=None))(
        state, {name: array.astype(float) for name, array in BATCH.items()}, KEY
    )
    assert state.model["w"].dtype == state.ema["w"].dtype == metrics["loss"].dtype == jnp.float64
    # Adam's first step is the learning rate against the sign of the gradient, up to epsilon = 1e-8.
    np.testing.assert_allclose(state.model["w"], 1.05, atol=1e-9)
    np.testing.assert_allclose(state.ema["w"], 1.025, atol=1e-9)
