"""The residual block of DDPM++: two convolutions steered by the embedding, which can halve or double the picture."""

from typing import Literal

import equinox as eqx
import jax

from hamflow._types import Array, Float, Key
from hamflow.networks.attention import SelfAttention
from hamflow.networks.layers import Convolution, Linear
from hamflow.networks.normalisation import GroupNorm
from hamflow.networks.resampling import downsample, upsample


class ResidualBlock(eqx.Module):
    """norm, SiLU, resample, conv, adaptive norm, SiLU, dropout, conv; added to the input; then attention, if asked.

    Adaptive group normalisation (Dhariwal and Nichol 2021): the embedding gives the second norm a scale and a shift for
    each channel. The input passes a linear map of its channels where they change, and where the block resamples. The
    sum is scaled by 1/sqrt(2), which keeps the variance of two equal parts (Song et al. 2021). The second convolution
    starts at zero, so a block starts as its skip alone.

    Maps (height, width, inputs), an embedding `(embedding_size,)` and a dropout key (None: no dropout) to an image of
    `outputs` channels; height and width are doubled, halved or kept.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        embedding_size: of the embedding.
        resample: "up", "down" or None.
        attention: whether to attend over pixels at the end.
        attention_heads: with how many heads.
        groups: of the norms, at most.
        dropout: probability in [0, 1), before the second convolution.
        adaptive_scale: False gives a shift only, before the norm, which is DDPM++ as published.
        skip_scale: of both sums.
        key: a jax key, for the weights.
    """

    norm_in: GroupNorm
    conv_in: Convolution
    affine: Linear
    norm_out: GroupNorm
    dropout: eqx.nn.Dropout
    conv_out: Convolution
    project: Linear | None
    attention: SelfAttention | None
    resample: Literal["up", "down"] | None = eqx.field(static=True)
    adaptive_scale: bool = eqx.field(static=True)
    skip_scale: float = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding_size: int,
        *,
        resample: Literal["up", "down"] | None = None,
        attention: bool = False,
        attention_heads: int = 1,
        groups: int = 32,
        dropout: float = 0.0,
        adaptive_scale: bool = True,
        skip_scale: float = 0.5**0.5,
        key: Key[Array, ""],
    ):
        keys = jax.random.split(key, 5)
        self.norm_in = GroupNorm(inputs, groups)
        self.conv_in = Convolution(inputs, outputs, key=keys[0])
        self.affine = Linear(embedding_size, outputs * (2 if adaptive_scale else 1), key=keys[1])
        self.norm_out = GroupNorm(outputs, groups)
        self.dropout = eqx.nn.Dropout(dropout)
        self.conv_out = Convolution(outputs, outputs, zero=True, key=keys[2])
        projects = resample is not None or inputs != outputs
        self.project = Linear(inputs, outputs, key=keys[3]) if projects else None
        self.attention = None
        if attention:
            self.attention = SelfAttention(
                outputs, heads=attention_heads, groups=groups, skip_scale=skip_scale, key=keys[4]
            )
        self.resample, self.adaptive_scale, self.skip_scale = resample, adaptive_scale, skip_scale

    def __call__(
        self,
        x: Float[Array, "height width inputs"],
        embedding: Float[Array, " size"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "height2 width2 outputs"]:
        h = self.conv_in(self._resampled(jax.nn.silu(self.norm_in(x))))
        affine = self.affine(embedding)
        if self.adaptive_scale:
            channels = h.shape[-1]
            h = self.norm_out(h, scale=affine[:channels], shift=affine[channels:])
        else:
            h = self.norm_out(h + affine[None, None])
        h = self.conv_out(self.dropout(jax.nn.silu(h), key=key, inference=key is None))
        skip = self._resampled(x)
        if self.project is not None:
            skip = self.project(skip)
        h = (skip + h) * self.skip_scale
        return h if self.attention is None else self.attention(h)

    def _resampled(self, x):
        if self.resample is None:
            return x
        return upsample(x) if self.resample == "up" else downsample(x)
