"""How many evaluations does a sample need? Every solver on one predictor, as a table and a plot.

    python examples/few_step.py                              # an exact predictor in the plane, two minutes on two cores
    python examples/few_step.py --network runs/00000-...     # a run of examples/ffhq.py and its pictures

From the same starts, each solver is given fewer and fewer evaluations of the predictor. Quality is the sliced
Wasserstein distance between what it makes and the data; the error is the root mean square distance from where a fine
solution ends. `learned` is `hf.fit_few_step`, fitted anew for each of its numbers of evaluations.

`table.txt` has the smallest number of evaluations at which each solver is within 5% of its own distance at the largest
number; `few_step.png` has both curves, and of pictures `samples.png` a row of samples for each solver at the smallest
number of evaluations.
"""

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
import tyro

import hamflow as hf
from hamflow import plotting
from hamflow.data import embedded_faces, image_grid, open_images, save_png, to_float
from hamflow.distances import sliced_wasserstein
from hamflow.training import check_ranges

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob; those that are not given depend on what the predictor makes."""

    network: Path | None = (
        None  # a run folder of examples/ffhq.py; without it, the exact velocity of a ring of Gaussians
    )
    outdir: Path = Path("runs/few_step")  # where table and pictures go
    number: int | None = None  # samples of each solver: 5,000, of pictures 256
    evaluations: tuple[int, ...] = (5, 7, 9, 11, 13, 17, 25, 35)  # of the predictor, at most so many a sample
    learned: tuple[int, ...] | None = None  # those to fit a solver for: 3 to 10, for pictures 5 and 8
    paths: int | None = None  # fine solutions that it is fitted to: 2,048, of pictures 128
    iterations: int | None = None  # of the fit: 1,000, of pictures 200
    batch: int | None = None  # of the fit: 64, of pictures 16
    grid: Literal["rho", "uniform", "cosine", "log-snr"] = "rho"  # of times, for all but the learned solver
    within: float = 0.05  # of the distance at the largest number of evaluations
    seed: int = 0
    smoke: bool = False  # a few of everything, to see that it runs


class Sizes(NamedTuple):
    """What Config says, or what is usual for a point and for a picture."""

    number: int
    paths: int
    iterations: int
    batch: int
    learned: tuple[int, ...]


PLANE = Sizes(5000, 2048, 1000, 64, (3, 4, 5, 6, 8, 10))
PICTURES = Sizes(256, 128, 200, 16, (5, 8))
GRIDS = {
    "rho": hf.rho_grid,
    "uniform": hf.uniform_grid,
    "cosine": hf.cosine_grid,
    "log-snr": hf.log_snr_grid,
}
RANGES = {
    **dict.fromkeys(("number", "iterations", "batch"), (1, math.inf)),
    "paths": (16, math.inf),
    "within": (0, math.inf),
    "seed": (0, math.inf),
}

# A solver, and the evaluations that so many steps cost.
SOLVERS = {
    "Euler": (hf.Euler(), lambda steps: steps),
    "Heun": (hf.Heun(), lambda steps: 2 * steps - 1),
    "midpoint, diffrax": (diffrax.Midpoint(), lambda steps: 2 * steps),
    "DDIM": (hf.DDIM(), lambda steps: steps),
    "DPM-Solver++ 2M": (hf.DPMSolver2M(), lambda steps: steps),
    "UniPC 2": (hf.UniPC(2), lambda steps: steps),
    "UniPC 3": (hf.UniPC(3), lambda steps: steps),
    "reverse SDE": (hf.ReverseSDE(), lambda steps: steps),
    "churn": (hf.Churn(10.0), lambda steps: 2 * steps - 1),
}
WITH_NOISE = ("reverse SDE", "churn")  # their ends are other draws, not errors

Found = dict[str, dict[int, tuple[float, float]]]  # solver: {evaluations: (distance, error)}


def ring_of_gaussians(config: Config, sizes: Sizes) -> tuple[Any, hf.Flow, jax.Array]:
    """The exact velocity, its flow, and data."""
    angle = 2 * jnp.pi * jnp.arange(8) / 8
    means = 1.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    truth, flow = hf.GaussianMixturePotential(means, jnp.full(8, 0.2), jnp.arange(1.0, 9.0)), hf.oscillation()
    keys = jr.split(jr.key(config.seed + 1), sizes.number)
    return hf.MixtureVelocity(truth, flow), flow, jax.vmap(lambda k: truth.sample(k, (2,)))(keys)


def pictures(config: Config, run: Path) -> tuple[Any, hf.Flow, jax.Array]:
    """The model of a run, its flow, and the pictures it was trained on."""
    if not (run / "config.json").is_file() or not (run / "model.safetensors").is_file():
        sys.exit(f"--network {run} is no finished run of examples/ffhq.py: config.json or model.safetensors is missing")
    settings = json.loads((run / "config.json").read_text())
    if settings.get("cond"):
        sys.exit(f"--network {run} learned classes, and this script compares unconditional ones: train without --cond")
    source = open_images(settings["data"] or embedded_faces(), settings["resolution"])
    rows = np.random.default_rng(config.seed).permutation(len(source))[:4096]
    data = to_float(jnp.asarray(np.stack([source[int(row)]["image"] for row in rows])))
    try:
        model = hf.load(run / "model.safetensors")
    except ValueError as error:
        sys.exit(f"--network {run}: {error}")
    return model, model.flow, data


def compare(
    config: Config, sizes: Sizes, predictor: Any, flow: hf.Flow, data: jax.Array
) -> tuple[Found, dict[str, jax.Array]]:
    """What each solver reaches, and a few samples of each at the smallest number of evaluations."""
    key, event = jr.key(config.seed), data.shape[1:]
    shape, is_picture = (sizes.number, *event), data.ndim > 2
    start = jax.vmap(lambda k: flow.prior.sample(k, event))(jr.split(jr.fold_in(key, 1), sizes.number))
    fine = hf.generate(predictor, flow, key, shape, 60 if is_picture else 300, diffrax.Ralston(), start=start)
    found, samples = {}, {"fine": fine}

    def measure(name: str, solver: Any, steps: int, evaluations: int) -> None:
        times = None if isinstance(solver, hf.FewStep) else GRIDS[config.grid](flow, steps)
        ends = hf.generate(predictor, flow, key, shape, steps, solver, start=start, times=times)
        distance = sliced_wasserstein(jr.fold_in(key, 3), ends, data)
        error = math.nan if name in WITH_NOISE else float(jnp.sqrt(jnp.mean((ends - fine) ** 2)))
        found.setdefault(name, {})[evaluations] = distance, error
        samples.setdefault(name, ends)
        print(f"{name:<18} {evaluations:3d} evaluations: distance {distance:.4f}, error {error:.4f}", file=sys.stderr)

    for name, (solver, cost) in SOLVERS.items():
        if not fits(solver, flow):
            continue
        # The most steps that cost no more than each number of evaluations.
        for steps in sorted({max(k for k in range(1, n + 1) if cost(k) <= n) for n in config.evaluations}):
            measure(name, solver, steps, cost(steps))
    for n in sizes.learned:
        fit = hf.fit_few_step(
            predictor,
            flow,
            jr.fold_in(key, 2),
            event,
            n,
            num_paths=sizes.paths,
            num_iterations=sizes.iterations,
            batch_size=sizes.batch,
            tolerance=1e-2 if is_picture else 1e-5,
        )
        measure("learned", fit.solver, n, n)
    return found, samples


def fits(solver: Any, flow: hf.Flow) -> bool:
    """Whether a solver is for this flow: DDIM and its like are for linear ones."""
    if not isinstance(solver, hf.AbstractSampler):
        return True
    try:
        solver.require_flow(flow)
    except ValueError:
        return False
    return True


def smallest(found: Found, name: str, config: Config) -> int | None:
    """The number of evaluations from which on the distance stays near that of the largest number; None if it never is.

    A learned solver has no large number: it is held against Heun's.
    """
    reference = found["Heun" if name == "learned" else name]
    limit = (1.0 + config.within) * reference[max(reference)][0]
    enough = None
    for n in sorted(found[name], reverse=True):
        if not found[name][n][0] <= limit:
            break
        enough = n
    return enough


def table_of(found: Found, config: Config) -> str:
    """Distances at most so many evaluations, errors in brackets, and the smallest number."""
    columns = sorted(config.evaluations)
    lines = [f"{'distance (error)':<18}" + "".join(f"{f'at {n}':>16}" for n in columns) + f"{'smallest':>11}"]
    for name, row in found.items():
        cells = []
        for n in columns:
            known = [m for m in row if m <= n]
            if not known or (name == "learned" and n > max(row) + 1):
                cells.append("")
                continue
            distance, error = row[max(known)]
            cells.append(f"{distance:.4f}" + ("        " if math.isnan(error) else f" ({error:.3f})"))
        least = smallest(found, name, config)
        lines.append(f"{name:<18}" + "".join(f"{cell:>16}" for cell in cells) + f"{least or '-':>11}")
    return "\n".join(lines)


def draw(path: Path, found: Found, floor: float) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for (name, row), colour in zip(found.items(), plt.get_cmap("tab10")(range(10)), strict=False):
        numbers = np.array(sorted(row))
        values = np.array([row[n] for n in numbers])
        width = 2.2 if name == "learned" else 1.2
        for ax, value in zip(axes, values.T, strict=True):
            if np.isfinite(value).any():
                ax.loglog(numbers, value, "o-", color=colour, markersize=3.5, linewidth=width, label=name)
    axes[0].axhline(floor, color="0.7", linewidth=1, linestyle=":", zorder=0)
    ticks = [3, 5, 8, 12, 18, 25, 35]
    for ax in axes:
        ax.set(xlabel="evaluations of the predictor", xticks=ticks, xticklabels=ticks)
        ax.xaxis.minorticks_off()
    axes[0].legend(frameon=False, fontsize=8, ncols=2)
    plotting.label_panels(axes, ["sliced Wasserstein distance to the data", "distance from a fine solution"])
    plotting.save_figure(figure, path)


def main(config: Config) -> None:
    usual = PLANE if config.network is None else PICTURES
    sizes = usual._replace(**{name: n for name in usual._fields if (n := getattr(config, name)) is not None})
    check_ranges(dataclasses.replace(config, **sizes._asdict()), RANGES)
    if not config.evaluations or min(config.evaluations) < 2 or min(sizes.learned, default=1) < 1:
        sys.exit("--evaluations must be at least 2 each, and --learned at least 1 each")
    try:
        config.outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"--outdir {config.outdir} cannot be written: {error.strerror}. Name a folder that can.")
    problem = ring_of_gaussians(config, sizes) if config.network is None else pictures(config, config.network)
    found, samples = compare(config, sizes, *problem)
    data = problem[2]
    floor = sliced_wasserstein(jr.fold_in(jr.key(config.seed), 3), samples["fine"], data)
    table = table_of(found, config) + f"\n{'fine solution':<18}{floor:>8.4f}"
    print(table)
    (config.outdir / "table.txt").write_text(table + "\n")
    draw(config.outdir / "few_step.png", found, floor)
    if data.ndim > 2:
        columns = min(12, sizes.number)
        rows = [ends[:columns] for ends in samples.values()]
        save_png(config.outdir / "samples.png", image_grid(jnp.concatenate(rows), num_columns=columns))
        print(f"rows of samples.png: {', '.join(samples)}")


if __name__ == "__main__":
    start = time.perf_counter()
    config = tyro.cli(Config, description=__doc__)
    if config.smoke:
        config = dataclasses.replace(config, number=40, evaluations=(3,), learned=(2,), paths=32, iterations=3, batch=8)
    main(config)
    print(f"table.txt and few_step.png in {config.outdir}: {time.perf_counter() - start:.0f} s")
