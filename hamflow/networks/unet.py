"""The U-Net of DDPM++, every size a parameter: from 0.5 million parameters for two cores to 60 million for a GPU.

Down the encoder the picture gets smaller and the channels more, up the decoder it comes back, and every encoder output
is handed across to the decoder at the same size. The shape is that of DDPM++ (Song et al. 2021, arXiv 2011.13456, as
configured in Karras et al. 2022, arXiv 2206.00364, table 7), rebuilt from those descriptions:

    stem                       a convolution to base_channels
    encoder, each level        a block that halves the size (not on the first level), then blocks_per_level blocks
    middle                     a block with attention, a block
    decoder, levels backwards  blocks_per_level + 1 blocks, each joined with one encoder output, then a block that
                               doubles the size (not on the first level)
    head                       norm, SiLU, a convolution to channels_in

At a size in `attention_resolutions` every encoder block attends, and the last decoder block.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from hamflow._types import Array, Float, Key, ScalarLike, checked
from hamflow.networks.blocks import ResidualBlock
from hamflow.networks.embedding import Condition, Embedding, FourierFeatures, SinusoidalFeatures
from hamflow.networks.layers import Convolution, check_example
from hamflow.networks.normalisation import GroupNorm
from hamflow.networks.resampling import from_patches, to_patches


class UNet(eqx.Module):
    """A U-Net of (c_noise, x) for images of shape `(channels_in, resolution, resolution)`.

    Called as `network(c_noise, x, condition=None, key=None)` on one example, with `jax.vmap` for a batch: `c_noise` a
    scalar, log(sigma)/4; `x` floating, centred and of about unit variance (`Preconditioned` sees to it); `condition` a
    label in [0, num_classes], a vector `(condition_size,)` or None, the null of both; `key` for dropout, None meaning
    inference. Returns an array of x's shape and dtype.

    The last convolution of every block and of the head start at zero, so the first prediction is that of the
    preconditioning alone, and training starts at a loss of about 1.

    Published sizes, met to the parameter but for the augmentation input (with `adaptive_scale=False`): CIFAR-10,
    `UNet(32)`, 55.7 million; FFHQ at 64, `UNet(64, channel_multipliers=(1, 2, 2, 2))`, 61.8 million. The adaptive
    scales add 4.3 and 5.1 million.

    Args:
        resolution: pixels a side, divisible by patch_size * 2^(levels - 1); the levels are the channel_multipliers.
        channels_in: of the image, 3 for colour.
        base_channels: even; what the channels of a level are multiples of.
        channel_multipliers: one for each level.
        blocks_per_level: residual blocks of an encoder level: one number, or one for each level (0 allowed).
        attention_resolutions: sizes of the feature map at which blocks attend, among those the levels have.
        embedding_multiplier: size of the embedding of noise and condition, in base_channels.
        dropout: probability in [0, 1), in every block.
        num_classes: for class labels, see `ConditionEmbedding`; at most one of this and `condition_size`.
        condition_size: for condition vectors.
        middle_attention: whether the first block of the middle attends (DDPM++: yes).
        attention_heads: must divide the channels wherever there is attention.
        groups: at most so many in a norm; each takes the largest number that divides its channels and leaves 4 a group.
        adaptive_scale: the embedding gives each block a scale and a shift after the norm; False gives a shift before
            it, as DDPM++ was published.
        patch_size: the network sees patches of so many pixels a side as channels; 2 leaves a quarter of
            the positions to compute.
        noise_features: how c_noise is spread; `SinusoidalFeatures(base_channels)` unless given.
        checkpoint: recompute each block in the backward pass, which then keeps only the inputs of blocks.
        dtype: of the computation in the blocks, such as "bfloat16"; x's own unless given. Parameters, the statistics of
            norms and the head stay in the precision they have.
        key: a jax key, for the weights.

    Raises:
        ValueError: sizes that do not fit, named, with what to try; an x of another shape; a condition to a network
            without one; a label out of range.
        TypeError: an x that is not floating.

    ```python
    network = UNet(32, base_channels=32, channel_multipliers=(1, 2), blocks_per_level=1,
                   attention_resolutions=(), dropout=0.0, patch_size=2, key=jax.random.key(0))
    velocities = jax.vmap(network)(c_noise, images)  # (batch,), (batch, 3, 32, 32) -> (batch, 3, 32, 32)
    ```
    """

    embedding: Embedding
    stem: Convolution
    encoder: list[ResidualBlock]
    middle: list[ResidualBlock]
    decoder: list[ResidualBlock]
    norm_out: GroupNorm
    conv_out: Convolution
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    patch_size: int = eqx.field(static=True)
    checkpoint: bool = eqx.field(static=True)
    dtype: str | None = eqx.field(static=True)

    @checked
    def __init__(
        self,
        resolution: int,
        channels_in: int = 3,
        base_channels: int = 128,
        channel_multipliers: Sequence[int] = (2, 2, 2),
        blocks_per_level: int | Sequence[int] = 4,
        attention_resolutions: Sequence[int] = (16,),
        embedding_multiplier: int = 4,
        dropout: float = 0.1,
        num_classes: int | None = None,
        condition_size: int | None = None,
        *,
        middle_attention: bool = True,
        attention_heads: int = 1,
        groups: int = 32,
        adaptive_scale: bool = True,
        patch_size: int = 1,
        noise_features: SinusoidalFeatures | FourierFeatures | None = None,
        checkpoint: bool = False,
        dtype: str | None = None,
        key: Key[Array, ""],
    ):
        if base_channels < 2 or base_channels % 2:
            raise ValueError(f"base_channels must be even and at least 2, got {base_channels}")
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        levels = len(widths)
        blocks = [blocks_per_level] * levels if isinstance(blocks_per_level, int) else list(blocks_per_level)
        _check_positive(channels_in=channels_in, embedding_multiplier=embedding_multiplier, groups=groups)
        _check_positive(patch_size=patch_size, attention_heads=attention_heads, resolution=resolution)
        sizes = _check_levels(resolution, patch_size, widths, blocks, attention_resolutions)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if dtype is not None and not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
            raise ValueError(f"dtype must name a floating dtype such as 'bfloat16', got {dtype!r}")

        embedding_size = base_channels * embedding_multiplier
        attends = [size in attention_resolutions for size in sizes]
        keys = iter(jax.random.split(key, 5 + 2 * sum(blocks) + 3 * levels))

        def block(inputs, outputs, resample=None, attention=False):
            return ResidualBlock(
                inputs,
                outputs,
                embedding_size,
                resample=resample,
                attention=attention,
                attention_heads=attention_heads,
                groups=groups,
                adaptive_scale=adaptive_scale,
                dropout=dropout,
                key=next(keys),
            )

        features = SinusoidalFeatures(base_channels) if noise_features is None else noise_features
        self.embedding = Embedding(
            features, embedding_size, num_classes=num_classes, condition_size=condition_size, key=next(keys)
        )
        self.stem = Convolution(channels_in * patch_size**2, base_channels, key=next(keys))
        channels = base_channels
        skips = [channels]  # channels of the encoder's outputs, which the decoder takes from the end
        self.encoder, self.decoder = [], []
        for level in range(levels):
            if level > 0:
                self.encoder.append(block(channels, channels, "down"))
                skips.append(channels)
            for _ in range(blocks[level]):
                self.encoder.append(block(channels, widths[level], attention=attends[level]))
                channels = widths[level]
                skips.append(channels)
        self.middle = [block(channels, channels, attention=middle_attention), block(channels, channels)]
        for level in reversed(range(levels)):
            for i in range(blocks[level] + 1):
                last = i == blocks[level]
                self.decoder.append(block(channels + skips.pop(), widths[level], attention=attends[level] and last))
                channels = widths[level]
            if level > 0:
                self.decoder.append(block(channels, channels, "up"))
        self.norm_out = GroupNorm(channels, groups)
        self.conv_out = Convolution(channels, channels_in * patch_size**2, zero=True, key=next(keys))
        self.image_shape = (channels_in, resolution, resolution)
        self.patch_size, self.checkpoint, self.dtype = patch_size, checkpoint, dtype

    def __call__(
        self,
        c_noise: ScalarLike,
        x: Float[Array, "channels height width"],
        condition: Condition = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "channels height width"]:
        check_example(x, self.image_shape)
        dtype = x.dtype if self.dtype is None else jnp.dtype(self.dtype)
        embedding = self.embedding(c_noise, condition, x.dtype).astype(dtype)
        num_blocks = len(self.encoder) + len(self.middle) + len(self.decoder)
        keys = iter([None] * num_blocks if key is None else jax.random.split(key, num_blocks))

        def run(block, h):
            apply = eqx.filter_checkpoint(block) if self.checkpoint else block
            return apply(h, embedding, next(keys))

        h = self.stem(to_patches(x.astype(dtype), self.patch_size))
        skips = [h]
        for block in self.encoder:
            h = run(block, h)
            skips.append(h)
        for block in self.middle:
            h = run(block, h)
        for block in self.decoder:
            joins = block.resample is None
            h = run(block, jnp.concatenate([h, skips.pop()], axis=-1) if joins else h)
        h = h.astype(x.dtype)
        return from_patches(self.conv_out(jax.nn.silu(self.norm_out(h))), self.patch_size)


def _check_positive(**sizes):
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _check_levels(resolution, patch_size, widths, blocks, attention_resolutions):
    """The size of the feature map on each level, after refusing what does not fit."""
    levels = len(widths)
    if levels == 0 or min(widths) < 1:
        raise ValueError("channel_multipliers must be positive whole numbers, one for each level, and at least one")
    if len(blocks) != levels or min(blocks) < 0:
        raise ValueError(
            f"blocks_per_level must be one number, or one for each of the {levels} levels, not negative; got {blocks}"
        )
    unit = patch_size * 2 ** (levels - 1)
    if resolution % unit:
        nearest = max(unit, round(resolution / unit) * unit)
        raise ValueError(
            f"resolution {resolution} is not divisible by {unit} = patch_size * 2^(levels - 1) with patch_size="
            f"{patch_size} and {levels} levels: try resolution={nearest}, or fewer channel_multipliers"
        )
    sizes = [resolution // patch_size // 2**level for level in range(levels)]
    missed = [size for size in attention_resolutions if size not in sizes]
    if missed:
        raise ValueError(
            f"attention_resolutions {missed} are never reached: the levels have sizes {sizes}; choose among those, or "
            "attention_resolutions=() for attention in the middle only"
        )
    return sizes
