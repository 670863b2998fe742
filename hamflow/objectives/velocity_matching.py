"""Velocity matching: regress the velocity of the flow on its position."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._parameters import require
from .._types import Array, Float, PRNGKeyArray, Scalar, ScalarLike, checked
from ..flow import Flow
from ..predictors import deviation_of
from .time_laws import AbstractTimeLaw, LogNormalNoise


@checked
def velocity_matching_loss(
    predictor: Callable[..., Any],
    flow: Flow,
    data: Float[Array | np.ndarray, "batch *event"],
    key: PRNGKeyArray,
    *,
    condition: Any = None,
    time_law: AbstractTimeLaw | None = None,
    weight: Callable[[Scalar], Array] | ScalarLike | None = None,
) -> Scalar:
    """E[ w(t) |V(t, x_t) - v_t|^2 ], whose minimiser is V*(t, x) = E[v_t | x_t = x].

    For each datum: a time from `time_law`, a state of the flow at that time, and the squared error of the predicted
    velocity, averaged over coordinates and batch. No gradient goes through the state: the target is a constant.
    (Holderrieth, Xu, Jaakkola 2024, the velocity-prediction loss completed to a square.)

    Args:
        predictor: `predictor(t, x, condition, key) -> velocity` on one example; gets its own key for dropout.
        flow: the flow.
        data: floating, of shape `(batch, *event)`.
        key: a jax key.
        condition: None, or a tree of arrays with a leading batch axis (class labels of shape `(batch,)`).
        time_law: of the training times. Unless given, `LogNormalNoise(data_std=...)` with the deviation that a
            `Preconditioned` predictor knows.
        weight: a number, or a function of the time that returns a number or an array of one example's shape. Unless
            given, the predictor's own: its method `unit_error(t, x, v, condition, key)` (`Preconditioned`: the error
            over c_out), `normalise_error(t, error)` or `weight(t, x)`, where it has one; else 1.

    Returns:
        The loss, a scalar in the data's dtype.

    Raises:
        TypeError: arguments of another shape or dtype, by name.
        ValueError: an empty batch; another number of conditions than examples; a predictor that returns another shape.
    """
    data = jnp.asarray(data)
    if data.shape[0] == 0:
        raise ValueError("data is an empty batch: the loss has no value")
    for leaf in jax.tree.leaves(condition):
        if jnp.shape(leaf)[:1] != data.shape[:1]:
            raise ValueError(
                f"condition has a leaf of shape {jnp.shape(leaf)}, but data hold {data.shape[0]} examples: "
                "give one condition an example"
            )
    flow.require_event(data.shape[1:])
    if not callable(weight) and weight is not None:
        require(weight, lambda w: jnp.asarray(w) >= 0, f"weight must not be negative, got {weight}")
    key_time, key_state, key_predictor = jr.split(key, 3)
    law = LogNormalNoise(data_std=deviation_of(predictor)) if time_law is None else time_law
    t = law.sample(key_time, flow, data.shape[:1], data.dtype)
    state = flow.sample_state(key_state, data, t, condition=condition)
    target = jax.vmap(flow.velocity)(state, t)
    t, position, target = jax.lax.stop_gradient((t, state.position, target))
    unit_error: Any = getattr(predictor, "unit_error", None) if weight is None else None
    normalise: Any = getattr(predictor, "normalise_error", None) if weight is None else None
    own_weight: Any = getattr(predictor, "weight", None)  # a layer's `weight` is an array, and no weight of a loss

    def squared_error(t: Array, x: Array, v: Array, condition: Any, key: Array) -> Array:
        if callable(unit_error):
            return jnp.asarray(unit_error(t, x, v, condition, key)) ** 2
        predicted = predictor(t, x, condition, key)
        if predicted is None or jnp.shape(predicted) != v.shape:
            shown = "None" if predicted is None else f"shape {jnp.shape(predicted)}"
            raise ValueError(
                f"predictor returned {shown} for one example of shape {v.shape}: "
                "it must return one velocity, without a batch axis"
            )
        error = predicted - v
        if normalise is not None:
            return normalise(t, error) ** 2
        w: Any
        if callable(weight):
            w = weight(t)
        elif weight is not None:
            w = weight
        else:
            w = own_weight(t, x) if callable(own_weight) else 1.0
        if jnp.shape(w) not in ((), v.shape):
            raise ValueError(f"weight has shape {jnp.shape(w)}; it must be one number, or of one example's {v.shape}")
        return jnp.asarray(w, v.dtype) * error**2

    keys = jr.split(key_predictor, data.shape[0])
    in_axes = (0, 0, 0, None if condition is None else 0, 0)
    return jnp.mean(eqx.filter_vmap(squared_error, in_axes=in_axes)(t, position, target, condition, keys))
