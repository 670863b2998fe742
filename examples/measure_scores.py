"""Measure scores learned elsewhere: how far is each from the score of the data, with an error bar, from data alone?

    python examples/measure_scores.py                 # writes runs/measure_scores/*, about a minute on two cores
    python examples/measure_scores.py --sigma 0.1     # models of less noise

Denoising score matching learns the score of data with noise, and so does a generative flow, whose velocity predictor
`hf.convert` turns into a score at any time. The Hamiltonian score discrepancy takes each as a plain callable and asks
whether data with momenta stay where they are while they follow it, for a short time. Every score is measured twice: on
data with the noise it was trained with (did it learn its task?) and on clean data (what does the noise cost?).

`table.txt` has the discrepancies beside E|F - score|^2, which takes the true score, known here and nowhere else;
`scores.png` is the same as a picture.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
import optax
import tyro

import hamflow as hf
from hamflow import plotting
from hamflow.networks import MLP
from hamflow.training import check_ranges

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob."""

    outdir: Path = Path("runs/measure_scores")  # where table and picture go
    std: float = 0.4  # of each of the eight components, on a circle of radius 2
    sigma: float = 0.2  # of the noise that the models were trained with
    num_points: int = 20_000  # data to learn from, and as many to measure with
    width: int = 128  # of every network
    batch: int = 256
    steps: int = 4000  # of Adam, for every model
    lr: float = 2e-3  # at its start; a cosine takes it to zero
    seed: int = 0
    smoke: bool = False  # a few steps of everything, to see that it runs


RANGES = {
    **dict.fromkeys(("width", "batch", "steps"), (1, math.inf)),
    **dict.fromkeys(("std", "sigma", "lr"), (1e-6, math.inf)),
    "num_points": (400, math.inf),
    "seed": (0, math.inf),
}


Score = Callable[[jax.Array], jax.Array]


def ring(std: float) -> hf.GaussianMixturePotential:
    """Eight Gaussians; with noise of sigma they are Gaussians of deviation sqrt(std^2 + sigma^2)."""
    angle = 2 * jnp.pi * jnp.arange(8) / 8
    means = 2.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return hf.GaussianMixturePotential(means, jnp.full(8, std), jnp.ones(8))


def draw(truth: hf.GaussianMixturePotential, key: jax.Array, number: int) -> jax.Array:
    return jax.vmap(lambda k: truth.sample(k, (2,)))(jr.split(key, number))


def train(loss: Any, model: Any, trainable: Any, data: jax.Array, key: jax.Array, config: Config) -> Any:
    """Adam with a cosine, all steps in one scan."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.lr, config.steps))
    parameters, static = eqx.partition(model, trainable)

    def step(carry, key):
        parameters, state = carry
        keys = jr.split(key)
        rows = jr.randint(keys[0], (config.batch,), 0, len(data))
        gradient = jax.grad(lambda p: loss(eqx.combine(p, static), data[rows], keys[1]))(parameters)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(parameters, updates), state), None

    @jax.jit
    def run(parameters, keys):
        return jax.lax.scan(step, (parameters, optimizer.init(parameters)), keys)[0][0]

    return eqx.combine(run(parameters, jr.split(key, config.steps)), static)


def denoising_model(config: Config, data: jax.Array, key: jax.Array) -> Score:
    """A plain network that maps one position to one score; hamflow knows nothing else about it."""

    def loss(score, x, key):
        return hf.denoising_score_matching_loss(score, x, key, sigma=config.sigma)

    keys = jr.split(key)
    network = eqx.nn.MLP(2, 2, config.width, 3, activation=jax.nn.silu, key=keys[0])
    return train(loss, network, eqx.is_inexact_array, data, keys[1], config)


def flow_model(config: Config, flow: hf.Flow, data: jax.Array, key: jax.Array) -> Score:
    """The velocity predictor of a generative flow, as a score at the time where b / a is sigma.

    The flow has x_t = a x_0 + b e there, and the score S of that; x_0 + sigma e = x_t / a has a S(a x).
    """

    def loss(model, x, key):
        return hf.velocity_matching_loss(model, flow, x, key)

    keys = jr.split(key, 3)
    network = MLP((2,), width=config.width, depth=3, key=keys[0])
    model = hf.Preconditioned.from_data(network, flow, data, keys[1])
    model = train(loss, model, model.trainable(), data, keys[2], config)
    predictor = hf.convert(model, flow, "velocity", "score")
    t = float(flow.noise_scale.time(jnp.log(config.sigma)))
    a = float(flow.coefficients(t)[0])
    return lambda x: a * predictor(t, a * x)


def measure(
    score: Score, truth: hf.GaussianMixturePotential, data: jax.Array, key: jax.Array
) -> tuple[np.ndarray, float]:
    """The discrepancy, from data alone, and what it estimates, by the true score: both over E|score|^2."""
    size = float(hf.explicit_score_matching_loss(hf.ZeroPotential(), data, truth=truth))
    found = hf.hamiltonian_score_discrepancy(score, data, key)
    exact = float(hf.explicit_score_matching_loss(score, data, truth=truth))
    return np.array([found.estimate, found.standard_error]) / size, exact / size


def draw_picture(path: Path, rows: dict[str, list[tuple[np.ndarray, float]]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
    places = np.arange(len(rows))
    for i, ax in enumerate(axes):
        found = np.array([row[i][0] for row in rows.values()])
        ax.errorbar(found[:, 0], places, xerr=found[:, 1], fmt="o", color=plotting.PRIOR, label="discrepancy")
        ax.plot([row[i][1] for row in rows.values()], places, "|", color=plotting.DATA, ms=18, label="E|F - score|²")
        ax.axvline(0.0, color="0.8", linewidth=1, zorder=0)
        ax.set(yticks=places, xlabel="over E|score|²")
        ax.margins(y=0.25)
    axes[0].set_yticklabels(rows)
    axes[0].invert_yaxis()
    axes[0].legend(frameon=False)
    plotting.label_panels(axes, ["against data with noise", "against clean data"])
    plotting.save_figure(figure, path)


def main(config: Config) -> None:
    check_ranges(config, RANGES)
    try:
        config.outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"--outdir {config.outdir} cannot be written: {error.strerror}. Name a folder that can.")
    keys = jr.split(jr.key(config.seed), 8)
    truth, noisy_truth = ring(config.std), ring(math.hypot(config.std, config.sigma))
    data, test = draw(truth, keys[0], config.num_points), draw(truth, keys[1], config.num_points)
    noisy = test + config.sigma * jr.normal(keys[5], test.shape)
    scores = {
        "the true score, no noise": lambda x: truth.force(0.0, x),
        "denoising": denoising_model(config, data, keys[2]),
        "diffusion, converted": flow_model(config, hf.diffusion(data_std=float(data.std())), data, keys[3]),
        "flow matching, converted": flow_model(config, hf.flow_matching(), data, keys[4]),
    }
    lines = ["over E|score|^2          noisy data: discrepancy, exact      clean data: discrepancy, exact"]
    rows = {}
    for name, score in scores.items():
        rows[name] = [measure(score, noisy_truth, noisy, keys[6]), measure(score, truth, test, keys[7])]
        cells = [f"{found[0]:8.4f} +- {found[1]:.4f}, {exact:.4f}" for found, exact in rows[name]]
        lines.append(f"{name:<24} {cells[0]:>30} {cells[1]:>35}")
    print("\n".join(lines))
    (config.outdir / "table.txt").write_text("\n".join(lines) + "\n")
    draw_picture(config.outdir / "scores.png", rows)


if __name__ == "__main__":
    start = time.perf_counter()
    config = tyro.cli(Config, description=__doc__)
    if config.smoke:
        config = dataclasses.replace(config, num_points=1000, width=16, batch=64, steps=20)
    main(config)
    print(f"scores.png and table.txt in {config.outdir}: {time.perf_counter() - start:.0f} s")
