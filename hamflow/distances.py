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
    directions = _directions(key, found, num_projections)
    draws = [np.sort(_projected(draw(jr.fold_in(key, 100 + i)), directions), axis=0) for i in range(9)]
    scale = _scale(draws[0], np.concatenate(draws))
    floor = max(_between(draws[0], other, scale) for other in draws[1:])
    return _between(np.sort(_projected(found, directions), axis=0), draws[0], scale), floor


def two_sample_distance(
    key: PRNGKeyArray, found: Array, expected: Array, num_projections: int = 64, num_permutations: int = 32
) -> tuple[float, float]:
    """The same distance between two sets of independent draws of one size, `(n, *event)` each.

    Returns:
        The distance, in standard deviations of `expected`, and its noise floor: mean and five standard deviations of
        the distances of random halves of all draws together, which is what two sets of one law would show.
    """
    directions = _directions(key, found, num_projections)
    a, b = _projected(found, directions), _projected(expected, directions)
    both = np.ascontiguousarray(np.concatenate([a, b]).T)  # a row is sorted faster than a column
    scale = _scale(b, both.T)
    shuffle = np.random.default_rng(np.asarray(jr.key_data(key)).ravel())
    halves = (np.take(both, shuffle.permutation(both.shape[1]), axis=1) for _ in range(num_permutations))
    null = [_between_halves(h, len(a), scale) for h in halves]
    floor = float(np.mean(null) + 5.0 * np.std(null))
    return _between(np.sort(a, axis=0), np.sort(b, axis=0), scale), floor


def sliced_wasserstein(key: PRNGKeyArray, found: Array, expected: Array, num_projections: int = 512) -> float:
    """The sliced Wasserstein-2 distance of two sets of draws (Bonneel et al. 2015), in the unit of the draws.

    The root of the mean, over random directions, of the squared Wasserstein-2 distance between the projections. One
    seed gives one set of directions, so that distances of several sets to one can be compared.

    Args:
        key: a jax key, for the directions.
        found: of shape `(n, *event)`.
        expected: of shape `(m, *event)`; where n and m differ, the quantiles of each are taken at max(n, m) levels.
        num_projections: directions, uniform on the sphere.

    Raises:
        ValueError: examples of two shapes, or no examples.
    """
    if found.shape[1:] != expected.shape[1:] or 0 in (len(found), len(expected)):
        raise ValueError(f"found has shape {found.shape} and expected {expected.shape}: give examples of one shape")
    directions = jr.normal(key, (found[0].size, num_projections))
    directions = directions / jnp.linalg.norm(directions, axis=0, keepdims=True)
    a, b = (np.sort(_projected(x, directions).astype(np.float64), axis=0) for x in (found, expected))
    if len(a) != len(b):
        levels = (np.arange(max(len(a), len(b))) + 0.5) / max(len(a), len(b))
        a, b = (np.quantile(x, levels, axis=0, method="inverted_cdf") for x in (a, b))
    return float(np.sqrt(np.mean((a - b) ** 2)))


def _directions(key: PRNGKeyArray, examples: Array, num_projections: int) -> Array:
    """The first 16 coordinates and random directions, as columns."""
    size = examples[0].size
    directions = jr.normal(jr.fold_in(key, 5), (size, num_projections))
    axes = jnp.eye(size)[:, : min(size, 16)]
    return jnp.concatenate([axes, directions / jnp.linalg.norm(directions, axis=0, keepdims=True)], axis=1)


def _projected(x: Array, directions: Array) -> np.ndarray:
    return np.asarray(x.reshape(len(x), -1) @ directions.astype(x.dtype))


def _scale(projected: np.ndarray, all_of_them: np.ndarray) -> np.ndarray:
    """The deviation of each projection; of all draws together where it is constant, and 1 where all are one number."""
    own, of_all = np.std(projected, axis=0), np.std(all_of_them, axis=0)
    return np.where(own > 0, own, np.where(of_all > 0, of_all, np.ones_like(own)))


def _between(a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> float:
    return float(np.max(np.mean(np.abs(a - b), axis=0) / scale))


def _between_halves(rows: np.ndarray, size: int, scale: np.ndarray) -> float:
    """The same of the first `size` columns and the others; `rows` is overwritten."""
    a, b = rows[:, :size], rows[:, size:]
    a.sort(axis=1)
    b.sort(axis=1)
    a -= b
    return float(np.max(np.mean(np.abs(a, out=a), axis=1) / scale))
