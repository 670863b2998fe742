"""The smallest network that has every part of a real one: weights, a time input, a condition and a dropout key."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np


class TinyNetwork(eqx.Module):
    """tanh(W [c_noise, x, condition]) through a second matrix; dropout at rate 1/2 on the hidden layer with a key."""

    hidden: jnp.ndarray
    output: jnp.ndarray

    def __init__(self, size: int, width: int = 16, *, condition_size: int = 0, seed: int = 0, dtype=np.float32):
        draw = np.random.default_rng(seed).normal  # not jax's: nothing to compile
        self.hidden = jnp.asarray(draw(size=(width, size + 1 + condition_size)), dtype)
        self.output = jnp.asarray(draw(size=(size, width)) / width**0.5, dtype)

    def __call__(self, c_noise, x, condition=None, key=None):
        inputs = [c_noise.reshape(1), x.reshape(-1)] + ([] if condition is None else [condition.reshape(-1)])
        hidden = jnp.tanh(self.hidden.astype(x.dtype) @ jnp.concatenate(inputs))
        if key is not None:
            hidden = hidden * 2 * jr.bernoulli(key, shape=hidden.shape).astype(x.dtype)
        return (self.output.astype(x.dtype) @ hidden).reshape(x.shape)
