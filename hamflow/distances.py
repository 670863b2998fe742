"""How far two laws are apart, from draws, with the noise that draws of one law have among themselves."""

from collections.abc import Callable

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._types import Array, PRNGKeyArray


def projected_distance(
    key: PRNGKeyArray, found: Array, draw: Callable[[PRNGKeyArray], Array], num_projections: int = 64
) -> tuple[float, float]:
    """The distance of `found`, of shape `(n, *event)`, from the law that `draw(key)` draws n examples of.

    Returns:
        The largest Wasserstein-1 distance over the first 16 coordinates and random projections, each in the standard
        deviation of the law, and its noise floor: the largest such distance among eight pairs of draws of the law.
    """
    size = found[0].size
    directions = jr.normal(jr.fold_in(key, 5), (size, num_projections))
    axes = jnp.eye(size)[:, : min(size, 16)]
    directions = jnp.concatenate([axes, directions / jnp.linalg.norm(directions, axis=0, keepdims=True)], axis=1)

    def projected(x: Array) -> np.ndarray:
        return np.sort(np.asarray(x.reshape(len(x), -1) @ directions.astype(x.dtype)), axis=0)

    draws = [projected(draw(jr.fold_in(key, 100 + i))) for i in range(9)]
    scale = np.maximum(np.std(draws[0], axis=0), 1e-12)

    def between(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.max(np.mean(np.abs(a - b), axis=0) / scale))

    return between(projected(found), draws[0]), max(between(draws[0], other) for other in draws[1:])
