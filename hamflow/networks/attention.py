"""Self-attention over the pixels of a feature map: how far-apart parts of a picture agree with each other."""

import equinox as eqx
import jax
import jax.numpy as jnp

from hamflow._types import Array, Float, Key
from hamflow.networks.layers import Linear, at_least_float32
from hamflow.networks.normalisation import GroupNorm


class SelfAttention(eqx.Module):
    """softmax(q k^T / sqrt(d)) v over all pixels, added to its input (Vaswani et al. 2017; for pixels Ho et al. 2020).

    Maps (height, width, channels) to the same shape: (x + project(attend(norm(x)))) * skip_scale. It has no position
    embedding, so permuting the pixels of x permutes the result. The projection starts at zero, so the block starts as
    the identity times `skip_scale`. Scores and softmax are float32 at least.

    Args:
        channels: of the image; `heads` must divide them.
        heads: number of heads, each of channels / heads.
        groups: of the norm, at most.
        skip_scale: 1/sqrt(2) keeps the variance of a sum of two equal parts.
        key: a jax key, for the weights.

    Raises:
        ValueError: heads that do not divide the channels.
    """

    norm: GroupNorm
    query_key_value: Linear
    project: Linear
    heads: int = eqx.field(static=True)
    skip_scale: float = eqx.field(static=True)

    def __init__(
        self, channels: int, *, heads: int = 1, groups: int = 32, skip_scale: float = 0.5**0.5, key: Key[Array, ""]
    ):
        if heads < 1 or channels % heads:
            raise ValueError(
                f"attention heads must divide the channels: {heads} heads do not divide {channels} channels"
            )
        qkv_key, project_key = jax.random.split(key)
        self.norm = GroupNorm(channels, groups)
        self.query_key_value = Linear(channels, 3 * channels, key=qkv_key)
        self.project = Linear(channels, channels, zero=True, key=project_key)
        self.heads, self.skip_scale = heads, skip_scale

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "height width channels"]:
        height, width, channels = x.shape
        size = channels // self.heads
        qkv = self.query_key_value(self.norm(x)).reshape(height * width, 3, self.heads, size)
        q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        dtype = at_least_float32(x.dtype)
        scores = jnp.einsum("qhc,khc->hqk", q * size**-0.5, k, preferred_element_type=dtype)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        attended = jnp.einsum("hqk,khc->qhc", weights, v).reshape(height, width, channels)
        return (x + self.project(attended)) * self.skip_scale
