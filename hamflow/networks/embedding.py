"""How a network learns which noise level it is at, and which class or condition it is asked for.

The noise level arrives as one number, c_noise = log(sigma)/4. A smooth function of one number is easy to learn from
many sines of it, so the number is spread over frequencies first (`SinusoidalFeatures`, `FourierFeatures`). Both sets of
frequencies are formulas of Python numbers, not arrays: an optimiser that walks over the arrays of a module (weight
decay does) cannot move them, and a saved network needs no entry for them.

A condition is added to those features. **The null condition adds nothing**: it is the all-zero vector of a float
condition, the label `num_classes` of a class condition, and `None` of both. So classifier-free guidance needs no extra
parameter, and a training step drops a label by writing `num_classes` over it, which is what `hamflow.drop_labels` does:

    labels = hf.drop_labels(key, labels, 0.1, num_classes)
"""

import math
from statistics import NormalDist
from typing import TypeAlias

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from hamflow._types import Array, Float, Key, ScalarLike, checked
from hamflow.networks.layers import Linear, at_least_float32

Condition: TypeAlias = Array | np.ndarray | np.integer | int | None
"""A class label or a float vector of one example, or None for the null condition."""


class SinusoidalFeatures(eqx.Module):
    """Cosines and sines of scale c_noise at geometrically spaced frequencies, from 1 down to 1 / max_period.

    Frequency i is max_period^(-i / (size/2 - 1)): the positional encoding of Vaswani et al. 2017 (arXiv 1706.03762) as
    diffusion models use it for the noise level (Ho et al. 2020, arXiv 2006.11239; DDPM++ in Karras et al. 2022).

    Maps a scalar to shape `(size,)`, in the scalar's dtype.

    Args:
        size: even, half of it cosines and half sines.
        max_period: of the slowest sine, over 2 pi.
        scale: c_noise lies in about [-2, 2]; 1 is the published form, a larger one resolves it more finely.

    Raises:
        ValueError: a size that is not even.
    """

    size: int = eqx.field(static=True)
    max_period: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    @checked
    def __init__(self, size: int, max_period: float = 10_000.0, scale: float = 1.0):
        _check_even("SinusoidalFeatures", size)
        self.size, self.max_period, self.scale = size, max_period, scale

    def __call__(self, c_noise: Float[Array, ""]) -> Float[Array, " size"]:
        half = self.size // 2
        return _cos_sin(c_noise, [self.scale * self.max_period ** (-i / max(half - 1, 1)) for i in range(half)])


class FourierFeatures(eqx.Module):
    """Cosines and sines of 2 pi f c_noise, times sqrt(2), with the f spread as N(0, bandwidth^2).

    Random Fourier features (Tancik et al. 2020, arXiv 2006.10739; NCSN++ in Song et al. 2021) without the randomness:
    for one number the `size`/2 frequencies need not be drawn, since the quantiles of the normal law represent it better
    and are the same in every run. The factor gives every entry a mean square of about 1.

    Maps a scalar to shape `(size,)`, in the scalar's dtype.

    Args:
        size: even, half of it cosines and half sines.
        bandwidth: in cycles a unit of c_noise.

    Raises:
        ValueError: a size that is not even.
    """

    size: int = eqx.field(static=True)
    bandwidth: float = eqx.field(static=True)

    @checked
    def __init__(self, size: int, bandwidth: float = 1.0):
        _check_even("FourierFeatures", size)
        self.size, self.bandwidth = size, bandwidth

    def __call__(self, c_noise: Float[Array, ""]) -> Float[Array, " size"]:
        # A cosine and a sine cannot tell f from -f, so the quantiles are those of |f|.
        quantiles = [NormalDist().inv_cdf(0.5 + (i + 0.5) / self.size) for i in range(self.size // 2)]
        return math.sqrt(2) * _cos_sin(c_noise, [2 * math.pi * self.bandwidth * q for q in quantiles])


class ConditionEmbedding(eqx.Module):
    """A linear map of a class label or of a float vector, without bias, so that the null condition gives exactly zero.

    Called as `embedding(condition, dtype)`; returns shape `(size,)`. With `num_classes`, `condition` is an integer
    scalar in [0, num_classes], and `num_classes` itself is the null label. With `condition_size`, it is a float vector
    of shape `(condition_size,)`, and zeros are the null. `None` is the null of both.

    Args:
        size: of the result.
        num_classes: for labels; give this or `condition_size`.
        condition_size: for vectors.
        key: a jax key, for the weights.

    Raises:
        ValueError: both or neither of the two; a condition of another shape or kind; a concrete label out of range.
        RuntimeError: from Equinox, when a traced label is out of range (under `jit`, at run time).
    """

    weight: Float[Array, "inputs size"]
    num_classes: int | None = eqx.field(static=True)

    @checked
    def __init__(
        self, size: int, *, num_classes: int | None = None, condition_size: int | None = None, key: Key[Array, ""]
    ):
        given = [inputs for inputs in (num_classes, condition_size) if inputs is not None]
        if len(given) != 1:
            raise ValueError(
                "a condition is either a class label or a float vector: give one of num_classes and condition_size, "
                f"got num_classes={num_classes} and condition_size={condition_size}"
            )
        if given[0] < 1:
            raise ValueError(f"num_classes or condition_size must be at least 1, got {given[0]}")
        # A label adds one row, which has the size of the noise features; a vector adds a sum over its entries.
        std = 1.0 if condition_size is None else condition_size**-0.5
        self.weight = std * jax.random.normal(key, (given[0], size))
        self.num_classes = num_classes

    def __call__(self, condition: Condition, dtype: jnp.dtype) -> Float[Array, " size"]:
        inputs, size = self.weight.shape
        if condition is None:
            return jnp.zeros((size,), dtype)
        if self.num_classes is None:
            vector = jnp.asarray(condition)
            if vector.shape != (inputs,) or not jnp.issubdtype(vector.dtype, jnp.floating):
                raise ValueError(
                    f"condition must be a float vector of shape ({inputs},) for one example, got {vector.dtype} of "
                    f"shape {vector.shape}; a batch of conditions is mapped with jax.vmap, together with x"
                )
        else:
            label = _checked_label(condition, self.num_classes)
            vector = jax.nn.one_hot(label, inputs, dtype=dtype)  # all zeros for the null label
        return vector.astype(dtype) @ self.weight.astype(dtype)


class Embedding(eqx.Module):
    """The vector that steers every block of a network: noise features, plus the condition, through two layers.

    Called as `embedding(c_noise, condition, dtype)`, it returns SiLU(out(SiLU(hidden(features(c_noise) + condition)))),
    of shape `(size,)`.

    Args:
        features: of the noise level.
        size: of the result and of the hidden layer.
        num_classes: for class labels, see `ConditionEmbedding`; at most one of this and `condition_size`.
        condition_size: for condition vectors.
        key: a jax key, for the weights.

    Raises:
        ValueError: a condition given to an embedding built for none; a c_noise that is not a scalar.
    """

    features: SinusoidalFeatures | FourierFeatures
    condition: ConditionEmbedding | None
    hidden: Linear
    out: Linear

    @checked
    def __init__(
        self,
        features: SinusoidalFeatures | FourierFeatures,
        size: int,
        *,
        num_classes: int | None = None,
        condition_size: int | None = None,
        key: Key[Array, ""],
    ):
        condition_key, hidden_key, out_key = jax.random.split(key, 3)
        self.features = features
        self.condition = None
        if num_classes is not None or condition_size is not None:
            self.condition = ConditionEmbedding(
                features.size, num_classes=num_classes, condition_size=condition_size, key=condition_key
            )
        self.hidden = Linear(features.size, size, key=hidden_key)
        self.out = Linear(size, size, key=out_key)

    def __call__(self, c_noise: ScalarLike, condition: Condition, dtype: jnp.dtype) -> Float[Array, " size"]:
        if jnp.shape(c_noise) != ():
            raise ValueError(
                f"c_noise must be a scalar, one for one example, got shape {jnp.shape(c_noise)}; a batch is mapped "
                "with jax.vmap, together with x"
            )
        # The sines need the precision: bfloat16 would round an angle by parts of a radian.
        h = self.features(jnp.asarray(c_noise).astype(at_least_float32(dtype))).astype(dtype)
        if self.condition is not None:
            h = h + self.condition(condition, dtype)
        elif condition is not None:
            raise ValueError(
                "a condition was given to an unconditional network: build it with num_classes=... for class labels or "
                "condition_size=... for float vectors, or leave condition=None"
            )
        return jax.nn.silu(self.out(jax.nn.silu(self.hidden(h))))


def _cos_sin(c_noise, frequencies):
    angles = c_noise * jnp.asarray(frequencies, c_noise.dtype)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


def _check_even(name, size):
    if size < 2 or size % 2:
        raise ValueError(f"{name} needs an even size of at least 2 (a cosine and a sine each frequency), got {size}")


def _checked_label(condition, num_classes):
    traced = isinstance(condition, jax.core.Tracer)
    # A concrete label stays with NumPy: under jit even a comparison of JAX constants is traced.
    label = condition if traced else np.asarray(condition)
    if label.shape != () or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(
            f"condition must be an integer class label, one scalar for one example, got {label.dtype} of shape "
            f"{label.shape}; a batch of labels is mapped with jax.vmap, together with x"
        )
    message = f"condition must be a class label in [0, {num_classes}), or {num_classes} for the null class"
    outside = (label < 0) | (label > num_classes)
    if traced:
        return eqx.error_if(label, outside, f"{message}; check the labels, or build the network with more classes")
    if outside:
        raise ValueError(f"{message}; got {int(label)}")
    return jnp.asarray(label)
