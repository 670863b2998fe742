"""Recover a potential from noisy trajectories, and follow what was learned fifty times longer than it was trained.

    python examples/learn_dynamics.py                    # writes runs/learn_dynamics/*.png
    python examples/learn_dynamics.py --noise 0.12       # twice the noise

Stars in the plane of a galaxy (Hénon and Heiles) are observed about 25 times a swing, positions and momenta both, with
noise. Three models of about as many parameters are fitted to windows of half a swing, by gradients through the
integrator, with the same optimiser, steps and learning rate:

    energy    hf.Hamiltonian(hf.NetworkPotential(network), ...)   an MLP is U(x), leapfrog
    force     hf.ForcedSystem(hf.NetworkForce(network), ...)      an MLP is F(x), leapfrog
    ode       a plain neural ODE, dz/dt = network(z), z = (x, p)  an MLP is everything, Runge-Kutta of diffrax

The second stands between the others: it knows that dx/dt = p, and not that energy is conserved. What came of it at the
defaults, in 40 s on two cores: all three fit the windows to the noise. After fifty windows the energy of the first is
off by half a percent, as it was after one, those of the others by 2 and 13 percent (medians). For the position
dx/dt = p counts most: the force keeps up with the energy, and leads after ten windows; the neural ODE is behind from
the first window on.

Pictures: `potential.png`, the true potential and the learned one; `horizon.png`, the errors of energy and position over
time; `paths.png`, one held-out path as each model has it.
"""

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any, Literal

import diffrax
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
from hamflow.training import check_ranges

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob."""

    outdir: Path = Path("runs/learn_dynamics")  # where the pictures go
    num_paths: int = 16  # observed
    interval: float = 0.25  # between two observations; a small swing takes 2 pi
    window: int = 12  # intervals in a window
    windows: int = 8  # in a path, end to end
    noise: float = 0.06  # standard deviation of every observed number; the positions have one of .77
    width: int = 32  # of the two hidden layers
    steps: int = 1500  # of Adam, for each model
    lr: float = 3e-2  # at its start; a cosine takes it to zero. Of .01, .03, .06 the best one for the neural ODE
    leapfrogs: int = 2  # steps an interval
    adjoint: Literal["checkpoint", "reversible"] = "checkpoint"  # how gradients go back through leapfrog
    num_tests: int = 32  # held-out starts
    horizon: int = 50  # windows that they are followed for
    seed: int = 0
    smoke: bool = False  # a few steps of everything, to see that it runs


RANGES = {
    **dict.fromkeys(("num_paths", "window", "windows", "width", "steps", "leapfrogs"), (1, math.inf)),
    **dict.fromkeys(("num_tests", "horizon"), (1, math.inf)),
    **dict.fromkeys(("noise", "lr"), (1e-6, math.inf)),
    "interval": (1e-3, 1.0),  # the integrators take a few steps in each
    "seed": (0, math.inf),
}
# Lengths and energies in units in which the three saddles lie at a distance of 4, at an energy of 8 / 3.
TRUTH = hf.Hamiltonian(hf.HenonHeilesPotential(coupling=0.25), hf.GaussianKinetic())
ENERGIES = (0.64, 1.6)  # of the starts: the orbits are bounded, and most of them regular
COLOURS = {"energy": plotting.PRIOR, "force": "#e09f3e", "ode": plotting.DATA}
NAMES = {"energy": "learned energy", "force": "learned force", "ode": "neural ODE"}


# -- data ------------------------------------------------------------------------------------------------------------
def draw_start(key: jax.Array) -> hf.PhaseState:
    """A position in the unit disc, an energy, and a direction for the momentum that this energy leaves."""
    key_radius, key_angle, key_energy, key_direction = jr.split(key, 4)
    position = jnp.sqrt(jr.uniform(key_radius)) * direction(key_angle)
    energy = jr.uniform(key_energy, minval=ENERGIES[0], maxval=ENERGIES[1])
    speed = jnp.sqrt(2 * (energy - TRUTH.potential.energy(0.0, position)))  # U < .6 in the disc
    return hf.PhaseState(position, speed * direction(key_direction))


def direction(key: jax.Array) -> jax.Array:
    angle = jr.uniform(key, maxval=2 * jnp.pi)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def simulate(key: jax.Array, num_paths: int, intervals: int, config: Config) -> hf.PhaseState:
    """True paths (num_paths, intervals + 1, 2), by Yoshida's method of order 8: exact for what is asked here."""

    def path(key: jax.Array) -> hf.PhaseState:
        end, steps = intervals * config.interval, 4 * intervals
        return saved(hf.integrate(TRUTH, draw_start(key), 0.0, end, steps, hf.Yoshida8(), save_every=4))

    return jax.jit(jax.vmap(path))(jr.split(key, num_paths))


def observe(key: jax.Array, paths: hf.PhaseState, config: Config) -> hf.PhaseState:
    """Noisy windows (num_paths * windows, window + 1, 2); the end of one is the start of the next."""
    first = jnp.arange(config.windows) * config.window
    inside = first[:, None] + jnp.arange(config.window + 1)[None]

    def one(key: jax.Array, values: jax.Array) -> jax.Array:
        noisy = values + config.noise * jr.normal(key, values.shape)
        return noisy[:, inside].reshape(-1, config.window + 1, 2)

    key_position, key_momentum = jr.split(key)
    return hf.PhaseState(one(key_position, paths.position), one(key_momentum, paths.momentum))


# -- models ----------------------------------------------------------------------------------------------------------
class NeuralODE(eqx.Module):
    """dz/dt = network(z)."""

    network: eqx.nn.MLP


def make_model(name: str, key: jax.Array, config: Config) -> Any:
    """Three networks of one width and depth; what they map from and to is what differs."""

    def network(inputs: int, outputs: int | Literal["scalar"]) -> eqx.nn.MLP:
        return eqx.nn.MLP(inputs, outputs, config.width, 2, jnp.tanh, key=key)

    match name:
        case "energy":
            return hf.Hamiltonian(hf.NetworkPotential(network(2, "scalar")), hf.GaussianKinetic())
        case "force":
            return hf.ForcedSystem(hf.NetworkForce(network(2, 2)), hf.GaussianKinetic())
    return NeuralODE(network(4, 4))


def follow(model: Any, start: hf.PhaseState, intervals: int, config: Config) -> hf.PhaseState:
    """The path of a model from one start, saved after every interval: (intervals + 1, 2)."""
    end = intervals * config.interval
    if not isinstance(model, NeuralODE):
        steps, each = intervals * config.leapfrogs, config.leapfrogs
        return saved(hf.integrate(model, start, 0.0, end, steps, hf.Leapfrog(), config.adjoint, save_every=each))
    times = jnp.linspace(0.0, end, intervals + 1)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, z, args: model.network(z)),
        diffrax.Bosh3(),  # of order 3; Tsit5 gives the same fit and takes longer
        0.0,
        end,
        None,
        jnp.concatenate([start.position, start.momentum]),
        stepsize_controller=diffrax.StepTo(times),
        saveat=diffrax.SaveAt(ts=times),
        adjoint=diffrax.DirectAdjoint(),  # the fastest for so few steps
        max_steps=intervals,
    )
    assert solution.ys is not None
    return hf.PhaseState(solution.ys[:, :2], solution.ys[:, 2:])


@eqx.filter_jit
def follow_all(model: Any, true_paths: hf.PhaseState, config: Config) -> hf.PhaseState:
    """From the starts of some true paths, over the whole horizon."""
    starts = jax.tree.map(lambda values: values[:, 0], true_paths)
    return jax.vmap(lambda start: follow(model, start, config.horizon * config.window, config))(starts)


def saved(trajectory: hf.Trajectory) -> hf.PhaseState:
    assert trajectory.states is not None
    return trajectory.states


# -- training --------------------------------------------------------------------------------------------------------
def train(model: Any, windows: hf.PhaseState, config: Config) -> tuple[Any, float]:
    """All steps in one `lax.scan`, every step on all windows.

    A window starts where nobody saw it exactly, so the starts are parameters too (multiple shooting): a path that sets
    out from a noisy observation would bend the force to make up for it.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(config.lr, config.steps))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    starts = jax.tree.map(lambda values: values[:, 0], windows)

    def loss(params, starts):
        """Squared errors in units of the noise: 1, less the share of the fitted starts, if all else is right."""
        paths = jax.vmap(lambda start: follow(eqx.combine(params, static), start, config.window, config))(starts)
        errors = jax.tree.map(lambda path, seen: jnp.mean((path - seen) ** 2), paths, windows)
        return (errors.position + errors.momentum) / (2 * config.noise**2)

    def step(carry, _):
        fitted, opt_state = carry
        value, gradients = jax.value_and_grad(lambda fitted: loss(*fitted))(fitted)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(fitted, updates), opt_state), value

    @jax.jit
    def run(fitted):
        return jax.lax.scan(step, (fitted, optimizer.init(fitted)), length=config.steps)

    ((params, _), _), losses = run((params, starts))
    return eqx.combine(params, static), float(losses[-1])


# -- what came of it -------------------------------------------------------------------------------------------------
@jax.jit
def energy_along(paths: hf.PhaseState) -> jax.Array:
    """The true energy at every point of some paths."""
    return jax.vmap(jax.vmap(lambda state: TRUTH.energy(0.0, state)))(paths)


@eqx.filter_jit
def energies(potential: hf.AbstractPotential, positions: jax.Array) -> jax.Array:
    return jax.vmap(lambda x: potential.energy(0.0, x))(positions)


def measure(paths: hf.PhaseState, true_paths: hf.PhaseState) -> dict[str, np.ndarray]:
    """(num_tests, times): the distance of the positions, and the error of the energy as a share of it."""
    distance = np.linalg.norm(paths.position - true_paths.position, axis=-1)
    first = np.asarray(energy_along(true_paths))[:, :1]
    return {"position": distance, "energy": np.abs(np.asarray(energy_along(paths)) - first) / first}


def print_table(models: dict[str, Any], losses: dict[str, float], errors: dict, visited: jax.Array, config: Config):
    def row(title, values):
        print(f"{title:44s}" + "".join(f"{value:>16s}" for value in values))

    row("", [NAMES[name] for name in models])
    row("parameters", [str(number_of_parameters(model)) for model in models.values()])
    floor = config.window / (config.window + 1)
    row(f"training loss (the noise alone: {floor:.3f})", [f"{losses[name]:.3f}" for name in models])
    for quantity, what in (("position", "distance from the true path"), ("energy", "energy error, share")):
        for windows in sorted({1, min(10, config.horizon), config.horizon}):
            at = [np.median(errors[name][quantity][:, windows * config.window]) for name in models]
            row(f"{what}, after {windows} window{'s'[: windows > 1]}", [f"{value:.4f}" for value in at])
    true = energies(TRUTH.potential, visited)
    difference = energies(models["energy"].potential, visited) - true
    row("potential, RMS error / its spread", [f"{difference.std() / true.std():.4f}", "none", "none"])


def number_of_parameters(model: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def draw_potential(model: hf.Hamiltonian, visited: jax.Array, config: Config) -> None:
    """Where the observed paths can go at all, U < their largest energy; the constant is that of the mean there."""
    side = np.linspace(-2.6, 2.6, 261)
    grid = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), visited.dtype)
    constant = jnp.mean(energies(model.potential, visited) - energies(TRUTH.potential, visited))
    true = np.asarray(energies(TRUTH.potential, grid)).reshape(261, 261)
    learned = np.asarray(energies(model.potential, grid) - constant).reshape(261, 261)
    reached = np.where(true < ENERGIES[1], 1.0, np.nan)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    levels = np.linspace(0.0, ENERGIES[1], 9)
    for ax, values in zip(axes, (true, learned), strict=False):
        filled = ax.contourf(side, side, values * reached, levels, cmap="viridis", extend="both")
        ax.contour(side, side, values * reached, levels, colors="white", linewidths=0.5)
        figure.colorbar(filled, ax=ax, label="U")
    difference = (learned - true) * reached
    largest = float(np.nanquantile(np.abs(difference), 0.99))  # a few cells at the rim, hardly visited, are worse
    image = axes[2].pcolormesh(side, side, difference, cmap="RdBu_r", vmin=-largest, vmax=largest, rasterized=True)
    figure.colorbar(image, ax=axes[2], label="learned - true", extend="both")
    for ax in axes:
        ax.set(aspect="equal", xlabel="x", ylabel="y", xlim=(-2.3, 2.3), ylim=(-1.8, 2.5))
    plotting.label_panels(axes, ["true potential", "learned from noisy paths", "difference"])
    plotting.save_figure(figure, config.outdir / "potential.png")


def draw_horizon(errors: dict[str, dict[str, np.ndarray]], config: Config) -> None:
    """Over the held-out starts: medians, and dotted what nine of ten stay below."""
    times = np.arange(1, config.horizon * config.window + 1) * config.interval  # at 0 all errors are 0
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for ax, quantity in zip(axes, ("energy", "position"), strict=True):
        for name, error in errors.items():
            middle, high = np.quantile(error[quantity][:, 1:], (0.5, 0.9), axis=0)
            ax.plot(times, high, color=COLOURS[name], linewidth=0.8, linestyle="dotted")
            ax.plot(times, middle, color=COLOURS[name], linewidth=1.3, label=NAMES[name])
        ax.axvspan(0.0, config.window * config.interval, color="0.88", zorder=0, label="one window")
        ax.set(xlabel="time", yscale="log", xlim=(0.0, times[-1]))
    axes[0].set(ylabel="|H - H(0)| / H(0), H the true energy")
    axes[1].set(ylabel="distance from the true path")
    axes[1].legend(frameon=False, loc="lower right")
    plotting.label_panels(axes, ["error of the energy", "error of the position"])
    plotting.save_figure(figure, config.outdir / "horizon.png")


def draw_paths(paths: dict[str, hf.PhaseState], config: Config) -> None:
    """The first held-out path, over the whole horizon, and the curve U = its energy that it cannot cross."""
    side = np.linspace(-4.0, 4.0, 201)
    grid = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), jnp.float32)
    potential = np.asarray(energies(TRUTH.potential, grid)).reshape(201, 201)
    level = float(energy_along(paths["true"])[0, 0])
    reach = 1.25 * float(jnp.abs(paths["true"].position[0]).max())
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.9), layout="constrained", sharex=True, sharey=True)
    for ax, (name, path) in zip(axes, paths.items(), strict=True):
        ax.plot(*np.asarray(path.position[0]).T, color=COLOURS.get(name, "0.25"), linewidth=0.6)
        ax.contour(side, side, potential, [level], colors="black", linewidths=0.8, linestyles="dashed")
        ax.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xlabel="x")
    axes[0].set(ylabel="y")
    plotting.label_panels(axes, [NAMES.get(name, "true path") for name in paths])
    plotting.save_figure(figure, config.outdir / "paths.png")


def main(config: Config) -> None:
    check_ranges(config, RANGES)
    config.outdir.mkdir(parents=True, exist_ok=True)
    key_paths, key_noise, key_model, key_tests = jr.split(jr.key(config.seed), 4)
    observed = simulate(key_paths, config.num_paths, config.windows * config.window, config)
    windows = observe(key_noise, observed, config)
    tests = simulate(key_tests, config.num_tests, config.horizon * config.window, config)
    length = config.window * config.interval
    print(f"{len(windows.position)} windows of {config.window + 1} observations, each {length:g} long")

    models, losses, paths = {}, {}, {"true": tests}
    for name in NAMES:
        start = time.perf_counter()
        models[name], losses[name] = train(make_model(name, key_model, config), windows, config)
        if not math.isfinite(losses[name]):
            raise ValueError(f"the loss of the {NAMES[name]} is {losses[name]}: take a smaller --lr or --window")
        paths[name] = follow_all(models[name], tests, config)
        print(f"  {NAMES[name]}: {time.perf_counter() - start:.1f} s")
    errors = {name: measure(paths[name], tests) for name in NAMES}

    visited = tests.position.reshape(-1, 2)
    print_table(models, losses, errors, visited, config)
    draw_potential(models["energy"], visited, config)
    draw_horizon(errors, config)
    draw_paths(paths, config)
    print(f"pictures in {config.outdir}")


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    if config.smoke:
        small = {"num_paths": 2, "windows": 2, "window": 4, "width": 8, "steps": 5, "num_tests": 2, "horizon": 3}
        config = dataclasses.replace(config, **small)
    try:
        main(config)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
