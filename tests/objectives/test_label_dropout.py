"""Label dropout: how many are dropped, that no other is touched, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import hamflow as hf


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6])
def test_the_share_that_is_dropped_and_nothing_else(rate):
    """Of n independent draws at rate r within 4.5 deviations, (r (1 - r) / n)^1/2; the same under jit."""
    n = 20_000
    labels = jr.randint(jr.key(0), (n,), 0, 5)
    drop = jax.jit(functools.partial(hf.drop_labels, rate=rate, num_classes=5))
    found = drop(jr.key(1), labels)
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found, hf.drop_labels(jr.key(1), labels, rate, 5))
    dropped = np.asarray(found) == 5
    np.testing.assert_array_equal(np.asarray(found)[~dropped], np.asarray(labels)[~dropped])
    assert abs(dropped.mean() - rate) <= 4.5 * (rate * (1 - rate) / n) ** 0.5
    if rate:  # each class alike, and another key drops others
        for label in range(5):
            share = dropped[np.asarray(labels) == label]
            assert abs(share.mean() - rate) < 4.5 * (rate * (1 - rate) / share.size) ** 0.5
        assert (np.asarray(drop(jr.key(2), labels)) != np.asarray(found)).any()


def test_vectors_are_dropped_whole():
    vectors = 1.0 + jr.uniform(jr.key(0), (5000, 3))
    found = np.asarray(hf.drop_labels(jr.key(1), vectors, 0.25))
    dropped = (found == 0.0).all(axis=1)
    np.testing.assert_array_equal(found[~dropped], np.asarray(vectors)[~dropped])
    assert abs(dropped.mean() - 0.25) < 4.5 * (0.25 * 0.75 / 5000) ** 0.5


def test_the_null_label_is_what_a_network_takes_for_none():
    network = hf.networks.MLP((2,), width=4, depth=1, num_classes=3, key=jr.key(0))
    network = jax.tree.map(lambda leaf: leaf + 0.1, network)  # away from its output of zero
    null = hf.drop_labels(jr.key(0), np.full(200, 1, np.int32), 0.99, 3).max()
    without = network(jnp.float32(0.3), jnp.ones(2))
    np.testing.assert_array_equal(network(jnp.float32(0.3), jnp.ones(2), null), without)
    assert (network(jnp.float32(0.3), jnp.ones(2), 1) != without).any()


@pytest.mark.parametrize(
    ("labels", "rate", "num_classes", "error", "message"),
    [
        (np.zeros(3, int), 1.0, 4, ValueError, r"rate must be in \[0, 1\), got 1.0"),
        (np.zeros(3, int), -0.1, 4, ValueError, "rate must be"),
        (np.zeros(3, int), float("nan"), 4, ValueError, "rate must be"),
        (np.zeros(3, int), 0.1, None, ValueError, "num_classes must be given with class labels"),
        (np.zeros(3, int), 0.1, 0, ValueError, "at least 1"),
        (np.zeros(3, np.int8), 0.1, 128, ValueError, "fit into int8, got 128"),
        (np.zeros((3, 2), np.float32), 0.1, 4, ValueError, "leave it out"),
        (np.zeros(3, np.float32), 0.1, 4, TypeError, "labels"),
        (np.zeros((3, 2), int), 0.1, 4, TypeError, "labels"),
    ],
)
def test_bad_input(labels, rate, num_classes, error, message):
    with pytest.raises(error, match=message):
        hf.drop_labels(jr.key(0), labels, rate, num_classes)


def test_labels_out_of_range_are_refused_and_bytes_are_labels():
    with pytest.raises(ValueError, match=r"labels must lie in 0 .. 2 \(or be 3, the null label\)"):
        hf.drop_labels(jr.key(0), jnp.array([0, 7]), 0.1, 3)
    found = hf.drop_labels(jr.key(0), jnp.array([0, 2, 3], jnp.uint8), 0.0, 3)
    np.testing.assert_array_equal(found, np.array([0, 2, 3], np.uint8))
