"""Which leaves of a model are trained. All others are left alone by the optimiser (weight decay too) and by the EMA."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from hamflow._types import PyTree


def only(model: PyTree, where: Callable[[Any], Any]) -> PyTree:
    """Mark one part of a model as the part to train: a tree of booleans, true inside `where(model)`.

    ```python
    trainable = only(predictor, lambda predictor: predictor.network)  # and not the frequency of its flow
    ```
    """
    nothing = jax.tree.map(lambda _: False, model)
    return eqx.tree_at(where, nothing, replace_fn=lambda part: jax.tree.map(lambda _: True, part))


def split(model: PyTree, trainable: PyTree) -> tuple[PyTree, PyTree]:
    """Part a model into what is trained, the chosen floating-point arrays, and all the rest; `eqx.combine` joins them.

    `trainable` is a function of a leaf, or a tree of booleans (of the model's structure, or a prefix of it).
    """
    trained = eqx.filter(eqx.filter(model, trainable), eqx.is_inexact_array)
    rest = jax.tree.map(lambda t, leaf: leaf if t is None else None, trained, model, is_leaf=lambda leaf: leaf is None)
    return trained, rest
