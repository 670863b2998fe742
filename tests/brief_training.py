"""A short training of a small network, for tests that compare what couplings make easy to learn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import hamflow as hf


def trained(flow, data, key, steps=300, batch_size=128):
    """A preconditioned MLP after so many steps of Adam on the jitted `velocity_matching_loss`."""
    network = hf.networks.MLP(data.shape[1:], width=32, depth=2, key=jr.fold_in(key, 0))
    predictor = hf.Preconditioned.from_data(network, flow, data, jr.fold_in(key, 1), num_times=16, num_draws=512)
    params, static = eqx.partition(predictor, predictor.trainable())
    optimizer = optax.adam(5e-3)

    @eqx.filter_jit
    def train(params, state, key):
        def step(carry, key):
            params, state = carry
            batch = data[jr.randint(jr.fold_in(key, 1), (batch_size,), 0, len(data))]

            def loss(params):
                return hf.velocity_matching_loss(eqx.combine(params, static), flow, batch, key)

            gradient = eqx.filter_grad(loss)(params)
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
                updates, state = optimizer.update(gradient, state)
            return (eqx.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), jr.split(key, steps))[0][0]

    return eqx.combine(train(params, optimizer.init(params), jr.fold_in(key, 2)), static)


def two_sides(key, n):
    """Half of the points about (1.5, 0), half about (-1.5, 0), with a deviation of .3."""
    sides = jnp.where(jr.bernoulli(jr.fold_in(key, 0), 0.5, (n,)), 1.5, -1.5)
    return 0.3 * jr.normal(jr.fold_in(key, 1), (n, 2)) + jnp.stack([sides, jnp.zeros_like(sides)], axis=1)
