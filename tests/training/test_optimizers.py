"""Muon's first step by the singular value decomposition, Adam's with Nesterov's momentum by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hamflow.training import init_state, make_step, muon


def first_update(params, gradients, **settings):
    optimizer = muon(0.1, **settings)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as `make_step` runs it
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return updates


@pytest.mark.parametrize("shape", [(6, 4), (3, 3, 2, 5)])
def test_a_weight_moves_along_its_singular_vectors_all_by_about_one(shape):
    """Newton-Schulz brings singular values to within [.65, 1.25], whatever they were (here from 1 to 100)."""
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    left, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(rows, columns)))
    right, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(columns, columns)))
    gradient = (left * np.geomspace(1, 100, columns)) @ right.T
    update = first_update({"w": jnp.zeros(shape)}, {"w": jnp.asarray(gradient.reshape(shape), jnp.float32)})["w"]
    size = 0.1 * 0.2 * np.sqrt(max(rows, columns))
    found = -left.T @ np.asarray(update).reshape(rows, columns) @ right / size
    np.testing.assert_allclose(np.diag(found), 1.0, atol=0.35)
    np.testing.assert_allclose(found - np.diag(np.diag(found)), 0.0, atol=1e-3)


def test_a_vector_moves_as_adam_moves_it():
    gradient = jnp.array([3.0, -1e-3, 20.0])
    update = first_update({"b": jnp.zeros(3), "w": jnp.eye(2)}, {"b": gradient, "w": jnp.eye(2)})["b"]
    size = 0.1 * (0.9 * 0.1 / (1 - 0.9**2) + 1)  # the averages of one gradient g: .9 (.1 g) / (1 - .9^2) + .1 g / .1
    np.testing.assert_allclose(update, [-size, size, -size], rtol=1e-4)


def test_what_is_not_trained_stays_and_the_rest_learns():
    optimizer = muon(0.1)
    trainable = {"w": True, "fixed": False, "b": True}
    target = jnp.array([[1.0, -1.0], [0.5, 2.0]])

    def loss(model, batch, key):
        return jnp.sum((model["w"] + model["b"] - target) ** 2) + jnp.sum(model["fixed"]), {}

    state = init_state(
        {"w": jnp.zeros((2, 2)), "fixed": jnp.ones(2), "b": jnp.zeros((2, 1))}, optimizer, trainable=trainable
    )
    step = make_step(loss, optimizer, trainable=trainable)
    losses = []
    for _ in range(100):
        state, _ = step(state, {"x": np.zeros((1, 1), np.float32)}, jax.random.key(0))
        losses.append(float(loss(state.model, None, None)[0]) - 2.0)
    np.testing.assert_array_equal(state.model["fixed"], [1.0, 1.0])
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_bad_momentum(momentum):
    with pytest.raises(ValueError, match="momentum"):
        muon(0.1, momentum=momentum)


@pytest.mark.parametrize("b2", [-0.1, 1.0, 1.5, float("nan")])
def test_bad_b2(b2):
    with pytest.raises(ValueError, match=r"b2 is .*: it must be in \[0, 1\)"):
        muon(0.1, b2=b2)


def test_it_takes_a_schedule():
    gradient = {"b": jnp.ones(2)}
    optimizer = muon(optax.linear_schedule(0.0, 1.0, 10))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = optimizer.init({"b": jnp.zeros(2)})
        first, state = optimizer.update(gradient, state, {"b": jnp.zeros(2)})
        second, _ = optimizer.update(gradient, state, {"b": jnp.zeros(2)})
    size = 0.1 * (0.9 * (1 - 0.9**2) / (1 - 0.9**3) + 0.1 / (1 - 0.9**2))
    np.testing.assert_allclose([first["b"], second["b"]], [[0, 0], [-size, -size]], rtol=1e-4)
