"""The loss on data that are not trained on, always with the same random draws."""

from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp

from hamflow._types import Array, Key, PyTree, checked
from hamflow.training.dispatch import _join, _part, failed_checks_named
from hamflow.training.step import Loss


@final
class HeldOutLoss:
    """The mean of a loss over held-out batches, with the same times and noises each time: its curves are comparable.

    - `loss(model, batch, key)`: the mean over a batch, and metrics, as `make_step` takes it. What only training does
      (mirrored pictures, labels left out) is better left out of it.
    - `batches`: all held-out data, as trees of NumPy arrays whose first axis is the batch; the last may be shorter.
    - `key`: draw r of batch i is made with `fold_in(fold_in(key, r), i)`. The draws of a picture depend on the batch
      it is in, so only runs with the same batches and the same key are to be compared.
    - `num_draws`: how often each batch is drawn anew. More make the number itself less noisy, not the comparison.
    - `place`: puts a full batch on the devices, for example `lambda batch: shard_batch(batch, mesh)`. A shorter one is
      left to jax, which computes it whole on each device.

    Called with a model, it gives `{"held_out_loss": ..., "held_out_NAME": ...}` with the metrics of the loss under
    their names: each a scalar on the device, the mean over all rows, so a shorter batch counts by its rows. It does not
    wait for them. It is compiled once for the full batches and once for the shorter one.

    Raises `ValueError` for no batches, and for batches of different sizes before the last.

    ```python
    held_out_loss = HeldOutLoss(loss, batches, jax.random.key(0))
    for n in range(num_steps):
        ...
        if (n + 1) % 1000 == 0:
            record_held_out({"step": n, "images": metrics["images"], **held_out_loss(state.ema)})
    ```
    """

    @checked
    def __init__(
        self,
        loss: Loss,
        batches: Sequence[PyTree],
        key: Key[Array, ""],
        *,
        num_draws: int = 1,
        place: Callable[[Any], Any] | None = None,
    ):
        if not batches:
            raise ValueError("batches is empty: there are no held-out data.")
        if num_draws < 1:
            raise ValueError(f"num_draws is {num_draws}: it must be 1 or more.")
        sizes = [_rows(batch) for batch in batches]
        if any(size != sizes[0] for size in sizes[:-1]) or not 0 < sizes[-1] <= sizes[0]:
            raise ValueError(f"The batches have {sizes} rows: all but the last, which may be shorter, have one size.")
        self._batches, self._sizes, self._key, self._num_draws = list(batches), sizes, key, num_draws
        self._place = place

        def add(arrays: Any, batch: PyTree, key: Any, place: Any, share: Any, static: Any) -> dict[str, Array]:
            """The sums of one batch, weighted with its share of all rows."""
            draw, number = place
            value, metrics = loss(
                _join(arrays, static), batch, jax.random.fold_in(jax.random.fold_in(key, draw), number)
            )
            named = {"held_out_loss": value} | {f"held_out_{name}": metric for name, metric in metrics.items()}
            return {name: share * jnp.asarray(metric).astype(float) for name, metric in named.items()}

        self._add = jax.jit(add, static_argnums=5)

    @property
    def num_rows(self) -> int:
        """How many held-out rows there are."""
        return sum(self._sizes)

    def __call__(self, model: PyTree) -> dict[str, Array]:
        """The mean over all held-out rows, for any model of the structure that the loss takes."""
        arrays, static = _part(model)
        totals: dict[str, Array] = {}
        with failed_checks_named():
            for draw in range(self._num_draws):
                for number, (batch, size) in enumerate(zip(self._batches, self._sizes, strict=True)):
                    if self._place is not None and size == self._sizes[0]:
                        batch = self._place(batch)
                    share = size / (self.num_rows * self._num_draws)
                    parts = self._add(arrays, batch, self._key, (draw, number), share, static)
                    totals = {name: totals[name] + part if totals else part for name, part in parts.items()}
        return totals


def _rows(batch: PyTree) -> int:
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if len(rows) != 1:
        raise ValueError(f"The arrays of a batch have {sorted(rows)} rows: they need the same number.")
    return rows.pop()
