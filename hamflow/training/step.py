"""One training step, compiled: loss, gradient, update, average, and nothing of it if a number is not finite."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from hamflow._types import Array, Key, PyTree, Scalar, checked
from hamflow.training.dispatch import compile_step
from hamflow.training.ema import ExponentialMovingAverage
from hamflow.training.state import TrainState
from hamflow.training.trainable import split

Loss = Callable[[Any, Any, Key[Array, ""]], tuple[Scalar, dict[str, Any]]]
"""`loss(model, batch, key)` gives the mean loss over the batch, and scalars to write down under their names."""

_OWN_METRICS = ("step", "images", "loss", "grad_norm", "finite")


Step = Callable[[TrainState, Any, Key[Array, ""]], tuple[TrainState, dict[str, Any]]]
"""`step(state, batch, key)` gives the next state and the metrics. It reuses the memory of `state`: forget that one."""


@checked
def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    ema: ExponentialMovingAverage | None = None,
    *,
    trainable: PyTree = eqx.is_inexact_array,
    sharding: Any = None,
    on_nonfinite: Literal["stop", "skip"] = "stop",
) -> Step:
    """Compile `step(state, batch, key) -> (state, metrics)` for a loss.

    - `loss(model, batch, key)`: the mean loss over the batch, a scalar, and a dict of scalars to be logged.
    - `optimizer`: any optax optimiser. `ema`: the average to keep; by default that of EDM.
    - `trainable`: as given to `init_state`.
    - `sharding`: where the state lives, for example `replicated(mesh)`; the state is held there by every step.

    The batch is a tree of arrays whose first axis is the batch. The key is that of the run: step n uses
    `fold_in(key, n)`, so a resumed run draws what it would have drawn. The metrics are scalars on the device: those of
    the loss, `loss`, `grad_norm` (before the update), `step` (n, from 0), `images` (seen after it) and `finite`.

    If the loss or the norm of its gradient is not finite the state is left as it was, `finite` is false in the
    metrics, and so it stays for all later steps. `Recorder` reads the metrics and raises `NonFiniteLoss`. With
    `on_nonfinite="skip"` that batch is passed over and the next one is trained on: model, average and optimiser stay as
    they were (so the learning rate does not move on), `step` and `images` advance, since they say which data and which
    random numbers come next, and `finite` is false in the metrics of that step only. Give the `Recorder` the same.
    """
    average = ExponentialMovingAverage() if ema is None else ema

    def step(state: TrainState, batch: PyTree, key: Key[Array, ""]) -> tuple[TrainState, dict[str, Array]]:
        state = _hold(state, sharding)
        value, metrics, grads = _value_and_grad(loss, state, batch, key, trainable)
        state, more = _update(state, value, grads, optimizer, average, trainable, _batch_size(batch), on_nonfinite)
        return _hold(state, sharding), {**more, **metrics}

    return compile_step(step)


def _hold(state: TrainState, sharding: Any) -> TrainState:
    return state if sharding is None else eqx.filter_shard(state, sharding)


def _value_and_grad(loss: Loss, state: TrainState, batch: PyTree, key: Key[Array, ""], trainable: PyTree) -> Any:
    trained, rest = split(state.model, trainable)
    step_key = jax.random.fold_in(key, state.step)

    def objective(trained: PyTree) -> tuple[Scalar, dict[str, Any]]:
        return loss(eqx.combine(trained, rest), batch, step_key)

    (value, metrics), grads = eqx.filter_value_and_grad(objective, has_aux=True)(trained)
    taken = [name for name in metrics if name in _OWN_METRICS]
    if taken:
        raise ValueError(f"The loss returns a metric named {taken[0]!r}, which the step uses itself: rename it.")
    for name, metric in metrics.items():
        if jnp.ndim(metric) != 0:
            raise ValueError(f"The metric {name!r} of the loss has the shape {jnp.shape(metric)}: metrics are scalars.")
    return value, metrics, grads


def _update(
    state: TrainState,
    value: Scalar,
    grads: PyTree,
    optimizer: optax.GradientTransformation,
    average: ExponentialMovingAverage,
    trainable: PyTree,
    batch_size: int,
    on_nonfinite: str = "stop",
) -> tuple[TrainState, dict[str, Array]]:
    """The next state from a loss and its gradient, wherever these come from."""
    trained, rest = split(state.model, trainable)
    ema, ema_rest = split(state.ema, trainable)
    grad_norm = optax.tree.norm(grads)
    finite = state.finite & jnp.isfinite(value) & jnp.isfinite(grad_norm)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
    new = TrainState(
        model=eqx.combine(trained, rest),
        ema=eqx.combine(average.update(ema, trained, state.images, batch_size), ema_rest),
        opt_state=opt_state,
        step=state.step + 1,
        images=state.images + jnp.uint32(batch_size),
        finite=finite,
    )
    metrics = {"step": state.step, "images": new.images, "loss": value, "grad_norm": grad_norm, "finite": finite}
    if on_nonfinite == "skip":  # the next step is another one, and starts as if this had not been
        state = eqx.tree_at(lambda s: (s.step, s.images), state, (new.step, new.images))
        new = eqx.tree_at(lambda s: s.finite, new, state.finite)
    kept = jax.tree.map(lambda n, old: jnp.where(finite, n, old) if eqx.is_array(n) else n, new, state)
    if on_nonfinite == "stop":
        kept = eqx.tree_at(lambda s: s.finite, kept, finite)
    return kept, metrics


def _batch_size(batch: PyTree) -> int:
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(eqx.filter(batch, eqx.is_array))}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"The arrays of a batch need one first axis of the same size; theirs are {sorted(sizes)}.")
    return next(iter(sizes))[0]
