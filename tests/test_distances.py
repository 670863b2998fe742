"""The sliced Wasserstein distance against what it is for shifts and scales, and against scipy in one dimension."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

from hamflow.distances import sliced_wasserstein, two_sample_distance

KEY = jr.key(0)


def test_a_shift_and_a_scale(x64):
    """E (m . u)^2 = |m|^2 / d over directions u; of a scaled set every projection is scaled: (s - 1)^2 E (x . u)^2."""
    x = jr.normal(KEY, (4000, 3, 2))
    shift = jnp.arange(6.0).reshape(3, 2)
    found = sliced_wasserstein(jr.key(1), x + shift[None], x, num_projections=4000)
    # |m|^2 / d = 55 / 6, and 4,000 directions leave about 2% of it: var (m . u)^2 is about 2 |m|^4 / d^2 at most.
    assert found == pytest.approx((55.0 / 6.0) ** 0.5, rel=0.04)
    assert sliced_wasserstein(KEY, 1.5 * x, x) == pytest.approx(0.5, rel=0.02)
    assert sliced_wasserstein(KEY, x[::-1], x) == 0.0


def test_one_dimension_is_the_wasserstein_distance(x64):
    """Sets that do not cross: order 2 of a shift is order 1 of it, whatever the numbers."""
    x, y = np.sort(np.random.default_rng(0).normal(size=(2, 300)), axis=1)
    found = sliced_wasserstein(KEY, jnp.asarray(x)[:, None], jnp.asarray(y)[:, None])
    assert found == pytest.approx(np.sqrt(np.mean((x - y) ** 2)), rel=1e-6)
    assert found >= scipy.stats.wasserstein_distance(x, y)
    larger = jnp.asarray(np.repeat(y, 3))[:, None]  # three times the draws, of the same law
    assert sliced_wasserstein(KEY, jnp.asarray(y)[:, None], larger) == 0.0


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="examples of one shape"):
        sliced_wasserstein(KEY, jnp.zeros((3, 2)), jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match="examples of one shape"):
        sliced_wasserstein(KEY, jnp.zeros((0, 2)), jnp.zeros((3, 2)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_constant_column_has_a_distance(dtype):
    """Of no weight where both have the same number in it; two different numbers are far apart."""
    rng = np.random.default_rng(0)
    moving = rng.normal(size=(2, 500, 1)).astype(dtype)
    same = [jnp.asarray(np.concatenate([x, np.full_like(x, 3.0)], axis=1)) for x in moving]
    distance, floor = two_sample_distance(jr.key(0), *same)
    assert 0 <= distance < floor < 1
    other = jnp.asarray(np.concatenate([moving[1], np.full_like(moving[1], 4.0)], axis=1))
    distance, floor = two_sample_distance(jr.key(0), same[0], other)
    assert np.isfinite(floor)
    assert distance > 3 * floor
    constant = jnp.full((100, 2), 3.0)
    assert two_sample_distance(jr.key(0), constant, constant) == (0.0, 0.0)
