import jax.numpy as jnp
import jax.random as jr
import numpy as np

from hamflow.data import checkerboard, two_moons


def test_moons_are_centred_with_unit_deviation():
    points = np.asarray(two_moons(jr.key(0), 40_000))
    # 4 standard errors of a mean and of a deviation (a half circle is flatter than a Gaussian).
    np.testing.assert_allclose(points.mean(0), 0.0, atol=4 / 200)
    np.testing.assert_allclose(points.std(0), 1.0, atol=4 / 200)


def test_moons_lie_on_two_half_circles():
    points = np.asarray(two_moons(jr.key(1), 1000, noise=0.0), np.float64)
    points = points * np.sqrt([0.75, 0.5625 - 1 / np.pi]) + [0.5, 0.25]
    upper = np.hypot(points[:, 0], points[:, 1])
    lower = np.hypot(points[:, 0] - 1.0, points[:, 1] - 0.5)
    on_upper = (np.abs(upper - 1) < 1e-5) & (points[:, 1] >= -1e-5)
    on_lower = (np.abs(lower - 1) < 1e-5) & (points[:, 1] <= 0.5 + 1e-5)
    assert np.all(on_upper | on_lower)
    assert 400 < on_upper.sum() < 600  # 6 standard deviations of a fair coin


def test_checkerboard_fills_the_dark_squares_alone():
    points = np.asarray(checkerboard(jr.key(2), 8000))
    assert np.all(np.abs(points) <= 1)
    cells = np.clip(np.floor((points + 1) * 2).astype(int), 0, 3)
    counts = np.zeros((4, 4))
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1)
    dark = (np.add.outer(np.arange(4), np.arange(4)) % 2) == 0
    assert np.all(counts[~dark] == 0)
    np.testing.assert_allclose(counts[dark], 1000, atol=180)  # 6 standard deviations
    assert jnp.float32 == checkerboard(jr.key(2), 2).dtype
