"""The exponential moving average of the weights, by its half-life in images."""

import equinox as eqx
import jax
import jax.numpy as jnp

from hamflow._types import Array, PyTree, Scalar


class ExponentialMovingAverage(eqx.Module):
    """Average the weights with a half-life counted in images, so that it means the same at every batch size.

    After a step on a batch of b images, with N images seen before it,

        ema <- beta ema + (1 - beta) model,    beta = (1/2)^(b / max(h, 1e-8)),    h = min(halflife_images, ratio N).

    The ramp-up h <= ratio N lets the average forget the random start. Pass `rampup_ratio=None` to have none.
    Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", appendix F.2
    (half-life .5 M images for CIFAR-10 and FFHQ at 64x64, ratio .05).
    """

    halflife_images: float | int = 500_000.0
    rampup_ratio: float | int | None = 0.05

    def __check_init__(self):
        if not self.halflife_images >= 0:
            raise ValueError(f"halflife_images is {self.halflife_images}: it must not be negative.")
        if self.rampup_ratio is not None and not self.rampup_ratio > 0:
            raise ValueError(f"rampup_ratio is {self.rampup_ratio}: it must be positive, or None for no ramp-up.")

    def decay(self, images: Array, batch_size: int) -> Scalar:
        """beta of the step that follows `images` images and takes `batch_size` more."""
        dtype = jnp.result_type(float)
        halflife = jnp.asarray(self.halflife_images, dtype)
        if self.rampup_ratio is not None:
            halflife = jnp.minimum(halflife, images.astype(dtype) * self.rampup_ratio)
        return jnp.exp2(-batch_size / jnp.maximum(halflife, 1e-8))

    def update(self, ema: PyTree, model: PyTree, images: Array, batch_size: int) -> PyTree:
        """The average after a step that led to `model`; all leaves of both trees are floating-point arrays."""
        beta = self.decay(images, batch_size)
        return jax.tree.map(lambda e, m: m + beta.astype(e.dtype) * (e - m), ema, model)
