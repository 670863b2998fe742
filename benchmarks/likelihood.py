"""Exact log-likelihood of 2,000 points in the plane, 50 midpoint steps: `hf.log_likelihood` and a peer.

    python benchmarks/likelihood.py --repeats 9
    pip install torch==2.13.0 flow_matching               # for the peer

The networks have the same layers (three hidden ones of 64). All are timed in turn, in one process. Target: at least
twice the peer's speed. Results are in `benchmarks/NOTES.md`.
"""

import argparse
import itertools
import time
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import hamflow as hf

POINTS, STEPS, WIDTH = 2000, 50, 64


class Velocity(eqx.Module):
    """V(t, x) by a multilayer perceptron."""

    layers: eqx.nn.MLP

    def __call__(self, t, x, condition=None, key=None):
        return self.layers(jnp.append(x, t))


def ours() -> Callable[[], np.ndarray]:
    network = Velocity(eqx.nn.MLP(3, 2, WIDTH, 3, jax.nn.silu, key=jr.key(0)))
    x = jr.normal(jr.key(1), (POINTS, 2))
    flow = hf.flow_matching()
    return lambda: np.asarray(hf.log_likelihood(network, flow, x, num_steps=STEPS, solver=diffrax.Midpoint()))


def peer() -> Callable[[], np.ndarray] | None:
    """flow_matching's own solver, as its documentation uses it; noise at 0 and data at 1 there."""
    try:
        import torch
        from flow_matching.solver import ODESolver
        from flow_matching.utils import ModelWrapper
    except ImportError:
        return None

    class Network(ModelWrapper):
        def __init__(self):
            sizes = [3, WIDTH, WIDTH, WIDTH, 2]
            layers = []
            for a, b in itertools.pairwise(sizes):
                layers += [torch.nn.Linear(a, b), torch.nn.SiLU()]
            super().__init__(torch.nn.Sequential(*layers[:-1]))

        def forward(self, x, t, **extras):
            return self.model(torch.cat([x, t.expand(x.shape[0])[:, None]], dim=1))

    solver, x = ODESolver(velocity_model=Network()), torch.randn(POINTS, 2)
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)

    def run() -> np.ndarray:
        _, values = solver.compute_likelihood(
            x_1=x, log_p0=prior.log_prob, method="midpoint", step_size=1 / STEPS, exact_divergence=True
        )
        return values.detach().numpy()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    runs = {name: run for name, run in (("hamflow", ours()), ("flow_matching", peer())) if run is not None}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    print(f"{POINTS:,} points, {STEPS} midpoint steps, medians of {repeats} on {jax.devices()[0].device_kind}")
    for name, values in seconds.items():
        print(f"  {name:<14} {np.median(values):.4f} s")
    if len(runs) == 2:
        ratios = np.array(seconds["flow_matching"]) / np.array(seconds["hamflow"])
        print(f"  flow_matching over hamflow, median of neighbouring runs: {np.median(ratios):.2f} (target 2)")


if __name__ == "__main__":
    main()
