"""A network for points: positions of any shape with no neighbourhoods in them, such as 2-D densities."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from hamflow._types import Array, Float, Key, ScalarLike, checked
from hamflow.networks.embedding import Condition, Embedding, FourierFeatures, SinusoidalFeatures
from hamflow.networks.layers import Linear, check_example


class SteeredLayer(eqx.Module):
    """A hidden layer steered by the embedding: y = (1 + scale) linear(SiLU(h)) + shift (FiLM, Perez et al. 2018).

    With a residual it returns h + residual(dropout(SiLU(y))), where `residual` starts at a share of its usual size that
    keeps a deep stack tame: at zero, nothing before the output layer would learn from the first step, and see
    `_layer_in`. Without a residual it returns dropout(y).
    """

    linear: Linear
    affine: Linear
    dropout: eqx.nn.Dropout
    residual: Linear | None

    def __init__(self, width: int, embedding_size: int, dropout: float, residual: float, *, key: Key[Array, ""]):
        linear_key, affine_key, residual_key = jax.random.split(key, 3)
        self.linear = Linear(width, width, key=linear_key)
        self.affine = Linear(embedding_size, 2 * width, key=affine_key)
        self.dropout = eqx.nn.Dropout(dropout)
        self.residual = None
        if residual:
            layer = Linear(width, width, key=residual_key)
            self.residual = eqx.tree_at(lambda layer: layer.weight, layer, residual * layer.weight)

    def __call__(
        self, h: Float[Array, " width"], embedding: Float[Array, " size"], key: Key[Array, ""] | None
    ) -> Float[Array, " width"]:
        y = self.linear(jax.nn.silu(h))
        scale, shift = jnp.split(self.affine(embedding), 2)
        y = y * (1 + scale) + shift
        if self.residual is None:
            return self.dropout(y, key=key, inference=key is None)
        return h + self.residual(self.dropout(jax.nn.silu(y), key=key, inference=key is None))


class MLP(eqx.Module):
    """A multilayer perceptron of (c_noise, x), for points of any shape, which are ravelled inside.

    The noise level is not one more coordinate: it steers every hidden layer by a scale and a shift, so that the same
    features can be sharp at low noise and smooth at high noise. The output layer starts at zero: the first prediction
    is that of the preconditioning alone, the best linear one, so training starts at a loss of about 1 and never has to
    undo a random function.

    Called as `network(c_noise, x, condition=None, key=None)` on one example, with `jax.vmap` for a batch: `c_noise` a
    scalar, log(sigma)/4; `x` floating, of shape `event_shape`, centred and of about unit variance (`Preconditioned`
    sees to it); `condition` a label in [0, num_classes], a vector `(condition_size,)` or None, the null of both; `key`
    for dropout, None meaning inference. Returns an array of x's shape and dtype.

    Args:
        event_shape: the shape of one example, or an integer d for `(d,)`.
        width: of the hidden layers and of the embedding.
        depth: number of hidden layers (residual: of blocks of two layers).
        num_classes: for class labels, see `ConditionEmbedding`; at most one of this and `condition_size`.
        condition_size: for condition vectors.
        residual: whether each hidden layer adds to its input.
        dropout: probability in [0, 1).
        position_octaves: so many cosines and sines of each coordinate, at 1, 2, 4, ... radians a unit, are given to the
            first layer beside x. For sharp edges in few dimensions: on a checkerboard 4 took a quarter off the error.
        noise_features: how c_noise is spread; `FourierFeatures(64)` unless given.
        key: a jax key, for the weights.

    Raises:
        ValueError: sizes that are not positive; an x of another shape; a condition to a network without one; a label
            out of range.
        TypeError: an x that is not floating.

    ```python
    network = MLP((2,), width=128, depth=3, key=jax.random.key(0))
    velocities = jax.vmap(network)(c_noise, points)  # (batch,), (batch, 2) -> (batch, 2)
    ```
    """

    embedding: Embedding
    layer_in: Linear
    layers: list[SteeredLayer]
    layer_out: Linear
    event_shape: tuple[int, ...] = eqx.field(static=True)
    position_octaves: int = eqx.field(static=True)

    @checked
    def __init__(
        self,
        event_shape: int | Sequence[int],
        width: int = 128,
        depth: int = 3,
        *,
        num_classes: int | None = None,
        condition_size: int | None = None,
        residual: bool = True,
        dropout: float = 0.0,
        position_octaves: int = 0,
        noise_features: FourierFeatures | SinusoidalFeatures | None = None,
        key: Key[Array, ""],
    ):
        shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        if any(n < 1 for n in shape) or width < 1 or depth < 1 or position_octaves < 0:
            raise ValueError(
                "MLP needs positive sizes and position_octaves of 0 or more, "
                f"got event_shape={shape}, width={width}, depth={depth}, position_octaves={position_octaves}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        features = FourierFeatures(64) if noise_features is None else noise_features
        size = math.prod(shape)
        embedding_key, in_key, layers_key, out_key = jax.random.split(key, 4)
        self.embedding = Embedding(
            features, width, num_classes=num_classes, condition_size=condition_size, key=embedding_key
        )
        self.layer_in = _layer_in(size * (1 + 2 * position_octaves), width, in_key)
        self.layers = [
            SteeredLayer(width, width, dropout, depth**-0.5 if residual else 0.0, key=layer_key)
            for layer_key in jax.random.split(layers_key, depth)
        ]
        self.layer_out = Linear(width, size, zero=True, key=out_key)
        self.event_shape, self.position_octaves = shape, position_octaves

    def __call__(
        self,
        c_noise: ScalarLike,
        x: Float[Array, "*event"],
        condition: Condition = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "*event"]:
        check_example(x, self.event_shape)
        embedding = self.embedding(c_noise, condition, x.dtype)
        keys = [None] * len(self.layers) if key is None else jax.random.split(key, len(self.layers))
        angles = [2.0**i * x.ravel() for i in range(self.position_octaves)]
        h = self.layer_in(jnp.concatenate([x.ravel(), *map(jnp.cos, angles), *map(jnp.sin, angles)]))
        for layer, layer_key in zip(self.layers, keys, strict=True):
            h = layer(h, embedding, layer_key)
        return self.layer_out(jax.nn.silu(h)).reshape(x.shape)


def _layer_in(inputs: int, width: int, key: Key[Array, ""]) -> Linear:
    """Features of about unit variance, bent at places of their own: biases from -1 to 1.

    Few inputs and small weights would leave every SiLU where it is nearly a line plus an even function. Preconditioning
    leaves nothing for lines to learn, and data that look the same from both sides of their mean nothing for even
    functions: a network without biases then starts at a saddle. On a ring of eight Gaussians it never left it.
    """
    weight_key, bias_key = jax.random.split(key)
    weight = jax.random.normal(weight_key, (inputs, width)) / inputs**0.5
    bias = jax.random.uniform(bias_key, (width,), minval=-1.0, maxval=1.0)
    layer = Linear(inputs, width, zero=True, key=key)
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (weight, bias))
