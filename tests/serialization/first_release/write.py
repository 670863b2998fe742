"""How `predictor.safetensors` beside this was written, by hamflow 0.1.0; never to be run again: it must load for ever.

python tests/serialization/first_release/write.py tests/serialization/first_release/predictor.safetensors
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp

import hamflow as hf


def numbered(tree):
    """Every floating-point array filled with 0, 1/8, 2/8, ..., so that what is in the file is known exactly."""

    def fill(leaf):
        return (jnp.arange(leaf.size) / 8).astype(leaf.dtype).reshape(leaf.shape)

    return jax.tree.map(lambda leaf: fill(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


if __name__ == "__main__":
    network = hf.networks.MLP((2,), width=2, depth=1, key=jax.random.key(0))
    predictor = hf.Preconditioned(numbered(network), hf.diffusion(data_std=0.5, data_mean=0.25), 0.5, 0.25)
    rest = {"flow": hf.oscillation(frequency=2.0), "key": jax.random.key(3), "half": jnp.ones(2, jnp.bfloat16)}
    hf.save(sys.argv[1], {"predictor": predictor, **rest})
