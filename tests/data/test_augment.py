"""What the jitted step does to a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hamflow.data import random_flip, to_float, to_uint8

EVERY_PIXEL = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)


def test_pixels_become_floats_in_minus_one_to_one():
    """Black and white are the ends exactly, with jit and without: beyond them is outside of a box."""
    for convert in (to_float, jax.jit(to_float)):
        x = np.asarray(convert(EVERY_PIXEL))
        assert x.dtype == np.float32
        np.testing.assert_allclose(x.ravel(), np.arange(256) / 127.5 - 1, atol=6e-8)
        assert x.min() == -1
        assert x.max() == 1


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_the_way_back_is_exact(transform):
    there_and_back = transform(lambda images: to_uint8(to_float(images)))
    np.testing.assert_array_equal(there_and_back(EVERY_PIXEL), EVERY_PIXEL)


def test_what_is_outside_is_clipped_and_the_nearest_pixel_taken():
    x = jnp.array([-jnp.inf, -1.2, -1.0, 0.51 / 127.5 - 1, 0.49 / 127.5 - 1, 1.0, 7.0])
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 1, 0, 255, 255])


def test_nan_is_no_colour():
    with pytest.raises(Exception, match="x holds NaN"):
        jax.block_until_ready(jax.jit(to_uint8)(jnp.array([0.0, jnp.nan])))


def test_flips_mirror_the_width_of_about_half_the_pictures():
    """1000 pictures: 500 +- 15.8, so outside 400 to 600 less than once in 1e9 draws."""
    images = jax.random.bits(jax.random.key(0), (1000, 3, 2, 4), "uint8")
    flipped = np.asarray(jax.jit(random_flip)(jax.random.key(1), images))
    assert flipped.dtype == np.uint8
    same = (flipped == images).all(axis=(1, 2, 3))
    mirrored = (flipped == images[..., ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 400 < mirrored.sum() < 600


def test_flips_keep_floats_and_follow_the_key():
    images = jax.random.normal(jax.random.key(0), (64, 1, 2, 2))
    a, b, c = (random_flip(jax.random.key(seed), images) for seed in (1, 1, 2))
    assert a.dtype == jnp.float32
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize("call", [lambda: to_float(jnp.zeros(3)), lambda: to_uint8(EVERY_PIXEL)])
def test_a_wrong_dtype_is_an_error(call):
    with pytest.raises(TypeError):
        call()


def test_a_picture_without_a_batch_axis_is_an_error():
    with pytest.raises(TypeError, match="images"):
        random_flip(jax.random.key(0), jnp.zeros((3, 4, 4)))
