"""Learn a density in the plane in under a minute, and look at four flows.

    python examples/two_moons.py                      # writes runs/two_moons/*.png
    python examples/two_moons.py --flow diffusion     # the same moons with another flow

Pictures: `moons.png`, data and samples; `phase_space.png`, how three flows carry data to their prior;
`checkerboard.png`, a board that dissolves in a box, and comes back.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import optax
import tyro

import hamflow as hf
from hamflow import plotting
from hamflow.data import checkerboard, two_moons
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
    lr: float = 2e-3  # at its peak; a cosine takes it to zero
    num_points: int = 50_000  # data
    num_samples: int = 30_000  # drawn for each picture
    sampling_steps: int = 18  # of Heun's method
    seed: int = 0
    smoke: bool = False  # a few steps of everything, to see that it runs


def train(
    model: hf.Preconditioned, flow: hf.Flow, data: jax.Array, key: jax.Array, config: Config
) -> hf.Preconditioned:
    """All steps in one `lax.scan`: one compilation, no Python between steps."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.lr, config.steps))
    params, static = eqx.partition(model, model.trainable())

    def step(carry, key):
        params, opt_state = carry
        key_batch, key_loss = jr.split(key)
        batch = data[jr.randint(key_batch, (config.batch,), 0, len(data))]

        def loss(params):
            return hf.velocity_matching_loss(eqx.combine(params, static), flow, batch, key_loss)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    @jax.jit
    def run(params, keys):
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)

    (params, _), losses = run(params, jr.split(key, config.steps))
    print(f"  loss {losses[: config.steps // 10 + 1].mean():.4f} -> {losses[-(config.steps // 10 + 1) :].mean():.4f}")
    return eqx.combine(params, static)


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
        config = dataclasses.replace(config, steps=20, num_points=2000, num_samples=2000, sampling_steps=4)
    try:
        config.outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"--outdir {config.outdir} cannot be written: {error.strerror}. Name a folder that can.")
    for picture in (phase_space, moons, board):
        start = time.perf_counter()
        picture(config)
        print(f"{picture.__name__}: {time.perf_counter() - start:.1f} s")
    print(f"pictures in {config.outdir}")
