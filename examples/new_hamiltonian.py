"""A Hamiltonian that hamflow does not have: written in ten lines, checked, trained and sampled in a minute.

    python examples/new_hamiltonian.py                                 # writes runs/new_hamiltonian/*
    python examples/new_hamiltonian.py --radius 1.5 --strength 1.0     # another bottle

The potential is the bottom of a wine bottle: a hill in the middle and a round valley about it. Two moons start on the
hill, each point with a momentum of its own, and run down into the valley. No formula gives this motion: leapfrog
follows it. No formula gives the law at the end: a mixture of Gaussians is fitted there.

Written: `bottle.png`, the way down, the prior and the samples; `report.txt`, what `hf.check` measured.
"""

import dataclasses
import sys
import time
from pathlib import Path

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
from hamflow.data import two_moons
from hamflow.distances import projected_distance
from hamflow.networks import MLP

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class WineBottle(hf.AbstractPotential):
    """U = strength (|x|^2 - radius^2)^2 / 4: the valley is the circle of that radius."""

    strength: float
    radius: float

    def energy(self, t, position):
        return self.strength * (jnp.sum(position**2) - self.radius**2) ** 2 / 4


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob."""

    outdir: Path = Path("runs/new_hamiltonian")  # where the picture and the report go
    strength: float = 0.3  # of the potential
    radius: float = 2.0  # of its valley; the data have a standard deviation of 1
    horizon: float = 1.2  # until the first points reach the far side of the valley
    step_size: float = 0.05  # of leapfrog; `hf.check` says whether it is small enough
    components: int = 32  # of the mixture that is fitted to the law at the horizon
    prior_draws: int = 40_000  # half to fit it, half to measure by how much it misses
    width: int = 128  # of the network
    depth: int = 3  # residual blocks
    batch: int = 256
    steps: int = 3000  # of Adam
    lr: float = 2e-3  # at its peak; a cosine takes it to zero
    num_points: int = 50_000  # data
    num_samples: int = 20_000
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
    print(f"loss {losses[: config.steps // 10 + 1].mean():.4f} -> {losses[-(config.steps // 10 + 1) :].mean():.4f}")
    return eqx.combine(params, static)


def compare(samples: jax.Array, key: jax.Array) -> None:
    """Two distances of the samples from the law of the data, beside what draws of that law have.

    Projections see where the mass is, and hardly whether the moons are sharp; a histogram sees that.
    """
    key_distance, key_fresh, key_many = jr.split(key, 3)
    fresh = jax.jit(lambda key: two_moons(key, len(samples)))
    distance, floor = projected_distance(key_distance, samples, fresh)
    print(f"projected distance of the samples {distance:.3f} standard deviations, noise floor {floor:.3f}")

    def histogram(points: jax.Array) -> np.ndarray:
        edges = np.linspace(-2.2, 2.2, 51)
        return np.histogram2d(points[:, 0], points[:, 1], bins=[edges, edges])[0] / len(points)

    law = histogram(two_moons(key_many, 20 * len(samples)))
    variation, floor = (0.5 * np.abs(histogram(points) - law).sum() for points in (samples, fresh(key_fresh)))
    print(f"total variation of their histogram {variation:.3f}, noise floor {floor:.3f}")


def draw(flow: hf.Flow, data: jax.Array, samples: jax.Array, key: jax.Array, config: Config) -> None:
    """Above the positions, below the first position against its velocity, at four times; then prior and samples."""
    key_prior, *keys = jr.split(key, 5)
    times = [fraction * config.horizon for fraction in (0.0, 0.3, 0.6, 1.0)]
    figure, axes = plt.subplots(2, 5, figsize=(15, 6.2), layout="constrained")
    for (above, below), t, k in zip(axes.T, times, keys, strict=False):
        state = eqx.filter_jit(flow.sample_state)(k, data, jnp.full((len(data),), t))
        velocity = jax.vmap(flow.velocity)(state)
        plotting.density(above, state.position, extent=3.5)
        plotting.density(below, jnp.stack([state.position[:, 0], velocity[:, 0]], axis=1), extent=3.5)
    prior = jax.vmap(lambda k: flow.prior.sample(k, (2,)))(jr.split(key_prior, len(data)))
    plotting.density(axes[0, 4], prior, extent=3.5)
    plotting.density(axes[1, 4], samples, extent=3.5)
    plotting.label_panels(axes[0], [f"positions at t = {t:.2g}" for t in times] + ["drawn from the prior"])
    plotting.label_panels(axes[1], ["x₁ and v₁"] * 4 + ["and back: generated"])
    plotting.save_figure(figure, config.outdir / "bottle.png")


def main(config: Config) -> None:
    config.outdir.mkdir(parents=True, exist_ok=True)
    key_data, key_prior, key_check, key_network, key_model, key_train, *keys = jr.split(jr.key(config.seed), 9)
    data = two_moons(key_data, config.num_points)
    flow = hf.Flow(
        hf.Hamiltonian(WineBottle(config.strength, config.radius), hf.GaussianKinetic()),
        hf.IndependentCoupling(),
        config.horizon,
        prior=hf.NormalPrior(),  # until one is fitted
        integrator=hf.Leapfrog(step_size=config.step_size),
    )
    # Prints by how much the fitted prior misses: generation starts from it, so samples err by as much.
    flow = hf.fit_prior(flow, data, key_prior, components=config.components, num_draws=config.prior_draws).flow
    report = hf.check(flow, data, key_check)
    (config.outdir / "report.txt").write_text(f"{report}\n")
    print(report)
    if not report.passed:
        sys.exit(f"not trained, since this flow breaks {', '.join(report.failures)}: see the knobs in --help")

    network = MLP((2,), width=config.width, depth=config.depth, key=key_network)
    model = hf.Preconditioned.from_data(network, flow, data, key_model)
    model = train(model, flow, data, key_train, config)
    samples = hf.generate(model, flow, keys[0], (config.num_samples, 2), config.sampling_steps)
    compare(samples, keys[1])
    draw(flow, data, samples, keys[2], config)


if __name__ == "__main__":
    start = time.perf_counter()
    config = tyro.cli(Config, description=__doc__)
    if config.smoke:
        tiny = {"components": 8, "prior_draws": 4000, "width": 32, "steps": 20, "num_points": 4000}
        config = dataclasses.replace(config, **tiny, num_samples=2000, sampling_steps=4)
    main(config)
    print(f"bottle.png and report.txt in {config.outdir}: {time.perf_counter() - start:.0f} s")
