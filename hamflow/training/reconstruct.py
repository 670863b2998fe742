"""An average of the weights that was not kept, made of some that were."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from hamflow._types import PyTree, checked
from hamflow.training.ema import PowerFunctionAverage


@checked
def reconstruction_weights(
    averages: Sequence[PowerFunctionAverage],
    images: Sequence[int | float],
    wanted: PowerFunctionAverage,
    at_images: int | float,
) -> tuple[np.ndarray, float]:
    """The weights that make one average of others, and how far off its profile then is.

    - `averages`, `images`: of each stored average its rule, and the images seen when it was stored.
    - `wanted`, `at_images`: the rule to be had, and after how many images.

    The profile of an average after t images is p(m) = (gamma + 1) m^gamma / t^(gamma + 1) on [0, t]. The weights are
    those of least squares, A w = b with A and b the inner products of the profiles,

        <p_1, p_2> = (gamma_1 + 1)(gamma_2 + 1) / (gamma_1 + gamma_2 + 1) (t_1 / t_2)^gamma_2 / t_2,    t_1 <= t_2.

    Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", section 3.2; and here their
    sum is held at 1, so that a model which stands still is its own average (derived here: a Lagrange multiplier). Two
    widths at each time are worth far more than one: with .05 and .10 at 16 even times, .07 is met to .4 % and .15 to
    1 %, with .10 alone to 8 % and 7 %.

    Returns the weights, float64 (len(averages),), and the distance of the two profiles over the norm of the wanted one:
    0 is exact. Raises `ValueError` for no average, or counts of images that are not positive.
    """
    if not averages or len(averages) != len(images):
        raise ValueError(f"There are {len(averages)} averages and {len(images)} counts of images: one for each.")
    if not min(*images, at_images) > 0:
        raise ValueError(f"images are {list(images)} and at_images {at_images}: an average is of 1 image or more.")
    gamma = np.array([average.gamma for average in [*averages, wanted]], np.float64)
    t = np.array([*images, at_images], np.float64) / at_images
    gram = _inner_products(gamma, t)
    a, b, norm = gram[:-1, :-1], gram[:-1, -1], gram[-1, -1]
    scale = np.sqrt(np.diag(a))  # the profiles of equal norm: the matrix is as well conditioned as it can be
    ones = 1 / scale
    with_sum = np.block([[a / np.outer(scale, scale), ones[:, None]], [ones[None, :], np.zeros((1, 1))]])
    weights = np.linalg.lstsq(with_sum, np.append(b / scale, 1.0))[0][:-1] / scale
    error = norm - 2 * weights @ b + weights @ a @ weights
    return weights, float(np.sqrt(max(error, 0.0) / norm))


@checked
def reconstruct_average(
    models: Sequence[PyTree],
    averages: Sequence[PowerFunctionAverage],
    images: Sequence[int | float],
    wanted: PowerFunctionAverage,
    at_images: int | float,
    *,
    max_error: float | int = 0.1,
) -> PyTree:
    """The average that `wanted` would have kept, from stored ones: a width chosen after the training.

    - `models`: the stored averages, trees of one structure. Floating-point arrays are combined, in double precision;
      all else is that of the last one.
    - `averages`, `images`, `wanted`, `at_images`: as for `reconstruction_weights`.
    - `max_error`: of the profile. Raises `ValueError` beyond it, since the weights of a network that are averaged by
      another profile are of no use: store more, or at the images asked for.

    With the error e of the profile, and none stored later than `at_images`, the result is within

        e (gamma + 1) / (2 gamma + 1)^(1/2) (mean_j |model_j - c|^2)^(1/2)

    of the average that would have been kept, in the norm |.| of all weights together, model_j being the model after
    each of the steps up to `at_images` and c any fixed one, such as their mean; rounding comes on top (derived here:
    for batches of one size the stored averages are exactly the integrals of their profiles over a path that is constant
    within a step, c drops out since all of these sum to 1, and Cauchy-Schwarz does the rest).

    Two averages are kept in one run by `make_step(loss, optimizer, [narrow, wide])`: store `state.ema` and
    `state.other_averages[0]` now and then.

    ```python
    narrow, wide = (PowerFunctionAverage.from_relative_width(width) for width in (0.05, 0.10))
    model = reconstruct_average(models, [narrow, wide] * 8, images, PowerFunctionAverage.from_relative_width(0.07), 1e6)
    ```
    """
    weights, error = reconstruction_weights(averages, images, wanted, at_images)
    if len(models) != len(weights):
        raise ValueError(f"There are {len(models)} models for {len(weights)} averages: one for each.")
    if not error <= max_error:
        raise ValueError(
            f"The profile of relative width {wanted.relative_width:.3g} after {at_images} images is met to {error:.2g} "
            f"of its norm only, and max_error is {max_error}: store averages more often, or ask for a wider one."
        )

    def combine(*leaves: Any) -> Any:
        if not eqx.is_inexact_array_like(leaves[-1]) or not hasattr(leaves[-1], "dtype"):
            return leaves[-1]
        total = sum(w * np.asarray(leaf, np.float64) for w, leaf in zip(weights, leaves, strict=True))
        return jnp.asarray(total, leaves[-1].dtype)

    return jax.tree.map(combine, *models)


def _inner_products(gamma: np.ndarray, t: np.ndarray) -> np.ndarray:
    first, second = gamma[:, None], gamma[None, :]
    earlier, later = np.minimum.outer(t, t), np.maximum.outer(t, t)
    of_later = np.where(t[:, None] >= t[None, :], first, second)  # the exponent that belongs to the later one
    return (first + 1) * (second + 1) / (first + second + 1) * (earlier / later) ** of_later / later
