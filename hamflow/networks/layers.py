"""The two layers with weights: a linear map of channels and a convolution, channels last.

An image is (height, width, channel) inside a network, because XLA's convolutions on the CPU are 2 to 10% faster so, and
because the tensor cores of a GPU read it so. Parameters are stored in JAX's default float and **cast to the dtype of
what they meet**: the same float32 network runs on float32, float64 or bfloat16 and never promotes.

Every activation between layers is SiLU: smooth, as the divergence of a velocity wants it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from hamflow._types import Array, Float, Key

_glorot = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class Linear(eqx.Module):
    """x @ weight + bias over the last axis of x, whatever its other axes; `zero=True` starts at the zero map."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False, key: Key[Array, ""]):
        self.weight = jnp.zeros((inputs, outputs)) if zero else _glorot(key, (inputs, outputs))
        self.bias = jnp.zeros((outputs,))

    def __call__(self, x: Float[Array, "*axes inputs"]) -> Float[Array, "*axes outputs"]:
        return _add_bias(x @ self.weight.astype(x.dtype), self.bias)


class Convolution(eqx.Module):
    """A square convolution of one (height, width, channel) image, of stride 1, padded with zeros to keep its size.

    `zero=True` starts at the zero map. A kernel of one pixel is a `Linear`.
    """

    weight: Float[Array, "kernel kernel inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3, *, zero: bool = False, key: Key[Array, ""]):
        shape = (kernel_size, kernel_size, inputs, outputs)
        self.weight = jnp.zeros(shape) if zero else _glorot(key, shape)
        self.bias = jnp.zeros((outputs,))

    def __call__(self, x: Float[Array, "height width inputs"]) -> Float[Array, "height width outputs"]:
        weight = self.weight.astype(x.dtype)
        y = lax.conv_general_dilated(x[None], weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
        return _add_bias(y, self.bias)


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """float32 for half precisions, the dtype itself for others: where a sum or an angle needs the digits."""
    return jnp.dtype("float32") if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def check_example(x: Array, shape: tuple[int, ...]) -> None:
    """Refuse an x that is not one floating example of this shape: `TypeError` for its dtype, `ValueError` otherwise."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be floating, got {x.dtype}: scale it to about unit variance first")
    if x.shape != shape:
        raise ValueError(
            f"x must be one example of shape {shape}, got {x.shape}; a batch is mapped with jax.vmap(network)"
        )


def _add_bias(x, bias):
    return x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
