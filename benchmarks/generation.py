"""`hf.generate` against a hand-written jitted Heun loop: same network, same grid, same noise.

    python benchmarks/generation.py --repeats 15

The two are timed in turn, in one process, and compared by the median of the ratios of neighbouring runs.
Target: at most 1.05. Results are in `benchmarks/NOTES.md`.
"""

import argparse
import math
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import hamflow as hf

STEPS = 18
DATA_STD = 0.5


class PointNetwork(eqx.Module):
    """A multilayer perceptron on points of the plane."""

    layers: eqx.nn.MLP

    def __init__(self, *, key):
        self.layers = eqx.nn.MLP(3, 2, 128, 3, jax.nn.silu, key=key)

    def __call__(self, c_noise, x, condition=None, key=None):
        return self.layers(jnp.append(x, c_noise))


class PictureNetwork(eqx.Module):
    """Three convolutions on (channel, height, width), the noise level as one more channel."""

    layers: list[eqx.nn.Conv2d]

    def __init__(self, channels=3, width=32, *, key):
        sizes = [channels + 1, width, width, channels]
        keys = jr.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(a, b, 3, padding=1, key=k) for a, b, k in zip(sizes, sizes[1:], keys, strict=False)
        ]

    def __call__(self, c_noise, x, condition=None, key=None):
        h = jnp.concatenate([x, jnp.full_like(x[:1], c_noise)])
        for layer in self.layers[:-1]:
            h = jax.nn.silu(layer(h))
        return self.layers[-1](h)


def by_hand(network: Callable, w: float, shape: tuple[int, ...]) -> Callable:
    """The same samples without hamflow: EDM's grid in the angle of an oscillation, its scalings, Heun's steps."""
    ramp = np.arange(STEPS) / (STEPS - 1)
    sigma = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = np.append(np.arctan(w * sigma) / w, 0.0)
    times[0] = math.pi / 2 / w

    def velocity(t, x):
        cos, sin = jnp.cos(w * t), jnp.sin(w * t)
        total = cos**2 * DATA_STD**2 + sin**2 / w**2
        c_skip = sin * cos * (1 / w - w * DATA_STD**2) / total
        c_noise = jnp.log(jnp.minimum(jnp.tan(w * t) / w, 80.0)) / 4
        c_noise = jnp.where(cos > 1e-5, c_noise, math.log(80.0) / 4)
        outputs = jax.vmap(lambda x: network(c_noise, x))(x / jnp.sqrt(total))
        return c_skip * x + DATA_STD / jnp.sqrt(total) * outputs

    @jax.jit
    def sample(key):
        keys = jax.vmap(lambda i: jr.fold_in(key, i))(jnp.arange(shape[0]))
        x = jax.vmap(lambda k: jr.normal(k, shape[1:]))(keys) / w
        grid = jnp.asarray(times, float)

        def step(x, interval):
            t, t_next = interval
            slope = velocity(t, x)
            return x + (t_next - t) / 2 * (slope + velocity(t_next, x + (t_next - t) * slope)), None

        x, _ = jax.lax.scan(step, x, (grid[:-2], grid[1:-1]))
        return x - grid[-2] * velocity(grid[-2], x)

    return sample


def seconds(sample: Callable, key) -> float:
    start = time.perf_counter()
    jax.block_until_ready(sample(key))
    return time.perf_counter() - start


def compare(name: str, network: eqx.Module, shape: tuple[int, ...], repeats: int) -> None:
    w = 1 / DATA_STD
    flow = hf.oscillation(w)
    predictor = hf.Preconditioned(network, flow, DATA_STD)

    def ours(key):
        return hf.generate(predictor, flow, key, shape, STEPS)

    hand = by_hand(network, w, shape)
    gap = float(jnp.max(jnp.abs(ours(jr.key(0)) - hand(jr.key(0)))))  # the same numbers, and both are compiled now
    ratios, times = [], {"hand": [], "ours": []}
    for i in range(repeats):
        order = ("hand", "ours") if i % 2 else ("ours", "hand")  # neither always goes first
        now = {each: seconds(hand if each == "hand" else ours, jr.key(i)) for each in order}
        ratios.append(now["ours"] / now["hand"])
        for each, value in now.items():
            times[each].append(1e3 * value)
    middle = [np.median(times["hand"]), np.median(times["ours"]), np.median(ratios)]
    print(f"{name:24} {middle[0]:10.1f} {middle[1]:10.1f} {middle[2]:7.3f}  {gap:9.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[2], formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="runs of each loop")
    repeats = parser.parse_args().repeats
    if repeats < 1:
        parser.error(f"--repeats must be at least 1, got {repeats}")
    print(f"{STEPS} steps of Heun's method, medians of {repeats} runs on {jax.devices()[0]}\n")
    print(f"{'':24} {'hand, ms':>10} {'ours, ms':>10} {'ratio':>7}  {'difference':>9}")
    compare("10,000 points, MLP", PointNetwork(key=jr.key(0)), (10_000, 2), repeats)
    compare("32 pictures 3x32x32, conv", PictureNetwork(key=jr.key(0)), (32, 3, 32, 32), repeats)


if __name__ == "__main__":
    main()
