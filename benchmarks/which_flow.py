"""Which flow? Five of them learn one checkerboard with one network, and runs of examples/ffhq.py are compared.

    python benchmarks/which_flow.py                                  # the plane, five minutes on two cores
    python benchmarks/which_flow.py --runs runs/0000*                # and pictures: runs that differ in their flow

A checkerboard on [-1, 1]^2 lies in a box, so that a reflection can learn it too; its density is 1/2 on the dark
squares, so the best mean log-likelihood is -log 2. Results are in `benchmarks/NOTES.md` and on the page "Which flow?".
"""

import argparse
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import hamflow as hf
from hamflow.data import checkerboard, embedded_faces, open_images, to_float
from hamflow.distances import sliced_wasserstein
from hamflow.networks import MLP

STD = 3**-0.5  # of the checkerboard, as of the uniform law on [-1, 1]
FLOWS = {
    "oscillation": lambda: hf.oscillation(1.0 / STD),
    "flow matching": hf.flow_matching,
    "diffusion": lambda: hf.diffusion(data_std=STD),
    "PFGM++, D = 64": lambda: hf.poisson_flow(64.0, data_std=STD),
    "reflection": hf.reflection,
}


def train(flow: hf.Flow, data: jax.Array, key: jax.Array, steps: int) -> hf.Preconditioned:
    keys = jr.split(key, 3)
    network = MLP((2,), width=128, depth=3, position_octaves=4, key=keys[0])
    model = hf.Preconditioned.from_data(network, flow, data, keys[1])
    params, static = eqx.partition(model, model.trainable())
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    def step(carry, key):
        params, state = carry
        rows = jr.randint(key, (256,), 0, len(data))
        gradient = jax.grad(lambda p: hf.velocity_matching_loss(eqx.combine(p, static), flow, data[rows], key))(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda params, keys: jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0])
    return eqx.combine(run(params, jr.split(keys[2], steps)), static)


def off_the_board(x: jax.Array) -> float:
    """The share of points that lie on no dark square."""
    column, row = jnp.floor((x + 1.0) * 2.0).T
    dark = (jnp.abs(x) <= 1.0).all(axis=1) & ((column + row) % 2 == 0)
    return float(1.0 - jnp.mean(dark))


def plane(steps: int, seeds: int) -> None:
    n = 20_000
    data, test = checkerboard(jr.key(0), 100_000), checkerboard(jr.key(1), n)
    floor = sliced_wasserstein(jr.key(2), checkerboard(jr.key(3), n), test)
    print(
        f"{'checkerboard':<16}{'SW at 35':>10}{'at 9':>8}{'off at 35':>11}{'at 9':>8}{'log p':>8}"
        f"   (floor {floor:.4f}, 0, -.693)"
    )
    for name, make in FLOWS.items():
        rows = []
        for seed in range(seeds):
            flow = make()
            model = train(flow, data, jr.key(10 + seed), steps)
            ends = [hf.generate(model, flow, jr.key(4), (n, 2), k) for k in (18, 5)]
            log_p = jnp.mean(hf.log_likelihood(model, flow, test[:1000], num_steps=80))
            distances = [sliced_wasserstein(jr.key(2), x, test) for x in ends]
            rows.append([*distances, *map(off_the_board, ends), float(log_p)])
        a, b, c, d, e = np.mean(rows, axis=0)
        spread = np.std(rows, axis=0)
        print(f"{name:<16}{a:>10.4f}{b:>8.4f}{c:>11.3f}{d:>8.3f}{e:>8.3f}   spread {np.round(spread, 4)}", flush=True)


def pictures(runs: list[Path], number: int) -> None:
    source = open_images(embedded_faces(), 32)
    faces = to_float(jnp.asarray(np.stack([source[i]["image"] for i in range(len(source))])))
    order = np.random.default_rng(0).permutation(len(faces))
    floor = sliced_wasserstein(jr.key(2), faces[order[:498]], faces[order[498:996]])
    print(
        f"{'faces at 32':<16}{'SW at 35':>10}{'at 11':>8}{'loss':>8}"
        f"   ({number} samples; two halves of the data {floor:.4f})"
    )
    for run in runs:
        settings = json.loads((run / "config.json").read_text())
        model = hf.load(run / "model.safetensors")
        lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines[-100:]]
        ends = [hf.generate(model, model.flow, jr.key(4), (number, 3, 32, 32), k) for k in (18, 6)]
        a, b = (sliced_wasserstein(jr.key(2), x, faces) for x in ends)
        print(f"{settings['flow']:<16}{a:>10.4f}{b:>8.4f}{np.mean(losses):>8.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="of Adam, for each flow and seed")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of examples/ffhq.py")
    parser.add_argument("--number", type=int, default=256, help="of pictures from each run")
    options = parser.parse_args()
    if options.seeds:
        plane(options.steps, options.seeds)
    if options.runs:
        pictures(options.runs, options.number)
