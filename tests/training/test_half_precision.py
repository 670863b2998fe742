"""Averages and moments of a half-precision model, against closed forms: they are float32, and they move."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hamflow.training import (
    Checkpoints,
    ExponentialMovingAverage,
    PowerFunctionAverage,
    init_state,
    make_step,
    read_arrays,
)

HALVES = [jnp.bfloat16, jnp.float16]
STEPS, BATCH = 2000, 256
# From 0 towards 1 with beta = 2^(-256 / 5e5) a step: 1 - 2^-(2000 * 256 / 5e5) = 1 - 2^-1.024.
HALF_LIFE = ExponentialMovingAverage(halflife_images=5e5, rampup_ratio=None)
# From image 4000 * 256 on: 1 - (4000 / 6000)^(gamma + 1), with gamma = 3.463.
POWER = PowerFunctionAverage(3.463)


@pytest.mark.parametrize("dtype", [*HALVES, jnp.float32])
@pytest.mark.parametrize(
    ("average", "start", "expected"),
    [(HALF_LIFE, 0, 1 - 2**-1.024), (POWER, 4000, 1 - (4000 / 6000) ** 4.463)],
    ids=["half-life", "power"],
)
def test_two_thousand_updates_of_a_half_precision_model(average, start, expected, dtype):
    model = {"w": jnp.ones(3, dtype)}

    @jax.jit
    def updates(ema):
        def body(i, ema):
            return average.update(ema, model, jnp.uint32((start + i) * BATCH), BATCH)

        return jax.lax.fori_loop(0, STEPS, body, ema)

    first = average.update({"w": jnp.zeros(3, dtype)}, {"w": jnp.zeros(3, dtype)}, jnp.uint32(start * BATCH), BATCH)
    ema = updates(first)
    assert ema["w"].dtype == jnp.float32
    np.testing.assert_allclose(ema["w"], expected, rtol=2e-4)


def loss(model, batch, key):
    return jnp.mean(((model["w"][None] - batch) ** 2).astype(jnp.float32)), {}


@pytest.mark.parametrize("dtype", HALVES)
def test_moments_and_averages_are_float32_saved_and_restored(dtype, tmp_path):
    """Adam's second moment of a constant gradient g is g^2 (1 - b2^n): .002 g^2 after two steps of b2 = .999."""
    model = {"w": jnp.zeros(2, dtype), "constant": jnp.ones(2, jnp.int32)}
    optimizer = optax.adam(1e-3)
    trainable = {"w": True, "constant": False}
    state = init_state(model, optimizer, trainable=trainable, num_averages=2)
    step = make_step(loss, optimizer, [HALF_LIFE, POWER], trainable=trainable)
    key, batch = jax.random.key(0), jnp.full((4, 2), 3.0, dtype)
    for _ in range(300):
        state, _ = step(state, batch, key)
    moments = state.opt_state[0]
    assert state.model["w"].dtype == dtype
    for leaf in (state.ema["w"], state.other_averages[0]["w"], moments.mu["w"], moments.nu["w"]):
        assert leaf.dtype == jnp.float32
    assert state.ema["constant"].dtype == jnp.int32
    g = 3.0  # d/dw of the mean over two coordinates of (w - 3)^2, at w near 0
    assert moments.nu["w"][0] == pytest.approx(g**2 * (1 - 0.999**300), rel=0.15)  # w moves to .3 meanwhile
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, key)
        restored, _, _ = checkpoints.restore(init_state(model, optimizer, trainable=trainable, num_averages=2), key)
    np.testing.assert_array_equal(restored.ema["w"], state.ema["w"])
    assert read_arrays(tmp_path, ".ema")[".ema['w']"].dtype == np.float32


def test_a_checkpoint_with_averages_of_half_precision_is_still_read(tmp_path):
    optimizer, key = optax.adam(1e-3), jax.random.key(0)
    model = {"w": jnp.linspace(0.0, 1.0, 3).astype(jnp.bfloat16)}
    state = init_state(model, optimizer)
    old = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(old, key)
        restored, _, _ = checkpoints.restore(state, key)
        assert restored.ema["w"].dtype == jnp.float32
        np.testing.assert_array_equal(restored.ema["w"], model["w"].astype(jnp.float32))
        other = eqx.tree_at(lambda s: s.model["w"], state, model["w"].astype(jnp.float32))
        with pytest.raises(ValueError, match="another model or optimiser"):  # the model's own dtype is not to change
            checkpoints.restore(other, key)
