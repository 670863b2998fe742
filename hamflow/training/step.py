"""One training step, compiled: loss, gradient, update, average, and nothing of it if a number is not finite."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from hamflow._types import Array, Key, PyTree, Scalar, checked
from hamflow.training.dispatch import compile_step
from hamflow.training.ema import AbstractAverage, ExponentialMovingAverage
from hamflow.training.gradient import Loss, batch_size, gradient, grouped
from hamflow.training.optimizers import as_optimizer
from hamflow.training.sharding import shard
from hamflow.training.state import TrainState
from hamflow.training.trainable import split
from hamflow.training.wide import wide

Step = Callable[[TrainState, Any, Key[Array, ""]], tuple[TrainState, dict[str, Any]]]
"""`step(state, batch, key)` gives the next state and the metrics. It reuses the memory of `state`: forget that one."""


@checked
def make_step(
    loss: Loss,
    optimizer: Any,
    ema: AbstractAverage | Sequence[AbstractAverage] | None = None,
    *,
    trainable: PyTree = eqx.is_inexact_array,
    sharding: Any = None,
    microbatches: int = 1,
    rows_together: int | None = None,
    stacked: bool = False,
    on_nonfinite: Literal["stop", "skip"] = "stop",
) -> Step:
    """Compile `step(state, batch, key) -> (state, metrics)` for a loss.

    - `loss(model, batch, key)`: the mean loss over the batch, a scalar, and a dict of scalars to be logged.
    - `optimizer`: any optax optimiser, `optax.MultiSteps` included. One that asks for them is given `value` and `grad`,
      the loss and its gradient, and `value_fn`, the loss of the whole batch as a function of the trained parameters
      (`optax.contrib.reduce_on_plateau`, `optax.lbfgs`). A line search evaluates that function several times a step.
    - `ema`: the average to keep, by default that of EDM; or several, of which the first is `state.ema` and the others
      are `state.other_averages`. Give `init_state` their number as `num_averages`.
    - `trainable`: as given to `init_state`.
    - `sharding`: where the state lives, `replicated(mesh)` or a tree of `state_sharding`; every step holds it there.
    - `microbatches`: how many pieces a device takes its rows in, one after the other, to save memory. The gradients are
      added up, and one update is made of all. Needs `rows_together`.
    - `rows_together`: how many rows the loss is given at once: 1 for a loss of independent rows. Each such group has a
      key of its own, which depends on its place in the batch only, so the step is the same up to rounding for any
      number of microbatches and devices; metrics are averaged over the groups. By default the loss is given the whole
      batch, which one that looks at all rows at once needs (a minibatch coupling, a ridge).
    - `stacked`: the batch is several, stacked on a new first axis, which are trained on one after the other in one
      dispatch; the metrics are stacked too. For steps of a millisecond or less, which cost more to start than to do.
      `stack` makes such batches and `Recorder` takes such metrics.

    The batch is a tree of arrays whose first axis is the batch. The key is that of the run: step n uses
    `fold_in(key, n)`, so a resumed run draws what it would have drawn. The metrics are scalars on the device: those of
    the loss, `loss`, `grad_norm` (before the update), `step` (n, from 0), `images` (seen after it) and `finite`.

    If the loss or the norm of its gradient is not finite the state is left as it was, `finite` is false in the
    metrics, and so it stays for all later steps. `Recorder` reads the metrics and raises `NonFiniteLoss`. With
    `on_nonfinite="skip"` that batch is passed over and the next one is trained on: model, average and optimiser stay as
    they were (so the learning rate does not move on), `step` and `images` advance, since they say which data and which
    random numbers come next, and `finite` is false in the metrics of that step only. Give the `Recorder` the same.

    Raises `ValueError` for numbers that do not fit together, here or, where they concern the batch or the state, at its
    first step.
    """
    for name, number in (("microbatches", microbatches), ("rows_together", rows_together)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}: it must be 1 or more.")
    if microbatches > 1 and rows_together is None:
        raise ValueError(
            f"microbatches={microbatches} needs rows_together, the number of rows the loss looks at together: 1 for a "
            "loss whose rows are independent."
        )
    averages, optimizer = _averages(ema), as_optimizer(optimizer)
    of_batch = loss if rows_together is None else grouped(loss, rows_together)
    where = sharding.model if isinstance(sharding, TrainState) else sharding

    def step(state: TrainState, batch: PyTree, key: Key[Array, ""]) -> tuple[TrainState, dict[str, Array]]:
        if len(state.other_averages) + 1 != len(averages):
            raise ValueError(
                f"The step keeps {len(averages)} and the state has {len(state.other_averages) + 1} as averages of the "
                f"weights: give init_state num_averages={len(averages)}."
            )
        state = _hold(state, sharding)
        step_key = jax.random.fold_in(key, state.step)
        value, metrics, grads = gradient(
            loss, state.model, batch, step_key, trainable,
            sharding=where, microbatches=microbatches, rows_together=rows_together,
        )  # fmt: skip
        size = batch_size(batch)

        def value_fn(trained: PyTree) -> Scalar:
            like, rest = split(state.model, trainable)
            trained = jax.tree.map(lambda one, other: one.astype(other.dtype), trained, like)
            return wide(of_batch(eqx.combine(trained, rest), batch, step_key)[0])

        state, more = _update(state, value, grads, value_fn, optimizer, averages, trainable, size, on_nonfinite)
        return _hold(state, sharding), {**more, **metrics}

    return compile_step(_one_after_the_other(step) if stacked else step)


def _averages(ema: AbstractAverage | Sequence[AbstractAverage] | None) -> tuple[AbstractAverage, ...]:
    if ema is None:
        return (ExponentialMovingAverage(),)
    averages = (ema,) if isinstance(ema, AbstractAverage) else tuple(ema)
    if not averages:
        raise ValueError("ema is empty: give one average or more, or None for that of EDM.")
    return averages


def _hold(state: TrainState, sharding: Any) -> TrainState:
    return state if sharding is None else shard(state, sharding)


def _one_after_the_other(step: Step) -> Step:
    def steps(state: TrainState, batches: PyTree, key: Key[Array, ""]) -> tuple[TrainState, dict[str, Array]]:
        arrays, rest = eqx.partition(state, eqx.is_array)

        def body(arrays: PyTree, batch: PyTree) -> tuple[PyTree, dict[str, Array]]:
            state, metrics = step(eqx.combine(arrays, rest), batch, key)
            return eqx.filter(state, eqx.is_array), jax.tree.map(jnp.asarray, metrics)

        arrays, metrics = jax.lax.scan(body, arrays, batches)
        return eqx.combine(arrays, rest), metrics

    return steps


def _update(
    state: TrainState,
    value: Scalar,
    grads: PyTree,
    value_fn: Callable[[PyTree], Scalar],
    optimizer: optax.GradientTransformationExtraArgs,
    averages: tuple[AbstractAverage, ...],
    trainable: PyTree,
    batch_size: int,
    on_nonfinite: str = "stop",
) -> tuple[TrainState, dict[str, Array]]:
    """The next state from a loss and its gradient, wherever these come from."""
    trained, rest = split(state.model, trainable)
    grads = jax.tree.map(wide, grads)  # the moments of a half-precision model are float32
    grad_norm = optax.tree.norm(grads)
    finite = state.finite & jnp.isfinite(value) & jnp.isfinite(grad_norm)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
        extra = {"value": wide(value), "grad": grads, "value_fn": value_fn}
        updates, opt_state = optimizer.update(grads, state.opt_state, jax.tree.map(wide, trained), **extra)
        trained = optax.apply_updates(trained, updates)

    def updated(average: AbstractAverage, ema: PyTree) -> PyTree:
        ema, ema_rest = split(ema, trainable)
        return eqx.combine(average.update(ema, trained, state.images, batch_size), ema_rest)

    new = TrainState(
        model=eqx.combine(trained, rest),
        ema=updated(averages[0], state.ema),
        opt_state=opt_state,
        step=state.step + 1,
        images=state.images + jnp.uint32(batch_size),
        finite=finite,
        other_averages=tuple(map(updated, averages[1:], state.other_averages)),
    )
    metrics = {"step": state.step, "images": new.images, "loss": value, "grad_norm": grad_norm, "finite": finite}
    if on_nonfinite == "skip":  # the next step is another one, and starts as if this had not been
        state = eqx.tree_at(lambda s: (s.step, s.images), state, (new.step, new.images))
        new = eqx.tree_at(lambda s: s.finite, new, state.finite)
    kept = jax.tree.map(lambda n, old: jnp.where(finite, n, old) if eqx.is_array(n) else n, new, state)
    if on_nonfinite == "stop":
        kept = eqx.tree_at(lambda s: s.finite, kept, finite)
    return kept, metrics
