"""Run by `test_sharded_steps.py` on eight pretend devices: the same steps in every arrangement, the numbers as JSON."""

import json
import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

import jax.numpy as jnp  # noqa: E402
import jax.random as jr  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import hamflow as hf  # noqa: E402
from hamflow import networks, training  # noqa: E402

NUM_STEPS, BATCH = 4, 32
ARRANGEMENTS = {  # data, fsdp, microbatches
    "1 x 8": (1, 1, 8),
    "2 x 4": (2, 1, 4),
    "8 x 1": (8, 1, 1),
    "4, 2 x 1": (4, 2, 1),
    "2, 4 x 2": (2, 4, 2),
}


def train(data, fsdp, microbatches, *, stacked=False, rows_together=1):
    mesh = training.device_mesh(data=data, fsdp=fsdp)
    flow = hf.oscillation()
    model = hf.Preconditioned(networks.MLP((2,), 64, 2, key=jr.key(0)), flow, 0.5)

    def loss(model, batch, key):
        value = hf.velocity_matching_loss(model, flow, batch["x"], key)
        return value, {"mean": jnp.mean(batch["x"])}

    optimizer = optax.sgd(0.02, momentum=0.9)
    trainable = model.trainable()
    averages = [training.ExponentialMovingAverage(64, None), training.PowerFunctionAverage(1)]
    rule = training.largest_axis(fsdp, min_size=64)
    state = training.init_state(model, optimizer, trainable=trainable, num_averages=2, mesh=mesh, rule=rule)
    where = training.state_sharding(state, mesh, rule)
    step = training.make_step(
        loss, optimizer, averages, trainable=trainable, sharding=where,
        microbatches=microbatches, rows_together=rows_together, stacked=stacked,
    )  # fmt: skip
    dtype = jnp.result_type(float)
    batches = [{"x": np.random.default_rng(n).normal(size=(BATCH, 2)).astype(dtype)} for n in range(NUM_STEPS)]
    losses, means = [], []
    if stacked:
        batches = [jax.tree.map(lambda *rows: np.stack(rows), *batches)]
    for batch in batches:
        state, metrics = step(state, training.shard_batch(batch, mesh, stacked=stacked), jr.key(1))
        losses += np.ravel(metrics["loss"]).tolist()
        means += np.ravel(metrics["mean"]).tolist()
    weight = state.model.network.layers[1].linear.weight
    moment, average, other = (
        tree.network.layers[1].linear.weight for tree in (state.opt_state[0].trace, state.ema, state.other_averages[0])
    )
    assert weight.sharding == where.model.network.layers[1].linear.weight
    assert weight.sharding == moment.sharding == average.sharding == other.sharding
    return {
        "losses": losses,
        "means": means,
        **{
            name: np.asarray(each).ravel().tolist()
            for name, each in (("weights", weight), ("average", average), ("other average", other))
        },
        "share": weight.addressable_shards[0].data.size / weight.size,
    }


def by_hand():
    """The first loss, of all rows at once, each with its own key, without any of the machinery."""
    flow = hf.oscillation()
    model = hf.Preconditioned(networks.MLP((2,), 64, 2, key=jr.key(0)), flow, 0.5)
    x = np.random.default_rng(0).normal(size=(BATCH, 2)).astype(jnp.result_type(float))
    key = jr.fold_in(jr.key(1), 0)
    return float(
        np.mean([hf.velocity_matching_loss(model, flow, x[i : i + 1], jr.fold_in(key, i)) for i in range(BATCH)])
    )


jax.config.update("jax_enable_x64", sys.argv[1] == "float64")
found = {name: train(*numbers) for name, numbers in ARRANGEMENTS.items()}
found["stacked"] = train(2, 2, 2, stacked=True)
found["pairs 1"], found["pairs 4"] = (train(n, 1, 4 // n, rows_together=2) for n in (1, 4))
json.dump({**found, "by hand": by_hand()}, sys.stdout)
