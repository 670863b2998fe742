"""Learn a density in the plane in under a minute, and look at four flows.

    python examples/two_moons.py                      # writes runs/two_moons/*.png
    python examples/two_moons.py --flow diffusion     # the same moons with another flow

Pictures: `moons.png`, data and samples; `phase_space.png`, how three flows carry data to their prior;
`checkerboard.png`, a board that dissolves in a box, and comes back.
"""

import dataclasses
import sys
import time
from itertools import count
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
import optax
import tyro

import hamflow as hf
from hamflow import plotting, training
from hamflow.data import checkerboard, stream_indices, two_moons
from hamflow.networks import MLP

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob."""

    outdir: Path = Path("runs/two_moons")  # where the pictures go
    flow: Literal["oscillation", "diffusion", "flow-matching"] = "oscillation"  # of the moons
    width: int = 128  # of the network
    depth: int = 3  # residual blocks
    batch: int = 256
    steps: int = 2200  # of Adam, for each of the two trainings
    together: int = 100  # steps in one dispatch
    lr: float = 2e-3  # at its peak; a cosine takes it to zero
    num_points: int = 50_000  # data
    num_samples: int = 30_000  # drawn for each picture
    sampling_steps: int = 18  # of Heun's method
    seed: int = 0
    smoke: bool = False  # a few steps of everything, to see that it runs


def train(
    model: hf.Preconditioned, flow: hf.Flow, data: jax.Array, key: jax.Array, config: Config
) -> hf.Preconditioned:
    """A step takes a millisecond or two, and starting it as long: many of them are made in each dispatch."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.lr, config.steps))
    trainable = model.trainable()
    state = training.init_state(model, optimizer, trainable=trainable)

    def loss(model, points, key):
        return hf.velocity_matching_loss(model, flow, points, key), {}

    step = training.make_step(loss, optimizer, trainable=trainable, stacked=True)
    points = np.asarray(data)
    epochs = (stream_indices(config.seed, len(points), n * config.batch, (n + 1) * config.batch) for n in count())
    stacks = training.stack((points[rows] for rows in epochs), config.together, config.steps)
    losses = []
    with training.Progress(config.steps) as progress:
        record = training.Recorder(lambda line: losses.append(line["loss"]), progress.update)
        for _, batch in training.feed(stacks, training.device_mesh(), stacked=True):
            state, metrics = step(state, batch, key)
            record(metrics)
        record.flush()
    tenth = config.steps // 10 + 1
    print(f"  loss {np.mean(losses[:tenth]):.4f} -> {np.mean(losses[-tenth:]):.4f}")
    return state.model


def moons(config: Config) -> None:
    key_data, key_network, key_model, key_train, key_sample = jr.split(jr.key(config.seed), 5)
    data = two_moons(key_data, config.num_points)
    flow = {"oscillation": hf.oscillation, "diffusion": hf.diffusion, "flow-matching": hf.flow_matching}[config.flow]()
    network = MLP((2,), width=config.width, depth=config.depth, key=key_network)
    model = hf.Preconditioned.from_data(network, flow, data, key_model)
    model = train(model, flow, data, key_train, config)
    samples = hf.generate(model, flow, key_sample, (config.num_samples, 2), config.sampling_steps)

    figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
    plotting.density(axes[0], data, extent=2.5)
    plotting.density(axes[1], samples, extent=2.5)
    plotting.label_panels(axes, ["data", f"samples, {config.flow} flow"])
    plotting.save_figure(figure, config.outdir / "moons.png")


def phase_space(config: Config) -> None:
    """The poster's picture: one-dimensional data with two modes, in three flows."""
    mixture = hf.GaussianMixturePotential(jnp.array([-1.5, 1.5]), jnp.array([0.2, 0.2]), jnp.array([0.5, 0.5]))
    key_data, *keys = jr.split(jr.key(config.seed), 4)
    data = jax.vmap(lambda k: mixture.sample(k, ()))(jr.split(key_data, 400))
    flows = {
        "diffusion, T = 8": hf.diffusion(horizon=8.0, data_std=1.5),  # at EDM's 80 the data were a line
        "CondOT flow matching": hf.flow_matching(),
        "oscillation": hf.oscillation(),
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for ax, flow, key in zip(axes, flows.values(), keys, strict=True):
        plotting.phase_portrait(ax, flow, data, key)
    plotting.label_panels(axes, flows)
    axes[1].margins(y=0.25)  # room for the legend
    axes[1].legend(loc="upper left", frameon=False)
    plotting.save_figure(figure, config.outdir / "phase_space.png")


def board(config: Config) -> None:
    """A checkerboard dissolves in a box, exactly; the learned velocity brings it back from uniform noise."""
    key_data, key_network, key_model, key_train, key_sample, *keys = jr.split(jr.key(config.seed + 1), 10)
    data = checkerboard(key_data, config.num_points)
    flow = hf.reflection()
    network = MLP((2,), width=config.width, depth=config.depth, position_octaves=4, key=key_network)  # sharp edges
    model = hf.Preconditioned.from_data(network, flow, data, key_model)
    model = train(model, flow, data, key_train, config)

    shown = [0.0, 0.1, 0.2, 0.4, 3.0]
    figure, axes = plt.subplots(1, 6, figsize=(15, 3), layout="constrained")
    for ax, t, key in zip(axes, shown, keys, strict=False):
        plotting.density(ax, flow.sample_state(key, data, jnp.full((len(data),), t)).position, extent=1.0)
    plotting.density(
        axes[-1], hf.generate(model, flow, key_sample, (config.num_samples, 2), config.sampling_steps), 1.0
    )
    plotting.label_panels(axes, [f"t = {t:g}" for t in shown] + ["and back: generated"])
    plotting.save_figure(figure, config.outdir / "checkerboard.png")


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    if config.smoke:
        config = dataclasses.replace(config, steps=20, together=10, num_points=2000, num_samples=2000, sampling_steps=4)
    try:
        config.outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"--outdir {config.outdir} cannot be written: {error.strerror}. Name a folder that can.")
    for picture in (phase_space, moons, board):
        start = time.perf_counter()
        picture(config)
        print(f"{picture.__name__}: {time.perf_counter() - start:.1f} s")
    print(f"pictures in {config.outdir}")
