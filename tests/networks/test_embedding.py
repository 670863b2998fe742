"""Noise features and conditions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hamflow.networks import ConditionEmbedding, Embedding, FourierFeatures, SinusoidalFeatures

FLOAT32 = jnp.dtype("float32")


def test_sinusoidal_features_by_hand():
    # Frequencies 1, 10^-2, 10^-4 for a period of 10^4 and three of them.
    angles = 2.0 * 0.3 * np.array([1.0, 1e-2, 1e-4])
    features = SinusoidalFeatures(6, scale=2.0)(jnp.asarray(0.3))
    np.testing.assert_allclose(features, np.concatenate([np.cos(angles), np.sin(angles)]), rtol=1e-6)


def test_fourier_features_have_the_kernel_of_the_normal_law():
    # Random features of N(0, b^2) frequencies: <f(x), f(y)> / size -> exp(-(2 pi b (x - y))^2 / 2).
    features = FourierFeatures(2000, bandwidth=0.5)
    for gap in (0.0, 0.1, 0.3, 0.6):
        product = jnp.vdot(features(jnp.asarray(0.4)), features(jnp.asarray(0.4 + gap))) / 2000
        assert abs(float(product) - np.exp(-((np.pi * gap) ** 2) / 2)) < 2e-3


@pytest.mark.parametrize("features", [FourierFeatures(16), SinusoidalFeatures(16)])
def test_frequencies_are_not_arrays_so_no_optimiser_finds_them(features):
    assert jax.tree.leaves(features) == []


@pytest.mark.parametrize("features", [FourierFeatures, SinusoidalFeatures])
@pytest.mark.parametrize("size", [0, 7])
def test_an_odd_size_is_refused(features, size):
    with pytest.raises(ValueError, match="even size"):
        features(size)


def test_a_label_adds_its_row_and_the_null_label_adds_nothing():
    embedding = ConditionEmbedding(6, num_classes=3, key=jax.random.key(0))
    for label in range(3):
        np.testing.assert_allclose(embedding(label, FLOAT32), embedding.weight[label], rtol=1e-6)
    assert not jnp.any(embedding(3, FLOAT32))
    assert not jnp.any(embedding(None, FLOAT32))


def test_a_vector_is_mapped_linearly_and_zeros_are_the_null():
    embedding = ConditionEmbedding(6, condition_size=4, key=jax.random.key(0))
    vector = jnp.array([0.5, -1.0, 2.0, 0.0])
    np.testing.assert_allclose(embedding(vector, FLOAT32), np.asarray(vector) @ np.asarray(embedding.weight), rtol=1e-5)
    np.testing.assert_array_equal(embedding(jnp.zeros(4), FLOAT32), embedding(None, FLOAT32))


@pytest.mark.parametrize("label", [-1, 4, np.int64(17), jnp.asarray(4)])
def test_a_concrete_label_out_of_range_is_a_value_error(label):
    embedding = ConditionEmbedding(6, num_classes=3, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"class label in \[0, 3\), or 3 for the null class; got"):
        embedding(label, FLOAT32)


def test_a_constant_label_out_of_range_is_found_under_jit_while_tracing():
    embedding = ConditionEmbedding(6, num_classes=3, key=jax.random.key(0))
    with pytest.raises(ValueError, match="got 5"):
        eqx.filter_jit(lambda: embedding(5, FLOAT32))()


@pytest.mark.parametrize("labels", [[0, -1], [4, 2]])
def test_a_traced_label_out_of_range_is_an_error(labels):
    embedding = ConditionEmbedding(6, num_classes=3, key=jax.random.key(0))
    run = eqx.filter_jit(lambda labels: jax.vmap(lambda label: embedding(label, FLOAT32))(labels))
    with pytest.raises(Exception, match=r"class label in \[0, 3\), or 3 for the null class"):
        jax.block_until_ready(run(jnp.array(labels)))
    assert run(jnp.array([0, 3])).shape == (2, 6)


@pytest.mark.parametrize("condition", [jnp.array([1, 2]), jnp.asarray(1.0)])
def test_a_label_must_be_one_integer(condition):
    embedding = ConditionEmbedding(6, num_classes=3, key=jax.random.key(0))
    with pytest.raises(ValueError, match="integer class label"):
        embedding(condition, FLOAT32)


@pytest.mark.parametrize("condition", [jnp.ones(5), jnp.ones((2, 4)), jnp.ones(4, jnp.int32)])
def test_a_vector_must_have_its_shape_and_be_floating(condition):
    embedding = ConditionEmbedding(6, condition_size=4, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"float vector of shape \(4,\)"):
        embedding(condition, FLOAT32)


@pytest.mark.parametrize("arguments", [{}, {"num_classes": 3, "condition_size": 4}])
def test_one_kind_of_condition(arguments):
    with pytest.raises(ValueError, match="give one of num_classes and condition_size"):
        ConditionEmbedding(6, **arguments, key=jax.random.key(0))


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"condition_size": 0}])
def test_a_condition_of_nothing_is_refused(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        ConditionEmbedding(6, **arguments, key=jax.random.key(0))


def test_a_condition_to_an_unconditional_embedding_is_refused():
    embedding = Embedding(FourierFeatures(8), 6, key=jax.random.key(0))
    with pytest.raises(ValueError, match="num_classes="):
        embedding(0.1, 2, FLOAT32)


def test_a_batch_of_noise_levels_is_refused():
    embedding = Embedding(FourierFeatures(8), 6, key=jax.random.key(0))
    with pytest.raises(Exception, match="c_noise"):
        embedding(jnp.ones(3), None, FLOAT32)
