"""What the training loop costs over a bare jitted step of the same network, part by part, in per cent of a step.

    python benchmarks/training_loop.py                # a U-Net whose step takes about 50 ms on two quiet cores
    python benchmarks/training_loop.py --channels 8   # a smaller step, where the loop's share is larger

All make the same update (loss, gradient, Adam, average). The bare step is written by hand: `jax.jit` with donated
memory, on one batch that lies on the device, and one wait at the end of a block. Each line below it adds one thing to
the line before, down to the whole loop: pictures read through `hamflow.data.batches` and sent with `feed`, the step of
`make_step`, which looks for NaN, `stats.jsonl`, the progress bar, signals. `a key a row` is what `rows_together=1`
adds, which is no part of the loop: other random numbers. `read 2 steps late`: a loop that knows its loss does not run
ahead of it by a whole block.

Short blocks of all are interleaved in one run, in another order each round. A round gives one ratio to bare, of the
time on the clock and of the time on the cores (which other programs change less); medians and quartiles are over
rounds, and `least` compares the shortest blocks. Pictures are in memory by then, as they are after the first epoch.
"""

import argparse
import itertools
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

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
from hamflow.data.cache import CachedImages
from hamflow.networks.unet import UNet

Block = Callable[[int], Any]
"""Makes so many steps, starts them all, and returns what is to be waited for."""


def main(options: argparse.Namespace) -> None:
    source = CachedImages(open_images(embedded_faces(), options.resolution))
    for index in range(len(source)):
        source.read(index)
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

    fixed = {"image": np.stack([source.read(i) for i in range(options.batch)]), "index": np.arange(options.batch)}
    on_device = training.shard_batch(fixed, mesh)

    def bare(check: bool = False, wait: bool = False) -> Block:
        trained, rest = training.split(model, trainable)
        # Nothing may share its memory with the others, which overwrite what they are given.
        trained = jax.tree.map(jnp.array, trained)
        carry = (trained, optimizer.init(trained), jax.tree.map(jnp.array, trained), jnp.zeros((), jnp.uint32))

        def step(carry, batch, n):
            trained, moments, ema, images = carry
            key = jr.fold_in(jr.key(1), n)
            value, grads = jax.value_and_grad(lambda t: loss(eqx.combine(t, rest), batch, key)[0])(trained)
            updates, moments = optimizer.update(grads, moments, trained)
            trained = optax.apply_updates(trained, updates)
            ema = average.update(ema, trained, images, options.batch)
            new = (trained, moments, ema, images + jnp.uint32(options.batch))
            if check:
                finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(grads))
                new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, carry)
            return new, value

        compiled = jax.jit(step, donate_argnums=0)
        count = itertools.count()

        def block(num_steps: int) -> Any:
            nonlocal carry
            values = []
            for n in range(num_steps):
                carry, value = compiled(carry, on_device, next(count))
                values.append(value)
                if wait and n >= 2:
                    jax.block_until_ready(values[n - 2])
            return carry, values

        return block

    def made(
        feed: Iterator[Any],
        record: Any = None,
        should_stop: Callable[[], bool] = lambda: False,
        rows: int | None = None,
    ) -> Block:
        state = training.replicate(training.init_state(model, optimizer, trainable=trainable), mesh)
        step = steps[rows]
        key = training.replicate(jr.key(1), mesh)

        def block(num_steps: int) -> Any:
            nonlocal state
            for _ in range(num_steps):
                read, batch = next(feed)
                state, metrics = step(state, batch, key)
                if record is not None:
                    record(metrics, read["index"], batch=read)
                if should_stop():
                    raise SystemExit("stopped")
            if record is not None:
                record.flush()
            return state

        return block

    steps = {
        rows: training.make_step(
            loss, optimizer, average, trainable=trainable, sharding=training.replicated(mesh), rows_together=rows
        )
        for rows in (None, 1)
    }
    folder = tempfile.mkdtemp()
    console = rich.console.Console(file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115

    def stream() -> Iterator[Any]:
        return training.feed(batches(source, options.batch, seed=0), mesh)

    logs = [training.StatsLog(f"{folder}/{number}.jsonl") for number in range(3)]
    bars = [training.Progress(10**6, console=console) for _ in range(2)]
    with training.StopOnSignal() as stop:
        stops = training.StopTogether(stop, mesh)
        whole = training.Recorder(logs[2].write, bars[1].update)
        parts = {
            "bare": bare(),
            "bare, read 2 steps late": bare(wait=True),
            "+ look for NaN, by hand": bare(check=True),
            "make_step": made(itertools.repeat((fixed, on_device))),
            "+ feed, of one batch in memory": made(training.feed(itertools.repeat(fixed), mesh)),
            "+ batches, read by grain": made(stream()),
            "+ Recorder": made(stream(), training.Recorder()),
            "+ StatsLog": made(stream(), training.Recorder(logs[0].write)),
            "+ Progress": with_bar(bars[0], made(stream(), training.Recorder(logs[1].write, bars[0].update))),
            "+ StopTogether: the loop": with_bar(bars[1], made(stream(), whole, stops)),
            "make_step, a key a row": made(itertools.repeat((fixed, on_device)), rows=1),
        }
        measure(parts, options.steps, options.blocks)


def with_bar(bar: training.Progress, block: Block) -> Block:
    """A bar has a thread that draws: only in its own blocks. Rich has one bar at a time."""

    def drawn(num_steps: int) -> Any:
        with bar:
            return jax.block_until_ready(block(num_steps))

    return drawn


def measure(parts: dict[str, Block], num_steps: int, num_rounds: int) -> None:
    wall, cores = ({name: [] for name in parts} for _ in range(2))
    for block in parts.values():
        jax.block_until_ready(block(3))
    order = list(parts)
    for _ in range(num_rounds):
        random.Random(len(wall["bare"])).shuffle(order)
        for name in order:
            begun, begun_cores = time.perf_counter(), time.process_time()
            jax.block_until_ready(parts[name](num_steps))
            wall[name].append((time.perf_counter() - begun) / num_steps)
            cores[name].append((time.process_time() - begun_cores) / num_steps)
    print(
        f"{num_rounds} rounds of {num_steps} steps, load {os.getloadavg()[0]:.1f}; over bare: median (quartiles) least"
    )
    for name in parts:
        words = [f"{name:32}"]
        for times in (wall, cores):
            ratios = np.divide(times[name], times["bare"])
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            least = min(times[name]) / min(times["bare"])
            words.append(f"{1e3 * np.median(times[name]):6.1f} ms {middle:.3f} ({low:.3f} to {high:.3f}) {least:.3f}")
        print("  clock ".join(words[:2]) + "  cores " + words[2])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--channels", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=30)
    main(parser.parse_args())
