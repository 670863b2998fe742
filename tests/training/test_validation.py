"""The held-out loss against means worked out by hand: every row counts once, and every draw is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_problem import Regressor, X, Y, loss

from hamflow.training import HeldOutLoss

KEY = jax.random.key(3)


def batches_of(size, num_rows=64):
    return [
        {"x": X[i : min(i + size, num_rows)], "y": Y[i : min(i + size, num_rows)]} for i in range(0, num_rows, size)
    ]


def mean_loss(model, batch, key):
    return jnp.mean(model["w"] * batch["y"]), {"worst": jnp.max(batch["y"]), "rows": batch["y"].shape[0]}


def drawn_loss(model, batch, key):
    return model["w"] * jax.random.normal(key), {}


@pytest.mark.parametrize("size", [64, 20, 50])
def test_a_shorter_batch_counts_by_its_rows(size):
    held_out = HeldOutLoss(mean_loss, batches_of(size), KEY)
    found = held_out({"w": jnp.asarray(2.0)})
    assert held_out.num_rows == 64
    assert set(found) == {"held_out_loss", "held_out_worst", "held_out_rows"}
    np.testing.assert_allclose(found["held_out_loss"], 2 * Y.mean(), rtol=1e-5)
    sizes = [len(batch["y"]) for batch in batches_of(size)]
    np.testing.assert_allclose(found["held_out_rows"], sum(n * n for n in sizes) / 64, rtol=1e-6)


def test_the_draws_are_those_promised_and_the_same_every_time():
    found = HeldOutLoss(drawn_loss, batches_of(20), KEY, num_draws=2)({"w": jnp.asarray(1.0)})

    def draw(r, i):
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, r), i))

    expected = sum(n / 64 * (draw(0, i) + draw(1, i)) / 2 for i, n in enumerate([20, 20, 20, 4]))
    np.testing.assert_allclose(found["held_out_loss"], expected, rtol=1e-5)


def test_it_is_compiled_for_two_shapes_and_repeats_bit_for_bit():
    traced = []

    def watched(model, batch, key):
        traced.append(batch["x"].shape)
        return loss(model, batch, key)

    held_out = HeldOutLoss(watched, batches_of(20), KEY)
    first = held_out(Regressor())
    assert first == held_out(Regressor())
    held_out(jax.tree.map(lambda leaf: leaf * 2 if hasattr(leaf, "dtype") else leaf, Regressor()))
    assert traced == [(20, 4), (4, 4)]


def test_only_full_batches_are_put_in_their_places():
    placed = []

    def place(batch):
        placed.append(len(batch["x"]))
        return jax.device_put(batch)

    HeldOutLoss(loss, batches_of(20), KEY, place=place)(Regressor())
    assert placed == [20, 20, 20]


def test_bad_batches():
    with pytest.raises(ValueError, match="batches is empty"):
        HeldOutLoss(loss, [], KEY)
    with pytest.raises(ValueError, match=r"have \[4, 60\] rows"):
        HeldOutLoss(loss, [{"x": X[:4], "y": Y[:4]}, {"x": X[4:], "y": Y[4:]}], KEY)
    with pytest.raises(ValueError, match=r"arrays of a batch have \[3, 4\] rows"):
        HeldOutLoss(loss, [{"x": X[:4], "y": Y[:3]}], KEY)
    with pytest.raises(ValueError, match="num_draws is 0"):
        HeldOutLoss(loss, batches_of(20), KEY, num_draws=0)
