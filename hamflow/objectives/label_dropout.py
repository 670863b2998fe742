"""Label dropout: a conditional network that also learns to do without its condition, as guidance needs it."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._parameters import require
from .._types import Array, Float, Integer, PRNGKeyArray, checked


@checked
def drop_labels(
    key: PRNGKeyArray,
    labels: Integer[Array | np.ndarray, "batch"] | Float[Array | np.ndarray, "batch size"],
    rate: float,
    num_classes: int | None = None,
) -> Array:
    """Write the null condition over each row's condition with probability `rate`, independently.

    What `Guided` needs of training without a weaker model (Ho and Salimans 2022, algorithm 1; they take .1 to .2).

    Args:
        key: a jax key; row i depends on it, on i and on the number of rows.
        labels: class labels, integers of shape `(batch,)`, or condition vectors, floating, of shape `(batch, size)`.
        rate: in [0, 1).
        num_classes: of the network, whose null label it is. None for vectors, whose null is zeros.

    Returns:
        The conditions, of the same shape and dtype.

    Raises:
        ValueError: a rate outside [0, 1), labels without a number of classes, vectors with one, labels outside
            0 .. num_classes, more classes than the dtype of the labels can count.
    """
    labels = jnp.asarray(labels)
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    is_vector = jnp.issubdtype(labels.dtype, jnp.floating)
    if is_vector and num_classes is not None:
        raise ValueError("num_classes belongs to class labels, and these are condition vectors: leave it out")
    if not is_vector and num_classes is None:
        raise ValueError("num_classes must be given with class labels: the null label is num_classes")
    if num_classes is not None and not 1 <= num_classes <= jnp.iinfo(labels.dtype).max:
        raise ValueError(f"num_classes must be at least 1 and fit into {labels.dtype}, got {num_classes}")
    if num_classes is not None:
        message = f"labels must lie in 0 .. {num_classes - 1} (or be {num_classes}, the null label)"
        require(labels, lambda found: (found >= 0) & (found <= num_classes), message)
    dropped = jr.bernoulli(key, rate, labels.shape[:1])
    if is_vector:
        dropped = jnp.broadcast_to(dropped[:, None], labels.shape)
    return jnp.where(dropped, jnp.full_like(labels, num_classes or 0), labels)
