"""Hamiltonian score matching against the baselines: the score's error after equal wall time, and the cost of a step.

    python benchmarks/score_matching.py                          # 2, 10 and 50 dimensions, three seeds: about an hour
    python benchmarks/score_matching.py --dims 2 --seconds 20    # eight components in the plane
    python benchmarks/score_matching.py --only scaling           # the cost of a step from 2 to 1000 dimensions

Every objective trains the same network from the same start on fresh draws of a mixture whose score is known. The steps
of each are timed first, in turn, and each then gets as many as its budget of seconds holds, with the same schedule: a
cosine, and an average of the weights over the last tenth. Denoising score matching runs at several sigmas; the best one
counts. Results are in `benchmarks/NOTES.md`.
"""

import argparse
import functools
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import hamflow as hf

BATCH, WIDTH, LR = 256, 128, 1e-3


def mixture(size: int) -> tuple[hf.GaussianMixturePotential, float]:
    """Eight components, and their deviation, the finest length."""
    if size == 2:
        angle = 2 * jnp.pi * jnp.arange(8) / 8
        means, std = 2.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1), 0.4
    else:
        means, std = jr.normal(jr.key(42), (8, size)), 0.7
    return hf.GaussianMixturePotential(means, jnp.full(8, std), jnp.ones(8)), std


def objectives(truth: hf.GaussianMixturePotential, std: float) -> dict[str, Any]:
    """Losses of one signature; times and sigmas in units of the finest length."""

    def hamiltonian(score, x, key, t):
        return hf.hamiltonian_score_matching_loss(score, x, key, times=t)

    def signs(score, x, key, t):
        drift_first = hf.Splitting((0.0, 1.0), (1.0,), 1)
        return hf.hamiltonian_score_matching_loss(score, x, key, times=t, momenta="signs", integrator=drift_first)

    def denoising(score, x, key, sigma):
        return hf.denoising_score_matching_loss(score, x, key, sigma=sigma)

    return {
        "explicit (knows the score)": functools.partial(hf.explicit_score_matching_loss, truth=truth),
        "implicit, exact trace": hf.implicit_score_matching_loss,
        "sliced, signs": hf.sliced_score_matching_loss,
        "sliced, normal": functools.partial(hf.sliced_score_matching_loss, gaussian=True),
        **{f"denoising, sigma {f}": functools.partial(denoising, sigma=f * std) for f in (0.1, 0.2, 0.3, 0.5)},
        "Hamiltonian": functools.partial(hamiltonian, t=0.1 * std),
        "Hamiltonian, signs": functools.partial(signs, t=0.05 * std),
    }


def network_of(size: int, seed: int) -> eqx.nn.MLP:
    return eqx.nn.MLP(size, size, WIDTH, 3, activation=jax.nn.silu, key=jr.key(seed))


def trainer(loss: Any, truth: hf.GaussianMixturePotential, size: int) -> Any:
    """(start, run): run(carry, steps, total) takes `steps` of a schedule of `total`, compiled once."""
    optimizer = optax.scale_by_adam()

    def start(seed: int) -> Any:
        parameters = eqx.filter(network_of(size, seed), eqx.is_inexact_array)
        return parameters, optimizer.init(parameters), parameters, jr.key(100 + seed), jnp.zeros((), int)

    static = eqx.filter(
        eqx.nn.MLP(size, size, WIDTH, 3, jax.nn.silu, key=jr.key(0)), eqx.is_inexact_array, inverse=True
    )

    @jax.jit
    def run(carry: Any, steps: Any, total: Any) -> Any:
        def step(_: Any, carry: Any) -> Any:
            parameters, state, mean, key, i = carry
            keys = jr.split(jr.fold_in(key, i))
            x = jax.vmap(lambda k: truth.sample(k, (size,)))(jr.split(keys[0], BATCH))
            gradient = jax.grad(lambda p: loss(eqx.combine(p, static), x, keys[1]))(parameters)
            updates, state = optimizer.update(gradient, state)
            share = i / total
            rate = LR * 0.5 * (1.0 + jnp.cos(jnp.pi * share))
            parameters = jax.tree.map(lambda p, u: p - rate * u, parameters, updates)
            late = jnp.maximum(i - 0.9 * total, 0.0)
            mean = jax.tree.map(lambda m, p: m + (p - m) / (1.0 + late), mean, parameters)
            return parameters, state, mean, key, i + 1

        return jax.lax.fori_loop(0, steps, step, carry)

    return start, run, static


def accuracy(sizes: list[int], seconds: float, seeds: int) -> None:
    for size in sizes:
        truth, std = mixture(size)
        test = jax.vmap(lambda k, size=size, truth=truth: truth.sample(k, (size,)))(jr.split(jr.key(7), 20_000))
        norm = float(hf.explicit_score_matching_loss(lambda x: jnp.zeros_like(x), test, truth=truth))
        losses = objectives(truth, std)
        made = {name: trainer(loss, truth, size) for name, loss in losses.items()}
        cost: dict[str, list[float]] = {name: [] for name in made}
        for start, run, _ in made.values():
            jax.block_until_ready(run(start(0), 5, 100))
        for _ in range(5):  # in turn
            for name, (start, run, _) in made.items():
                begin = time.perf_counter()
                jax.block_until_ready(run(start(0), 100, 1000))
                cost[name].append((time.perf_counter() - begin) / 100)
        print(f"{size} dimensions, {seconds:g} s each, E|F - s|^2 / E|s|^2 over {seeds} seeds")
        for name, (start, run, static) in made.items():
            steps = int(seconds / np.median(cost[name]))
            errors = []
            for seed in range(seeds):
                mean = run(start(seed), steps, steps)[2]
                errors.append(
                    float(hf.explicit_score_matching_loss(eqx.combine(mean, static), test, truth=truth)) / norm
                )
            print(
                f"  {name:<28} {1e3 * np.median(cost[name]):7.3f} ms a step, {steps:7d} steps   "
                f"{np.mean(errors):.5f} +- {np.std(errors, ddof=1) if seeds > 1 else 0.0:.5f}",
                flush=True,
            )


def scaling(sizes: list[int]) -> None:
    names = ("sliced, signs", "Hamiltonian", "Hamiltonian, signs")
    print("milliseconds a step: " + "; ".join(names))
    for size in sizes:
        truth, std = mixture(size)
        pair = {n: f for n, f in objectives(truth, std).items() if n in names}
        cost = {}
        for name, loss in pair.items():
            start, run, _ = trainer(loss, truth, size)
            jax.block_until_ready(run(start(0), 5, 100))
            times = []
            for _ in range(5):
                begin = time.perf_counter()
                jax.block_until_ready(run(start(0), 50, 1000))
                times.append((time.perf_counter() - begin) / 50)
            cost[name] = 1e3 * float(np.median(times))
        print(f"  {size:5d} dimensions   " + "   ".join(f"{value:8.3f}" for value in cost.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("accuracy", "scaling"))
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(jax.devices()[0].device_kind, jax.__version__)
    if arguments.only != "scaling":
        accuracy(arguments.dims, arguments.seconds, arguments.seeds)
    if arguments.only != "accuracy":
        scaling([2, 10, 50, 200, 1000])


if __name__ == "__main__":
    main()
