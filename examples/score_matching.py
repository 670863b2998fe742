"""Hamiltonian score matching in the plane: the four pictures of the paper's poster, and the numbers behind them.

    python examples/score_matching.py                    # writes runs/score_matching/*, a few minutes on two cores
    python examples/score_matching.py --std 0.3          # a sharper mixture, whose exact score every panel knows

(a) `discrepancy.png`: networks trained for one epoch, by objectives and at learning rates good and bad; the explicit
    score-matching loss of each, which takes the true score, against its discrepancy, which takes data alone.
(b) the same picture, right: the discrepancy of one of them over time against its Taylor approximation t^2 E|F - s|^2.
(c) `gradients.png`: standard deviation against absolute mean of every parameter's gradient, for denoising score
    matching at falling noise and for Hamiltonian score matching without noise.
(d) `mixture.png`: the density, the score learned without noise, and the learned velocity predictor, near zero.

`table.txt` has the numbers: the correlation in (a), signal to noise in (c), the errors in (d).
"""

import dataclasses
import math
import time
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
from jax.flatten_util import ravel_pytree

import hamflow as hf
from hamflow import plotting
from hamflow.training import check_ranges

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob."""

    outdir: Path = Path("runs/score_matching")  # where pictures and table go
    components: int = 8  # of the mixture, on a circle of radius 2
    std: float = 0.4  # of each
    time: float = 0.1  # of the short motion, in training and in (c)
    num_points: int = 20_000  # data
    width: int = 128  # of the three hidden layers of every network
    batch: int = 256
    steps: int = 6000  # of Adam in (d)
    lr: float = 1e-3  # at its start; a cosine takes it to zero
    rates: tuple[float, ...] = (3e-5, 1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3)  # of the epochs of (a)
    sigmas: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of denoising score matching in (c)
    gradients: int = 400  # minibatches whose gradients (c) compares
    horizon: float = 0.8  # of (b)
    seed: int = 0
    smoke: bool = False  # a few steps of everything, to see that it runs


RANGES = {
    **dict.fromkeys(("components", "width", "batch", "steps"), (1, math.inf)),
    **dict.fromkeys(("std", "time", "lr", "horizon"), (1e-6, math.inf)),
    "num_points": (400, math.inf),
    "gradients": (2, math.inf),
    "seed": (0, math.inf),
}


def ring(components: int, std: float) -> hf.GaussianMixturePotential:
    """Equal Gaussians on a circle: a potential, so that its force is the true score."""
    angle = 2 * jnp.pi * jnp.arange(components) / components
    means = 2.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return hf.GaussianMixturePotential(means, jnp.full(components, std), jnp.ones(components))


def perceptron(config: Config, key: jax.Array) -> eqx.nn.MLP:
    """A score, or half of a velocity predictor."""
    return eqx.nn.MLP(2, 2, config.width, 3, activation=jax.nn.silu, key=key)


def objectives(config: Config) -> dict[str, Any]:
    """Losses of a score network without a teacher, all of one signature."""

    def hamiltonian(score, x, key):
        return hf.hamiltonian_score_matching_loss(score, x, key, times=config.time)

    def denoising(score, x, key):
        return hf.denoising_score_matching_loss(score, x, key, sigma=config.time)

    return {"Hamiltonian": hamiltonian, "sliced": hf.sliced_score_matching_loss, "denoising": denoising}


def train(loss: Any, model: Any, data: jax.Array, key: jax.Array, steps: int, batch: int, lr: Any) -> Any:
    """Adam with a cosine; without replacement within an epoch."""
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    adam = optax.scale_by_adam()
    per_epoch = max(len(data) // batch, 1)
    decay = optax.cosine_decay_schedule(1.0, steps)

    def step(carry, i):
        parameters, state = carry
        order = jr.permutation(jr.fold_in(key, i // per_epoch), len(data))
        rows = jax.lax.dynamic_slice(order, ((i % per_epoch) * batch,), (batch,))
        loss_key = jr.fold_in(jr.fold_in(key, 1), i)
        gradient = jax.grad(lambda p: loss(eqx.combine(p, static), data[rows], loss_key))(parameters)
        updates, state = adam.update(gradient, state)
        scale = -lr * decay(i)
        return (jax.tree.map(lambda p, u: p + scale * u, parameters, updates), state), None

    carry = (parameters, adam.init(parameters))
    (parameters, _), _ = jax.lax.scan(step, carry, jnp.arange(steps))
    return eqx.combine(parameters, static)


def error(score: Any, truth: Any, data: jax.Array) -> float:
    """E|F - s|^2, twice the explicit score-matching loss."""
    return float(hf.explicit_score_matching_loss(score, data, truth=truth))


def one_epoch(config: Config, truth: Any, data: jax.Array, key: jax.Array) -> tuple[np.ndarray, np.ndarray, Any]:
    """(a): E|F - s|^2 and its estimate by the discrepancy, of every network; and the one in the middle."""
    errors, found, networks = [], [], []
    rates = jnp.asarray(config.rates)
    test = jax.vmap(lambda k: truth.sample(k, (2,)))(jr.split(jr.fold_in(key, 9), len(data)))
    for i, loss in enumerate(objectives(config).values()):
        keys = jr.split(jr.fold_in(key, i), len(rates))

        def fit(lr, key, loss=loss):
            network = perceptron(config, key)
            steps = max(len(data) // config.batch, 1)
            return eqx.filter(train(loss, network, data, key, steps, config.batch, lr), eqx.is_array)

        stack = jax.jit(jax.vmap(fit))(rates, keys)
        static = eqx.filter(perceptron(config, key), eqx.is_array, inverse=True)
        networks += [eqx.combine(jax.tree.map(lambda leaf, j=j: leaf[j], stack), static) for j in range(len(rates))]
    for network in networks:
        errors.append(error(network, truth, test))
        times = (config.time / 4, config.time / 2)
        found.append(hf.hamiltonian_score_discrepancy(network, test, jr.fold_in(key, 10), times=times, num_steps=1))
    middle = networks[int(np.argsort(errors)[len(errors) // 2])]
    return np.array(errors), np.array([(f.estimate, f.standard_error) for f in found]), middle


def over_time(config: Config, score: Any, truth: Any, data: jax.Array, key: jax.Array) -> tuple[Any, float]:
    """(b): the discrepancy at many times, and E|F - s|^2."""
    times = tuple(float(t) for t in np.linspace(0.02, 1.0, 14) * config.horizon)
    return hf.hamiltonian_score_discrepancy(score, data, key, times=times), error(score, truth, data)


def gradient_noise(config: Config, score: Any, data: jax.Array, key: jax.Array) -> dict[str, tuple[Any, Any, float]]:
    """(c): |mean| and standard deviation of each parameter's gradient, and |mean gradient| over its noise."""
    losses = {
        f"denoising, sigma = {s:g}": lambda score, x, k, s=s: hf.denoising_score_matching_loss(score, x, k, sigma=s)
        for s in config.sigmas
    }
    losses["Hamiltonian, no noise"] = objectives(config)["Hamiltonian"]
    parameters, static = eqx.partition(score, eqx.is_inexact_array)
    out = {}
    for name, loss in losses.items():

        def gradient(k, loss=loss):
            keys = jr.split(k)
            rows = jr.randint(keys[0], (config.batch,), 0, len(data))
            tree = jax.grad(lambda p: loss(eqx.combine(p, static), data[rows], keys[1]))(parameters)
            return ravel_pytree(tree)[0]

        grads = jax.jit(lambda keys, gradient=gradient: jax.lax.map(gradient, keys))(jr.split(key, config.gradients))
        mean, std = np.asarray(grads.mean(0)), np.asarray(grads.std(0, ddof=1))
        noise = float(np.sum(std**2))
        signal = max(float(np.sum(mean**2)) - noise / config.gradients, 0.0)  # the mean of few has noise of its own
        out[name] = (np.abs(mean), std, math.sqrt(signal / noise))
    return out


def learn(config: Config, data: jax.Array, key: jax.Array) -> tuple[Any, Any]:
    """(d): the force F and the predictor's half S together, by the game of Hamiltonian score matching."""

    def loss(players, x, key):
        force, gap = players
        return hf.hamiltonian_score_matching_loss(
            force, x, key, times=config.time, inner="network", predictor=hf.GapVelocity(force, gap)
        )

    keys = jr.split(key, 3)
    players = (perceptron(config, keys[0]), perceptron(config, keys[1]))
    run = eqx.filter_jit(lambda players: train(loss, players, data, keys[2], config.steps, config.batch, config.lr))
    return run(players)


def draw_discrepancy(path: Path, errors: np.ndarray, found: np.ndarray, correlation: float, time_: Any, e: float):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.errorbar(errors / 2, found[:, 0], found[:, 1], fmt="o", color=plotting.PRIOR, markersize=4)
    line = np.array([errors.min(), errors.max()])
    left.plot(line / 2, line, color=plotting.PATH, linewidth=1, label="D(t) / t² = 2 L")
    left.set(xlabel="explicit score-matching loss L", ylabel="discrepancy D(t) / t²", xscale="log", yscale="log")
    left.set_title(f"{len(errors)} networks after one epoch, correlation {correlation:.3f}", fontsize=10)
    left.legend(frameon=False)
    right.errorbar(time_.times, time_.values, time_.standard_errors, fmt="o-", color=plotting.PRIOR, markersize=4)
    right.plot(time_.times, time_.times**2 * e, "--", color=plotting.DATA)
    right.set(xlabel="t", ylabel="discrepancy D(t)", ylim=(0.0, 2.0 * float(time_.values.max())))
    right.set_title("over time (points), and t² E|F - s|² (dashed)", fontsize=10)
    plotting.save_figure(figure, path)


def draw_gradients(path: Path, noise: dict[str, tuple[Any, Any, float]]) -> None:
    figure, ax = plt.subplots(figsize=(6.5, 5), layout="constrained")
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(noise) - 1))
    for (name, (mean, std, ratio)), colour in zip(noise.items(), [*colours, plotting.DATA], strict=True):
        some = slice(None, None, max(len(mean) // 1500, 1))
        ax.scatter(mean[some], std[some], s=3, color=colour, alpha=0.5, label=f"{name}: signal / noise {ratio:.2g}")
    ax.set(xlabel="absolute mean", ylabel="standard deviation", xscale="log", yscale="log")
    ax.set_title("gradients of a score network's parameters, one minibatch", fontsize=10)
    ax.legend(frameon=False, fontsize=8, markerscale=3)
    plotting.save_figure(figure, path)


def draw_mixture(path: Path, truth: Any, players: Any, data: jax.Array) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(15, 4), layout="constrained")
    side = jnp.linspace(-3.2, 3.2, 23)
    grid = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
    grid = grid[jax.vmap(truth.log_prob)(grid) > -7.0]  # where there are data
    force, gap = players
    fields = [
        jax.vmap(lambda x: truth.force(0.0, x))(grid),
        jax.vmap(force)(grid),
        jax.vmap(lambda x: force(x) - gap(x))(grid),
    ]
    scale = 12.0 * float(jnp.quantile(jnp.linalg.norm(fields[0], axis=1), 0.9))
    plotting.density(axes[0], data, extent=3.2)
    for ax, field in zip(axes[1:], fields, strict=True):
        ax.quiver(*np.asarray(grid).T, *np.asarray(field).T, color=plotting.PRIOR, scale=scale, width=4e-3)
        ax.set(xticks=[], yticks=[], aspect="equal", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
    plotting.label_panels(axes, ["data", "true score", "learned score F", "learned velocity V / t, same arrows"])
    plotting.save_figure(figure, path)


def main(config: Config) -> None:
    check_ranges(config, RANGES)
    config.outdir.mkdir(parents=True, exist_ok=True)
    keys = jr.split(jr.key(config.seed), 7)
    truth = ring(config.components, config.std)
    data, test = (jax.vmap(lambda k: truth.sample(k, (2,)))(jr.split(k, config.num_points)) for k in keys[:2])
    size = error(lambda x: jnp.zeros_like(x), truth, test)
    rows = []

    def say(row: str) -> None:
        rows.append(row)
        print(row, flush=True)

    errors, found, middle = one_epoch(config, truth, data, keys[2])
    correlation = float(np.corrcoef(errors, found[:, 0])[0, 1])
    say(f"(a) {len(errors)} networks, E|F - s|^2 / E|s|^2 from {errors.min() / size:.3f} to {errors.max() / size:.3f}")
    say(f"    correlation of explicit loss and discrepancy: {correlation:.4f}")
    over, e = over_time(config, middle, truth, test, keys[3])
    say("(b) t, D(t), its standard error, t^2 E|F - s|^2")
    for t, value, deviation in zip(over.times, over.values, over.standard_errors, strict=True):
        say(f"    {t:.3f}  {value:.4f}  {deviation:.4f}  {t**2 * e:.4f}")
    draw_discrepancy(config.outdir / "discrepancy.png", errors, found, correlation, over, e)

    noise = gradient_noise(config, middle, data, keys[4])
    say("(c) |mean gradient| / its standard deviation, one minibatch")
    for name, (_, _, ratio) in noise.items():
        say(f"    {name:<26} {ratio:.4f}")
    draw_gradients(config.outdir / "gradients.png", noise)

    players = learn(config, data, keys[5])
    force, gap = players
    near_zero = float(jnp.mean(jax.vmap(lambda x: jnp.sum((force(x) - gap(x)) ** 2))(test)))
    say(f"(d) E|F - s|^2 / E|s|^2: {error(force, truth, test) / size:.4f}; E|V / t|^2 / E|s|^2: {near_zero / size:.4f}")
    measured = hf.hamiltonian_score_discrepancy(force, test, keys[6], times=(config.time / 2, config.time))
    share, deviation = measured.estimate / size, measured.standard_error / size
    say(f"    discrepancy of F, from data alone: {share:.4f} +- {deviation:.4f}")
    draw_mixture(config.outdir / "mixture.png", truth, players, test)
    (config.outdir / "table.txt").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    start = time.perf_counter()
    config = tyro.cli(Config, description=__doc__)
    if config.smoke:
        tiny = {"num_points": 1000, "width": 16, "batch": 64, "steps": 20, "rates": (1e-3, 3e-3), "gradients": 4}
        config = dataclasses.replace(config, **tiny, sigmas=(0.01, 0.1))
    main(config)
    print(f"three pictures and table.txt in {config.outdir}: {time.perf_counter() - start:.0f} s")
