"""A toy regression with everything a training has: random numbers in the loss, a constant that must not be trained."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class Regressor(eqx.Module):
    """A line through tanh, times a constant that belongs to the problem."""

    weight: jax.Array
    bias: jax.Array
    constant: jax.Array
    activation: Callable

    def __init__(self):
        self.weight = jnp.linspace(-0.5, 0.5, 4)
        self.bias = jnp.zeros(())
        self.activation = jnp.tanh
        self.constant = jnp.asarray(2.0, jnp.float32)

    def __call__(self, x):
        return self.constant * self.activation(jnp.dot(self.weight, x) + self.bias)


def learned(model):
    """What is trained: all but the constant."""
    return (model.weight, model.bias)


def loss(model, batch, key):
    """Squared error, with a little noise on the inputs."""
    keys = jax.random.split(key, batch["x"].shape[0])
    noise = jax.vmap(lambda k: 0.1 * jax.random.normal(k, (4,)))(keys)
    error = jax.vmap(model)(batch["x"] + noise) - batch["y"]
    return jnp.mean(error**2), {"bias": model.bias}


NUM_EXAMPLES = 64
X = np.random.default_rng(0).normal(size=(NUM_EXAMPLES, 4)).astype(np.float32)
Y = (2 * np.tanh(X @ np.array([1.0, -0.5, 0.25, 0.0], np.float32) + 0.3)).astype(np.float32)


def batch_of(seed, step, batch_size=16):
    """The batch of a step: a function of (seed, step) and of nothing else."""
    index = np.random.default_rng([seed, step]).choice(NUM_EXAMPLES, batch_size, replace=False)
    return {"x": X[index], "y": Y[index], "index": index}
