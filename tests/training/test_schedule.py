"""The learning rate by hand, and inside an optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hamflow.training import init_state, learning_rate_schedule, make_step


def test_warm_up_by_hand():
    rate = learning_rate_schedule(0.1, 10, rampup_images=100)
    np.testing.assert_allclose([rate(n) for n in (0, 4, 9, 10, 1000)], [0.01, 0.05, 0.1, 0.1, 0.1], rtol=1e-6)


def test_no_warm_up_is_constant_from_the_first_step_on():
    rate = learning_rate_schedule(0.1, 10)
    np.testing.assert_allclose([rate(0), rate(1), rate(10**6)], [0.1, 0.1, 0.1], rtol=1e-6)


def test_the_fall_by_hand():
    rate = learning_rate_schedule(2.0, 10, decay_images=400)
    np.testing.assert_allclose([rate(n) for n in (0, 10, 20, 30, 39, 40, 99)], [2, 2, 2, 1, 0.1, 0, 0], atol=1e-6)


def test_both():
    rate = learning_rate_schedule(1.0, 10, rampup_images=80, decay_images=80)
    np.testing.assert_allclose([rate(2), rate(5)], [30 / 80, 60 / 80 * (2 - 2 * 50 / 80)], rtol=1e-6)


def test_the_optimiser_follows_it():
    optimizer = optax.sgd(learning_rate_schedule(0.1, 10, rampup_images=40))
    step = make_step(lambda model, batch, key: (jnp.sum(model["w"]), {}), optimizer)
    state = init_state({"w": jnp.zeros(2)}, optimizer)
    seen = []
    for _ in range(5):
        state, _ = step(state, {"x": np.zeros((10, 1), np.float32)}, jax.random.key(0))
        seen.append(float(state.model["w"][0]))
    # The gradient is one, so the weight is minus the sum of the rates .025, .05, .075, .1, .1.
    np.testing.assert_allclose(seen, -np.cumsum([0.025, 0.05, 0.075, 0.1, 0.1]), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", 0.0), ("batch_size", 0), ("rampup_images", -1.0), ("decay_images", 0.0)]
)
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=name):
        learning_rate_schedule(**{"learning_rate": 0.1, "batch_size": 10, name: value})
