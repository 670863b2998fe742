"""The average against numbers worked out by hand from EDM's rule."""

import jax.numpy as jnp
import numpy as np
import pytest

from hamflow.training import ExponentialMovingAverage


@pytest.mark.parametrize(
    ("images", "batch", "expected"),
    [
        (0, 64, 0.0),  # h = 0: the first average is the model
        (1_000, 100, 0.25),  # h = .05 x 1000 = 50 images, and 100 images are two half-lives
        (20_000, 1_000, 0.5),  # h = 1000: one half-life
        (10_000_000, 5_000, 0.5**0.01),  # h = min(500000, .05 x 1e7) = 500000
        (200_000_000, 500_000, 0.5),  # long after the ramp-up
    ],
)
def test_decay_by_hand(images, batch, expected):
    decay = ExponentialMovingAverage(halflife_images=500_000, rampup_ratio=0.05).decay(jnp.uint32(images), batch)
    np.testing.assert_allclose(decay, expected, rtol=1e-6)


def test_without_rampup():
    ema = ExponentialMovingAverage(halflife_images=10, rampup_ratio=None)
    np.testing.assert_allclose(ema.decay(jnp.uint32(0), 20), 0.25, rtol=1e-6)


def test_no_average_at_all():
    assert ExponentialMovingAverage(halflife_images=0).decay(jnp.uint32(1000), 1) == 0


def test_images_beyond_the_range_of_int32():
    ema = ExponentialMovingAverage(halflife_images=1e12, rampup_ratio=1.0)
    np.testing.assert_allclose(ema.decay(jnp.uint32(3_000_000_000), 1_500_000_000), 0.5**0.5, rtol=1e-6)


def test_two_updates_by_hand():
    ema = ExponentialMovingAverage(halflife_images=10, rampup_ratio=None)  # beta = 1/2 for batches of 10
    first = ema.update({"w": jnp.asarray([0.0, 8.0])}, {"w": jnp.asarray([4.0, 0.0])}, jnp.uint32(0), 10)
    np.testing.assert_allclose(first["w"], [2.0, 4.0])
    second = ema.update(first, {"w": jnp.asarray([4.0, 0.0])}, jnp.uint32(10), 10)
    np.testing.assert_allclose(second["w"], [3.0, 2.0])


def test_the_half_life_does_not_depend_on_the_batch_size():
    ema = ExponentialMovingAverage(halflife_images=100, rampup_ratio=None)
    small, large = {"w": jnp.ones(1)}, {"w": jnp.ones(1)}
    for _ in range(4):
        small = ema.update(small, {"w": jnp.zeros(1)}, jnp.uint32(0), 25)
    large = ema.update(large, {"w": jnp.zeros(1)}, jnp.uint32(0), 100)
    np.testing.assert_allclose(small["w"], [0.5], rtol=1e-6)
    np.testing.assert_allclose(large["w"], [0.5], rtol=1e-6)


@pytest.mark.parametrize("arguments", [{"halflife_images": -1}, {"rampup_ratio": 0}, {"halflife_images": float("nan")}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ExponentialMovingAverage(**arguments)
