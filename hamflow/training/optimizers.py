"""Any optax optimiser as the step uses it, and Muon, told which axes of a weight are its matrix."""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon as _muon

from hamflow._errors import ArgumentTypeError
from hamflow._types import PyTree, checked


def as_optimizer(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Return an optax optimiser as one that takes `value`, `grad` and `value_fn` and uses those that it knows.

    `optax.MultiSteps` is accepted as it is. Raises `ArgumentTypeError` for an object without `init` and `update`.
    """
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ArgumentTypeError(
            f"optimizer must be an optax optimiser, such as optax.adam(1e-3), got {type(optimizer).__name__}",
            argument="optimizer",
        )
    return optax.with_extra_args_support(optimizer)


@checked
def muon(
    learning_rate: optax.ScalarOrSchedule, *, momentum: float = 0.95, b2: float = 0.99
) -> optax.GradientTransformation:
    """Muon for every weight of two axes or more, Adam (Nesterov's) for biases and norms, at one learning rate.

    Muon follows the momentum with its singular values all made one, so that rare directions of a weight learn as fast
    as common ones (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"). A step is scaled by
    .2 sqrt(max(inputs, outputs)), so its entries are of the size that Adam's are (Liu et al. 2025, arXiv 2502.16982)
    and one learning rate serves both. The last axis of a weight is its outputs, all before it its inputs, as in
    `hamflow.networks`: a (3, 3, inputs, outputs) kernel is one matrix of 9 inputs rows.

    On the quickstart's U-Net it reaches in 400 steps what Adam needs 850 for; see `benchmarks/NOTES.md`. It costs five
    products of each weight with itself a step, which counts only at small batches.

    - `learning_rate`: a number or an optax schedule; about ten times what Adam would have in a short run.
    - `momentum`: of Muon, in [0, 1), Nesterov's. Runs of a thousand steps do better at .8.
    - `b2`: of Adam's second moment, in [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}: it must be in [0, 1).")
    if not 0 <= b2 < 1:
        raise ValueError(f"b2 is {b2}: it must be in [0, 1).")
    return _muon(
        learning_rate,
        beta=momentum,
        consistent_rms=0.2,
        adam_b2=b2,
        muon_weight_dimension_numbers=_matrices,
    )


def _matrices(params: PyTree) -> PyTree:
    def matrix(weight):
        return MuonDimensionNumbers(tuple(range(weight.ndim - 1)), weight.ndim - 1) if weight.ndim >= 2 else None

    return jax.tree.map(matrix, params)
