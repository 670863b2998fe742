"""Random arrays, and networks away from their zero starts. From NumPy: JAX would compile a draw for each shape."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), float)


def perturbed(make, size=1.0):
    """What `make()` would build, with every array drawn anew: weights of unit gain times `size`, biases of 0.1."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        scale = size * np.prod(leaf.shape[:-1]) ** -0.5 if len(leaf.shape) > 1 else 0.1
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(draw, eqx.filter_eval_shape(make))
