"""What happens to a batch inside the jitted step: uint8 travels to the device, floats are made there."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Num, UInt8

from hamflow._types import Array, Float, Key, checked


@checked
def to_float(images: UInt8[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """Map uint8 pixels u of any shape to float32 x = u / 127.5 - 1 in [-1, 1]; 0 is black, 255 white.

    x = to_float(batch["image"])
    """
    # Written as (u - 127.5) / 127.5 with a product: u / 127.5 - 1 becomes a fused multiply-add under jit, which makes
    # white 1.0000001, outside [-1, 1], where a box would refuse it.
    return (jnp.asarray(images).astype(jnp.float32) - 127.5) * (1 / 127.5)


@checked
def to_uint8(x: Float[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
    """Map x to pixels round(127.5 (x + 1)), clipped to 0, ..., 255: the exact inverse of `to_float` on its values.

    A NaN is an error, in `jit` too; infinities are clipped.
    """
    message = "x holds NaN, which has no colour. Look at what made it: a step too long, a predictor that diverged."
    x = eqx.error_if(jnp.asarray(x), jnp.isnan(x).any(), message)
    return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)


@checked
def random_flip(
    key: Key[Array, ""], images: Num[Array, "batch channel height width"]
) -> Num[Array, "batch channel height width"]:
    """Mirror each picture of a batch (batch, channel, height, width) left to right with probability 1/2, independently.

    The dtype, uint8 or float, is kept. Row i depends on `key`, i and the batch size.

        x = to_float(random_flip(key, batch["image"]))
    """
    flip = jax.random.bernoulli(key, 0.5, (images.shape[0],))
    return jnp.where(flip[:, None, None, None], images[..., ::-1], images)
