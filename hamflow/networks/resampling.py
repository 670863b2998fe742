"""Pictures made smaller and larger: halving, doubling, and patches of pixels moved into channels and back."""

import jax.numpy as jnp

from hamflow._types import Array, Float


def downsample(x: Float[Array, "height width channels"]) -> Float[Array, "height//2 width//2 channels"]:
    """Halve both sides by averaging squares of 2 x 2 pixels."""
    height, width, channels = x.shape
    return x.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))


def upsample(x: Float[Array, "height width channels"]) -> Float[Array, "2*height 2*width channels"]:
    """Double both sides by repeating each pixel."""
    return jnp.repeat(jnp.repeat(x, 2, axis=0), 2, axis=1)


def to_patches(x: Float[Array, "channels height width"], size: int) -> Float[Array, "rows columns inputs"]:
    """A channel-first image as a grid of `size` x `size` patches, the pixels of a patch as channels, channels last."""
    channels, height, width = x.shape
    x = x.reshape(channels, height // size, size, width // size, size)
    return x.transpose(1, 3, 2, 4, 0).reshape(height // size, width // size, size * size * channels)


def from_patches(patches: Float[Array, "rows columns inputs"], size: int) -> Float[Array, "channels height width"]:
    """The inverse of `to_patches`."""
    rows, columns, inputs = patches.shape
    channels = inputs // size**2
    x = patches.reshape(rows, columns, size, size, channels).transpose(4, 0, 2, 1, 3)
    return x.reshape(channels, rows * size, columns * size)
