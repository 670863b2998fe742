"""A network as the velocity predictor of a discrepancy: trained on one half of the data, valued on the other."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, PRNGKeyArray
from ..potentials.base import AbstractForce
from .boltzmann import ShortTime, gain, require_motion


def held_out_values(
    predictor: Callable[..., Any],
    force: AbstractForce,
    groups: Array,
    short: ShortTime,
    key: PRNGKeyArray,
    steps: int,
    batch: int,
    learning_rate: float,
) -> np.ndarray:
    """E[2 V . v_t - |V|^2] / t^2 of every datum at every time, V fitted on the half without it: `(times, data)`."""
    try:
        import optax
    except ImportError as error:
        raise ImportError("training a predictor takes optax: pip install optax, or hamflow[train]") from error
    if min(steps, batch) < 1 or not learning_rate > 0:
        raise ValueError("train_steps, train_batch and learning_rate must be positive")
    half = groups.shape[0] // 2
    data = groups.reshape(-1, *groups.shape[2:])
    halves = data[: half * groups.shape[1]], data[half * groups.shape[1] :]
    parameters, rest = eqx.partition(predictor, eqx.is_inexact_array)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    times = jnp.asarray(short.times, data.dtype)

    def gains(parameters: Any, x: Array, keys: Array, t: Array) -> Array:
        """Of each datum of a batch, the mean over its pair."""
        pairs = jax.vmap(lambda x, k, t: short.pair(force, x, k, t))(x, keys, t)
        pairs = jax.lax.stop_gradient(require_motion(pairs))
        predict = eqx.combine(parameters, rest)
        velocity = jax.vmap(jax.vmap(lambda t, x: predict(t, x, None, None), (None, 0)))(t, pairs.position)
        return jnp.mean(gain(velocity, pairs), axis=1) / t**2

    def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, None]:
        parameters, state, train = carry
        keys = jr.split(key, 3)
        x = train[jr.randint(keys[0], (batch,), 0, train.shape[0])]
        t = times[jr.randint(keys[1], (batch,), 0, times.size)]

        def loss(parameters: Any) -> Array:
            return -jnp.mean(gains(parameters, x, jr.split(keys[2], batch), t))

        updates, state = optimizer.update(jax.grad(loss)(parameters), state, parameters)
        return (optax.apply_updates(parameters, updates), state, train), None

    @jax.jit
    def fitted(train: Array, test: Array, key: PRNGKeyArray) -> Array:
        keys = jr.split(key)
        carry = (parameters, optimizer.init(parameters), train)
        best = jax.lax.scan(step, carry, jr.split(keys[0], steps))[0][0]
        test_keys = jr.split(keys[1], test.shape[0])
        return jax.lax.map(lambda t: gains(best, test, test_keys, jnp.full(test.shape[0], t)), times)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
        values = [fitted(halves[i], halves[1 - i], jr.fold_in(key, i)) for i in (0, 1)]
    return np.concatenate([np.asarray(v, float) for v in values], axis=1)
