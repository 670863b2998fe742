"""`hf.integrate` against a hand-written scan, diffrax and blackjax: same force, same steps, ratios in one run.

    python benchmarks/integration.py                     # all three, about three minutes on two CPU cores
    python benchmarks/integration.py --only henon-heiles
    python benchmarks/integration.py --only gradients

What is compared is timed in turn, in one process; a ratio is the median of the ratios of neighbouring runs. Targets:

- henon-heiles: 1000 leapfrog steps of .1, batch 1 and 1024, the last state: at most 1.05 of a hand-written scan with
  merged kicks, and below diffrax's `SemiImplicitEuler`;
- hmc: the leapfrog of `integrate` inside HMC, 100 dimensions, 64 chains, 10 steps: at most 1.1 of blackjax's;
- gradients: temporary memory at 4096 steps within 10% of that at 64, time at 1024 steps at most .6 of diffrax's.

Results are in `benchmarks/NOTES.md`.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import blackjax
import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import hamflow as hf


def compare(runs: dict[str, Callable[[], Any]], reference: str, repeats: int) -> dict[str, float]:
    """Median milliseconds and ratio to the reference of every run, printed; the ratios returned."""
    for run in runs.values():
        jax.block_until_ready(run())
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    ratios = {}
    for name, values in times.items():
        ratios[name] = float(np.median(np.array(values) / np.array(times[reference])))
        print(f"  {name:<34} {1e3 * np.median(values):9.3f} ms   {ratios[name]:.3f}")
    return ratios


# -- Henon-Heiles ----------------------------------------------------------------------------------------------------


class HenonHeilesForce(hf.AbstractForce):
    """The force written out, so that both sides call one function."""

    def force(self, t, position):
        x, y = position
        return jnp.stack([-x - 2.0 * x * y, -y - x**2 + y**2])


def henon_heiles(repeats: int) -> None:
    force, num_steps, h = HenonHeilesForce(), 1000, 0.1
    system = hf.ForcedSystem(force, hf.GaussianKinetic())

    def ours(q, p):
        end = hf.integrate(system, hf.PhaseState(q, p), 0.0, num_steps * h, num_steps)
        return end.position, end.momentum

    def by_hand(q, p):
        def step(carry, _):
            q, p = carry
            q = q + h * p
            return (q, p + h * force.force(0.0, q)), None

        p = p + 0.5 * h * force.force(0.0, q)
        (q, p), _ = jax.lax.scan(step, (q, p), None, length=num_steps - 1)
        q = q + h * p
        return q, p + 0.5 * h * force.force(0.0, q)

    def semi_implicit_euler(q, p):
        terms = (diffrax.ODETerm(lambda t, p, args: p), diffrax.ODETerm(lambda t, q, args: force.force(t, q)))
        return diffrax.diffeqsolve(terms, diffrax.SemiImplicitEuler(), 0.0, num_steps * h, h, (q, p), max_steps=None).ys

    for batch in (1, 1024):
        q, p = (0.1 * jr.normal(key, (batch, 2)) for key in jr.split(jr.key(0)))
        over = (lambda f: jax.jit(jax.vmap(f))) if batch > 1 else jax.jit
        start = (q, p) if batch > 1 else (q[0], p[0])
        functions = {"by hand": by_hand, "integrate": ours, "diffrax SemiImplicitEuler": semi_implicit_euler}
        compiled = {name: over(function) for name, function in functions.items()}
        gap = max(
            float(jnp.max(jnp.abs(a - b)))
            for a, b in zip(compiled["integrate"](*start), compiled["by hand"](*start), strict=True)
        )
        print(f"Henon-Heiles, {num_steps} steps, batch {batch}; largest difference {gap:.1e}")
        runs = {name: (lambda f=f, start=start: f(*start)) for name, f in compiled.items()}
        compare(runs, "by hand", repeats * (20 if batch == 1 else 4))


# -- inside HMC ------------------------------------------------------------------------------------------------------


class Correlated(hf.AbstractPotential):
    """A normal law with a dense precision matrix."""

    precision: jax.Array

    def energy(self, t, position):
        return 0.5 * position @ (self.precision @ position)


class Uncorrelated(hf.AbstractPotential):
    """A normal law of many scales: next to nothing to compute, so that overhead shows."""

    precision: jax.Array

    def energy(self, t, position):
        return 0.5 * jnp.sum(self.precision * position**2)


def hmc(repeats: int) -> None:
    size = 100
    root = jr.normal(jr.key(0), (size, size)) / size**0.5
    hmc_on("dense", Correlated(jnp.eye(size) + root @ root.T), size, repeats)
    hmc_on("diagonal", Uncorrelated(jnp.linspace(0.3, 3.0, size)), size, repeats)


def hmc_on(name: str, potential: hf.AbstractPotential, size: int, repeats: int) -> None:
    chains, num_steps, draws, h = 64, 10, 100, 0.1
    system = hf.Hamiltonian(potential, hf.GaussianKinetic())

    def ours(key, position):
        def draw(carry, key):
            position, energy = carry
            key_momentum, key_accept = jr.split(key)
            first = hf.PhaseState(position, system.kinetic.sample(key_momentum, position.shape))
            last = hf.integrate(system, first, 0.0, num_steps * h, num_steps)
            end = potential.energy(0.0, last.position)
            change = energy + system.kinetic.energy(first.momentum) - end - system.kinetic.energy(last.momentum)
            accepted = jnp.log(jr.uniform(key_accept)) < change
            carry = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), (last.position, end), carry)
            return carry, accepted

        start = (position, potential.energy(0.0, position))
        (position, _), accepted = jax.lax.scan(draw, start, jr.split(key, draws))
        return position, jnp.mean(accepted)

    def theirs(key, position):
        chain: Any = blackjax.hmc(
            lambda x: -potential.energy(0.0, x),
            step_size=h,
            inverse_mass_matrix=jnp.ones(size),
            num_integration_steps=num_steps,
        )

        def draw(state, key):
            state, info = chain.step(key, state)
            return state, info.is_accepted

        state, accepted = jax.lax.scan(draw, chain.init(position), jr.split(key, draws))
        return state.position, jnp.mean(accepted)

    keys, starts = jr.split(jr.key(1), chains), jr.normal(jr.key(2), (chains, size))
    compiled = {n: jax.jit(jax.vmap(f)) for n, f in (("blackjax", theirs), ("integrate", ours))}
    accepted = ", ".join(f"{n} {float(jnp.mean(f(keys, starts)[1])):.3f}" for n, f in compiled.items())
    print(f"HMC, {name} normal law of {size} dimensions, {chains} chains, {num_steps} steps, {draws} draws")
    print(f"  accepted: {accepted}")
    compare({n: (lambda f=f: f(keys, starts)) for n, f in compiled.items()}, "blackjax", 2 * repeats)


# -- gradients -------------------------------------------------------------------------------------------------------


class PendulumForce(hf.AbstractForce):
    """One pendulum a coordinate."""

    strength: jax.Array

    def force(self, t, position):
        return -self.strength * jnp.sin(position)


class LearnedForce(hf.AbstractForce):
    """A small tanh network, row by row."""

    weights: tuple[jax.Array, jax.Array]

    def force(self, t, position):
        into, out = self.weights
        return jnp.tanh(position @ into) @ out - position


def gradients(repeats: int) -> None:
    keys = jr.split(jr.key(0))
    weights = (0.3 * jr.normal(keys[0], (2, 32)), 0.3 * jr.normal(keys[1], (32, 2)))
    gradients_of("pendulums, a state of .4 MB", PendulumForce(jnp.asarray(1.0)), (50_000,), repeats)
    gradients_of("a network as force, 1024 points", LearnedForce(weights), (1024, 2), repeats)


def gradients_of(case: str, force: hf.AbstractForce, shape: tuple[int, ...], repeats: int) -> None:
    h, counts = 0.01, (64, 1024, 4096)
    start = hf.PhaseState(jr.normal(jr.key(1), shape), jr.normal(jr.key(2), shape))

    def gradient_of(solve):
        def loss(force, state, num_steps):
            position, momentum = solve(hf.ForcedSystem(force, hf.GaussianKinetic()), state, num_steps)
            return jnp.sum(position**2) + jnp.sum(momentum * position)

        return lambda num_steps: jax.jit(jax.grad(lambda force, state: loss(force, state, num_steps), argnums=(0, 1)))

    def ours(adjoint):
        def solve(system, state, num_steps):
            end = hf.integrate(system, state, 0.0, num_steps * h, num_steps, adjoint=adjoint)
            return end.position, end.momentum

        return solve

    def semi_implicit_euler(system, state, num_steps):
        terms = (
            diffrax.ODETerm(lambda t, p, args: p),
            diffrax.ODETerm(lambda t, q, args: system.force.force(t, q)),
        )
        y0 = (state.position, state.momentum)
        saved = diffrax.diffeqsolve(
            terms, diffrax.SemiImplicitEuler(), 0.0, num_steps * h, h, y0, max_steps=num_steps
        ).ys
        return jax.tree.map(lambda leaf: leaf[-1], saved)

    def leapfrog(system, state, num_steps):
        terms = diffrax.ODETerm(system.vector_field)
        saved = diffrax.diffeqsolve(terms, hf.Leapfrog(), 0.0, num_steps * h, h, state, max_steps=num_steps).ys
        return jax.tree.map(lambda leaf: leaf[-1], (saved.position, saved.momentum))  # pyright: ignore

    makers = {
        "diffrax SemiImplicitEuler": gradient_of(semi_implicit_euler),
        "diffrax, hf.Leapfrog": gradient_of(leapfrog),
        "integrate, checkpoint": gradient_of(ours("checkpoint")),
        "integrate, reversible": gradient_of(ours("reversible")),
    }
    print(f"gradient in the state and the parameters, {case}: temporary memory")
    compiled = {}
    for name, make in makers.items():
        memory = []
        for count in counts:
            program = make(count).lower(force, start).compile()
            analysis: Any = program.memory_analysis()
            memory.append(f"{analysis.temp_size_in_bytes / 2**20:.3f} MiB at {count}")
            if count == 1024:
                compiled[name] = program
        print(f"  {name:<34} " + ", ".join(memory))
    print("  and time at 1024 steps")
    runs = {name: (lambda f=f: f(force, start)) for name, f in compiled.items()}
    compare(runs, "diffrax SemiImplicitEuler", max(3, repeats // 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("henon-heiles", "hmc", "gradients"))
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    print(jax.devices()[0].device_kind, jax.__version__)
    for name, run in (("henon-heiles", henon_heiles), ("hmc", hmc), ("gradients", gradients)):
        if arguments.only in (None, name):
            run(arguments.repeats)


if __name__ == "__main__":
    main()
