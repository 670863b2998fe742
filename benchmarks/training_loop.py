"""What the training loop costs over a bare jitted step of the same network, in per cent of a step.

    python benchmarks/training_loop.py                # a U-Net whose step takes about 50 ms on two cores
    python benchmarks/training_loop.py --channels 8   # a smaller step, where the loop's share is larger

Both sides make the same update (loss, gradient, Adam, average). The bare side is written by hand: `jax.jit` with
donated memory, on one batch that lies on the device, and one wait at the end of a block. The loop reads pictures
through `hamflow.data.batches`, sends them with `feed`, makes the step of `make_step` (which looks for NaN, too), writes
`stats.jsonl`, moves the progress bar and asks for signals. Blocks of both are interleaved in one run; the ratio is that
of the medians, with the spread of the blocks.
"""

import argparse
import os
import statistics
import tempfile
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import rich.console

import hamflow as hf
from hamflow import training
from hamflow.data import batches, embedded_faces, open_images, to_float
from hamflow.networks.unet import UNet


def main(options: argparse.Namespace) -> None:
    source = open_images(embedded_faces(), options.resolution)
    flow = hf.oscillation()
    network = UNet(
        options.resolution, channels_in=3, base_channels=options.channels, channel_multipliers=(1, 1, 2),
        blocks_per_level=(0, 1, 1), key=jr.key(0),
    )  # fmt: skip
    model = hf.Preconditioned(network, flow, 0.5)
    trainable, optimizer, mesh = model.trainable(), optax.adam(1e-3), training.device_mesh()
    average = training.ExponentialMovingAverage()

    def loss(model, batch, key):
        return hf.velocity_matching_loss(model, flow, to_float(batch["image"]), key), {}

    # By hand.
    trained, rest = training.split(model, trainable)
    # Nothing may share its memory with the other side, which overwrites what it is given.
    trained = jax.tree.map(jnp.array, trained)
    carry = (trained, optimizer.init(trained), jax.tree.map(jnp.array, trained), jnp.zeros((), jnp.uint32))

    def bare_step(carry, batch, n):
        trained, moments, ema, images = carry
        key = jr.fold_in(jr.key(1), n)
        value, grads = jax.value_and_grad(lambda t: loss(eqx.combine(t, rest), batch, key)[0])(trained)
        updates, moments = optimizer.update(grads, moments, trained)
        trained = optax.apply_updates(trained, updates)
        ema = average.update(ema, trained, images, options.batch)
        return (trained, moments, ema, images + jnp.uint32(options.batch)), value

    bare = jax.jit(bare_step, donate_argnums=0)
    fixed = {"image": jnp.asarray(np.stack([source.read(i) for i in range(options.batch)]))}

    # With the loop.
    state = training.replicate(training.init_state(model, optimizer, trainable=trainable), mesh)
    step = training.make_step(loss, optimizer, average, trainable=trainable, sharding=training.replicated(mesh))
    stream = training.feed(batches(source, options.batch, seed=0), mesh)
    folder = tempfile.mkdtemp()
    stats = training.StatsLog(f"{folder}/stats.jsonl")
    console = rich.console.Console(file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    progress = training.Progress(10**6, console=console)
    record = training.Recorder(stats.write, progress.update)

    def block_bare(carry, n):
        begun = time.perf_counter()
        for i in range(options.steps):
            carry, value = bare(carry, fixed, n + i)
        jax.block_until_ready((carry, value))
        return carry, (time.perf_counter() - begun) / options.steps

    def block_loop(state, should_stop):
        begun = time.perf_counter()
        for _ in range(options.steps):
            read, batch = next(stream)
            state, metrics = step(state, batch, jr.key(1))
            record(metrics, read["index"])
            if should_stop():
                raise SystemExit("stopped")
        record.flush()
        jax.block_until_ready(state)
        return state, (time.perf_counter() - begun) / options.steps

    times = {"bare": [], "loop": []}
    with training.StopOnSignal() as stop, stats, progress:
        should_stop = training.StopTogether(stop, mesh)
        carry, _ = block_bare(carry, 0)
        state, _ = block_loop(state, should_stop)
        for block in range(options.blocks):
            carry, seconds = block_bare(carry, block * options.steps)
            times["bare"].append(seconds)
            state, seconds = block_loop(state, should_stop)
            times["loop"].append(seconds)
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"{name}: {1e3 * middle[name]:.2f} ms a step ({1e3 * min(values):.2f} to {1e3 * max(values):.2f})")
    ratios = [loop / bare for loop, bare in zip(times["loop"], times["bare"], strict=True)]
    low, middle_ratio, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"loop over bare, block by block: median {middle_ratio:.4f}, quartiles {low:.4f} to {high:.4f}")
    print(f"ratio of the medians {middle['loop'] / middle['bare']:.4f}; load {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=15)
    main(parser.parse_args())
