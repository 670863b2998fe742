# %% [markdown]
# # Samplers and likelihood
#
# A velocity predictor can be asked for more than samples: how many evaluations a sample needs, how
# likely a datum is, and where in the prior it comes from. Here the predictor is exact, so that every
# number below has a truth to stand beside; a trained network is used in the same way.

# %%
import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

import hamflow as hf
from hamflow import plotting
from hamflow.distances import two_sample_distance

angle = 2 * jnp.pi * jnp.arange(8) / 8
truth = hf.GaussianMixturePotential(
    means=1.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1),
    stds=jnp.full(8, 0.2),
    weights=jnp.arange(1.0, 9.0),
)


@jax.jit
def draw(key):
    return jax.vmap(lambda k: truth.sample(k, (2,)))(jr.split(key, 2000))


flow = hf.oscillation()
predictor = hf.MixtureVelocity(truth, flow)

# %% [markdown]
# ## Samplers
#
# `hf.generate` takes Heun's method by itself, or any of these: a sampler of hamflow's, or a diffrax
# solver. All walk down the same grid of times. Where they end is compared with where a fine solution
# ends from the same start.

# %% alt="Error against evaluations: Euler and DDIM of order 1, Heun and DPM-Solver++ of order 2, UniPC of order 3"
start = jax.vmap(lambda k: flow.prior.sample(k, (2,)))(jr.split(jr.key(0), 256))
shape = start.shape
exact = hf.generate(predictor, flow, jr.key(1), shape, 400, diffrax.Dopri5(), start=start)
samplers = {
    "Euler": hf.Euler(),
    "DDIM": hf.DDIM(),
    "Heun": hf.Heun(),
    "DPM-Solver++ 2M": hf.DPMSolver2M(),
    "UniPC": hf.UniPC(),
}
evaluations = np.array([8, 12, 18, 26, 40, 60])

figure, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
for name, sampler in samplers.items():
    errors = []
    for n in evaluations:
        steps = int(n // 2 + 1 if name == "Heun" else n)  # 2 a step, and one in the last
        ends = hf.generate(predictor, flow, jr.key(1), shape, steps, sampler, start=start)
        errors.append(float(jnp.sqrt(jnp.mean((ends - exact) ** 2))))
    ax.loglog(evaluations, errors, "o-", markersize=4, label=name)
    print(f"{name:<16} error {errors[2]:.3f} at 18 evaluations, {errors[-1]:.4f} at 60")
ax.set(xlabel="evaluations of the predictor", ylabel="root mean square error")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# `tolerance=1e-4` in place of a number of steps lets each sample take as many as it needs. Other grids
# are `hf.uniform_grid`, `hf.cosine_grid` and `hf.log_snr_grid`, given as `times=`: this data is so smooth
# that even times would do better, data with fine structure need the default.
#
# ## A solver of few steps
#
# For one predictor a solver can be learned: all of its numbers, and its times, are fitted to where a
# fine solution ends. That takes seconds here and minutes for pictures.

# %%
fit = hf.fit_few_step(predictor, flow, jr.key(9), (2,), 8, num_iterations=500)
learned = hf.generate(predictor, flow, jr.key(1), shape, solver=fit.solver, start=start)
heun = hf.generate(predictor, flow, jr.key(1), shape, 5, start=start)
for name, ends in (("learned, 8", learned), ("Heun, 9", heun)):
    error = float(jnp.sqrt(jnp.mean((ends - exact) ** 2)))
    print(f"{name} evaluations: error {error:.4f}")

# %% [markdown]
# ## Another schedule
#
# A flow by another clock and in another unit of length is a flow, and the predictor goes along:
# diffusion becomes variance preserving in one line, after training or before.

# %%
diffusion = hf.diffusion()
trained = hf.MixtureVelocity(truth, diffusion)
vp = hf.reschedule(diffusion, hf.VariancePreserving())
carried = hf.RescheduledVelocity(trained, vp)
one = hf.generate(trained, diffusion, jr.key(1), (256, 2), 18, hf.UniPC())
two = hf.generate(carried, vp, jr.key(1), (256, 2), 18, hf.UniPC())
print(f"horizon {vp.horizon:.3f}, largest difference {jnp.abs(one - two).max():.0e}")

# %% [markdown]
# Samplers for linear flows see $\sigma = b/a$ alone, and so do not notice; Heun's method follows other
# chords.
#
# ## Noise on the way
#
# Where the velocity gives the score, which it does in every linear flow and in a box, noise can be
# added and taken out again on the way down without changing any law. `ReverseSDE` is that equation,
# `Churn` is EDM's form of it. Noise forgives: what earlier steps got wrong is forgotten, as far as later
# ones know better. Here the predictor is made wrong on purpose, and only far from the data, by a push to
# the right.


# %%
def wrong(t, x, condition=None, key=None):
    return predictor(t, x) - jnp.where(t > 1.0, 0.8, 0.0) * jnp.array([1.0, 0.0], x.dtype)


expected = draw(jr.key(4))
for sampler, steps in ((hf.Heun(), 60), (hf.ReverseSDE(), 120)):
    draws = hf.generate(predictor, flow, jr.key(2), (2000, 2), steps, sampler)
    off = hf.generate(wrong, flow, jr.key(2), (2000, 2), steps, sampler)
    near, floor = two_sample_distance(jr.key(3), draws, expected)
    far, _ = two_sample_distance(jr.key(3), off, expected)
    print(
        f"{type(sampler).__name__:<11} exact {near:.3f}, wrong {far:.3f}, floor {floor:.3f}"
    )

# %% [markdown]
# ## Likelihood
#
# Along a path volume changes by the divergence of the velocity, so the density of a datum is that of
# the prior where it ends, times that change. With the exact velocity it is the density of the
# mixture:

# %%
data = draw(jr.key(5))[:200]
found = hf.log_likelihood(predictor, flow, data)
known = jax.vmap(truth.log_prob)(data)
print(f"largest difference {jnp.max(jnp.abs(found - known)):.1e} nats")

# %% [markdown]
# The exact divergence costs a derivative a coordinate. For pictures give a key: Hutchinson's estimate
# costs one a probe, is right on average, and says how far off it is.

# %%
estimate = hf.log_likelihood_and_error(predictor, flow, data, jr.key(6), num_probes=16)
score = (estimate.log_likelihood - found) / estimate.standard_error
mean, error = estimate.log_likelihood.mean(), estimate.standard_error.mean()
print(
    f"mean {mean:.3f} with an error of {error / 200**0.5:.3f}, exact {found.mean():.3f} nats"
)
print(f"mean square of (estimate - exact) / error: {jnp.mean(score**2):.2f}")

# %% [markdown]
# For 8-bit pixels, `hf.dequantize` adds the noise that makes a density of probabilities, and
# `hf.bits_per_dimension` says the result in the usual unit.
#
# ## Encoding
#
# The equation runs both ways. `hf.encode` carries data to the prior; `hf.generate(start=...)` carries
# them back, and what lies between two encodings becomes data too.

# %%
ends = truth.means[jnp.array([0, 3])]
codes = hf.encode(predictor, flow, ends)
back = hf.generate(predictor, flow, jr.key(7), codes.shape, 200, start=codes)
print(f"there and back: {jnp.max(jnp.abs(back - ends)):.1e}")
# A turn from one code to the other keeps the law of codes.
share = jnp.linspace(0.0, jnp.pi / 2, 60)[:, None]
between = jnp.cos(share) * codes[0] + jnp.sin(share) * codes[1]
walk = hf.generate(predictor, flow, jr.key(8), between.shape, 60, start=between)

# %% alt="The density that the flow gives to the plane, eight blobs, and a walk between two of them"
side = jnp.linspace(-2.4, 2.4, 60)
grid = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
density = jnp.exp(hf.log_likelihood(predictor, flow, grid, num_steps=40)).reshape(60, 60)
print(f"integral over the plane {density.sum() * (side[1] - side[0]) ** 2:.4f}")
figure, ax = plt.subplots(figsize=(4.4, 4.2), layout="constrained")
ax.contourf(side, side, density, levels=20, cmap="Blues")
ax.plot(*walk.T, "o-", color=plotting.PATH, markersize=3, linewidth=1)
ax.plot(*ends.T, "o", color=plotting.DATA)
ax.set(xticks=[], yticks=[], aspect="equal", title="density, and a walk between two data")
plt.show()
