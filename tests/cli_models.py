"""Models on the disk for the commands: what they are is known in closed form, or they are small and crooked."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import hamflow as hf

MEAN, STD = (0.4, -1.0), 0.7


def gaussian(flow, path):
    """The exact model of N(MEAN, STD^2): a network that starts at zero leaves the best linear predictor."""
    network = hf.networks.MLP((2,), width=4, depth=1, key=jr.key(0))
    hf.save(path, hf.Preconditioned(network, flow, STD, jnp.asarray(MEAN)))
    return path


def crooked(path, num_classes=None, seed=0, shape=(2,), flow=None):
    """An MLP whose output is no longer zero, so that seeds, classes and steps all matter."""
    network = hf.networks.MLP(shape, width=4, depth=1, num_classes=num_classes, key=jr.key(seed))
    weight = 0.5 * np.random.default_rng(seed).standard_normal(network.layer_out.weight.shape)
    network = eqx.tree_at(lambda n: n.layer_out.weight, network, jnp.asarray(weight, float))
    hf.save(path, hf.Preconditioned(network, flow or hf.oscillation(1.0), 1.0))
    return path


class Still(eqx.Module):
    """V = 0: data and prior are one law."""

    flow: hf.Flow

    def __call__(self, t, x, condition=None, key=None):
        return jnp.zeros_like(x)
