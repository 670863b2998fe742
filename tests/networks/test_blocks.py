"""The layers against independent NumPy computations. Modules are called under jit: op by op costs seconds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from perturbation import normal, perturbed

from hamflow.networks.attention import SelfAttention
from hamflow.networks.blocks import ResidualBlock
from hamflow.networks.layers import Convolution, Linear
from hamflow.networks.normalisation import GroupNorm, num_groups
from hamflow.networks.resampling import downsample, from_patches, to_patches, upsample


@eqx.filter_jit
def call(module, *arguments, **keywords):
    return module(*arguments, **keywords)


def test_linear_is_the_matrix_product_over_the_last_axis():
    layer = perturbed(lambda: Linear(3, 4, key=jax.random.key(0)))
    x = normal(1, (2, 5, 3))
    expected = np.einsum("abi,io->abo", np.asarray(x), np.asarray(layer.weight)) + np.asarray(layer.bias)
    np.testing.assert_allclose(call(layer, x), expected, rtol=1e-5, atol=1e-6)


def test_convolution_is_the_sum_over_neighbours_with_zeros_outside():
    layer = perturbed(lambda: Convolution(2, 3, key=jax.random.key(0)))
    x = np.asarray(normal(1, (5, 4, 2)))
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    expected = np.zeros((5, 4, 3))
    for row in range(5):
        for column in range(4):
            window = padded[row : row + 3, column : column + 3]
            expected[row, column] = np.einsum("hwi,hwio->o", window, np.asarray(layer.weight)) + np.asarray(layer.bias)
    np.testing.assert_allclose(call(layer, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)


def test_zero_layers_are_zero():
    x = normal(0, (4, 4, 3))
    assert not jnp.any(Linear(3, 2, zero=True, key=jax.random.key(0))(x))
    assert not jnp.any(Convolution(3, 2, zero=True, key=jax.random.key(0))(x))


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_group_norm_against_numpy(mean):
    norm = perturbed(lambda: GroupNorm(12, groups=3))
    scale, shift = normal(1, (12,)), normal(2, (12,))
    x = np.asarray(normal(3, (4, 6, 12)), np.float64) * np.arange(1, 13) + mean
    x = x.astype(np.float32)
    groups = x.astype(np.float64).reshape(24, 3, 4)
    centred = groups - groups.mean(axis=(0, 2), keepdims=True)
    normed = (centred / np.sqrt(groups.var(axis=(0, 2), keepdims=True) + norm.epsilon)).reshape(4, 6, 12)
    plain = normed * np.asarray(norm.weight) + np.asarray(norm.bias)
    # A mean of 1000 leaves float32 an ulp of 6e-5 in x itself, against deviations of about 5.
    np.testing.assert_allclose(call(norm, jnp.asarray(x)), plain, rtol=0, atol=1e-5 if mean == 0 else 2e-3)
    adapted = call(norm, jnp.asarray(x), scale, shift)
    expected = plain * (1 + np.asarray(scale)) + np.asarray(shift)
    np.testing.assert_allclose(adapted, expected, rtol=0, atol=2e-5 if mean == 0 else 4e-3)


@pytest.mark.parametrize(
    ("channels", "groups", "expected"),
    [
        (128, 32, 32),
        (256, 32, 32),
        (64, 32, 16),
        (48, 32, 12),
        (36, 32, 9),
        (10, 32, 2),
        (7, 32, 1),
        (3, 32, 1),
        (128, 8, 8),
    ],
)
def test_the_rule_for_the_number_of_groups(channels, groups, expected):
    assert num_groups(channels, groups) == expected


def test_group_norm_of_half_precision_takes_its_statistics_in_single():
    x = normal(0, (4, 4, 8)) + 200.0
    norm = GroupNorm(8)
    low = call(norm, x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        low.astype(jnp.float32), call(norm, x.astype(jnp.bfloat16).astype(jnp.float32)), atol=0.02
    )


def test_resampling():
    x = normal(0, (4, 6, 3))
    np.testing.assert_array_equal(upsample(x), np.kron(np.asarray(x), np.ones((2, 2, 1))))
    np.testing.assert_allclose(downsample(upsample(x)), x, rtol=1e-6)
    by_hand = (x[0, 0] + x[0, 1] + x[1, 0] + x[1, 1]) / 4
    np.testing.assert_allclose(downsample(x)[0, 0], by_hand, rtol=1e-6)
    constant = jnp.full((4, 6, 3), 0.7)
    np.testing.assert_allclose(downsample(constant), np.full((2, 3, 3), 0.7), rtol=1e-6)
    np.testing.assert_array_equal(upsample(constant), np.full((8, 12, 3), np.float32(0.7)))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_patches_go_there_and_back_and_stay_in_place(size):
    x = normal(0, (3, 8, 4))
    patches = to_patches(x, size)
    assert patches.shape == (8 // size, 4 // size, 3 * size**2)
    np.testing.assert_array_equal(from_patches(patches, size), x)
    block = np.asarray(x)[:, size : 2 * size, 0:size]  # the patch in the second row of patches, first column
    np.testing.assert_array_equal(np.sort(np.asarray(patches[1, 0])), np.sort(block.ravel()))


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_against_numpy(heads):
    attention = perturbed(lambda: SelfAttention(8, heads=heads, key=jax.random.key(0)))
    x = normal(1, (2, 3, 8))
    qkv = np.asarray(call(attention.query_key_value, call(attention.norm, x)), np.float64).reshape(
        6, 3, heads, 8 // heads
    )
    expected = np.zeros((6, heads, 8 // heads))
    for head in range(heads):
        q, k, v = (qkv[:, i, head] for i in range(3))
        weights = np.exp(q @ k.T / np.sqrt(8 // heads))
        expected[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v
    projected = expected.reshape(2, 3, 8) @ np.asarray(attention.project.weight) + np.asarray(attention.project.bias)
    np.testing.assert_allclose(call(attention, x), (np.asarray(x) + projected) / np.sqrt(2), rtol=1e-4, atol=1e-5)


def test_attention_does_not_see_where_a_pixel_is():
    attention = perturbed(lambda: SelfAttention(8, heads=2, key=jax.random.key(0)))
    x = normal(1, (4, 4, 8))
    order = np.random.default_rng(0).permutation(16)

    def permute(y):
        return y.reshape(16, 8)[order].reshape(4, 4, 8)

    np.testing.assert_allclose(call(attention, permute(x)), permute(call(attention, x)), rtol=1e-4, atol=1e-5)
    assert float(jnp.max(jnp.abs(call(attention, x) - x / 2**0.5))) > 0.1  # and it does something


def test_attention_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 heads do not divide 8 channels"):
        SelfAttention(8, heads=3, key=jax.random.key(0))


def test_a_new_block_is_its_skip():
    block = ResidualBlock(8, 8, 4, attention=True, key=jax.random.key(0))
    x = normal(0, (4, 4, 8))
    # The sum and the attention each scale by 1/sqrt(2).
    np.testing.assert_allclose(call(block, x, normal(1, (4,))), x / 2, rtol=1e-6)


@pytest.mark.parametrize("adaptive_scale", [True, False])
def test_the_embedding_of_a_block_acts_as_scale_and_shift(adaptive_scale):
    block = perturbed(lambda: ResidualBlock(8, 12, 4, adaptive_scale=adaptive_scale, key=jax.random.key(0)))
    x, embedding = normal(0, (4, 4, 8)), normal(1, (4,))

    @eqx.filter_jit
    def by_hand(block):
        h = block.conv_in(jax.nn.silu(block.norm_in(x)))
        affine = embedding @ block.affine.weight + block.affine.bias
        if adaptive_scale:
            h = block.norm_out(h) * (1 + affine[None, None, :12]) + affine[None, None, 12:]
        else:
            h = block.norm_out(h + affine[None, None])
        return (block.project(x) + block.conv_out(jax.nn.silu(h))) / 2**0.5

    np.testing.assert_allclose(call(block, x, embedding), by_hand(block), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("resample", "side"), [("up", 8), ("down", 2), (None, 4)])
def test_the_size_a_block_returns(resample, side):
    block = ResidualBlock(8, 12, 4, resample=resample, key=jax.random.key(0))
    assert call(block, normal(0, (4, 4, 8)), normal(1, (4,))).shape == (side, side, 12)


def test_dropout_of_a_block_keeps_the_expectation():
    # Linear in what is dropped: the mean over keys of the output is the output without dropout.
    block = perturbed(lambda: ResidualBlock(4, 4, 4, dropout=0.5, key=jax.random.key(0)))
    x, embedding = normal(0, (2, 2, 4)), normal(1, (4,))
    draw = eqx.filter_jit(lambda keys: jax.vmap(lambda key: block(x, embedding, key))(keys))
    draws = np.asarray(draw(jax.random.split(jax.random.key(2), 4000)), np.float64)
    error = draws.mean(axis=0) - np.asarray(call(block, x, embedding))
    standard_error = draws.std(axis=0) / np.sqrt(4000)
    # 16 entries, each beyond 4.5 standard errors with probability 7e-6: a false alarm in 10,000 seeds.
    assert np.all(np.abs(error) < 4.5 * standard_error)
    assert np.all(standard_error > 0)
