# %% [markdown]
# # Steering
#
# A predictor that has learned to generate can be steered while it does: towards a class, away from a
# weaker model, by an energy, or to a picture known in part. A steered predictor is a predictor, and
# `hf.generate` does not know the difference. Here the predictors are exact, so that where steering is
# exact and where it is a guess can be seen; a trained network is used in the same way.

# %%
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

import hamflow as hf
from hamflow import plotting

flow = hf.oscillation()
means = jnp.array([[-1.2, 0.3], [1.0, 1.1], [0.9, -1.0]])
stds = jnp.array([0.45, 0.5, 0.4])
weights = jnp.array([0.4, 0.3, 0.3])
truth = hf.GaussianMixturePotential(means, stds, weights)
everything = hf.MixtureVelocity(truth, flow)


def predictor(t, x, condition=None, key=None):
    """Three classes, one Gaussian each; None is the null condition, all of them."""
    if condition is None:
        return everything(t, x)
    one = (means[condition][None], stds[condition][None], jnp.ones(1))
    return hf.MixtureVelocity(hf.GaussianMixturePotential(*one), flow)(t, x)


def show(axes, sets, titles):
    side = np.linspace(-2.8, 2.8, 80)
    grid = jnp.stack(jnp.meshgrid(side, side), axis=-1)
    density = np.exp(jax.vmap(jax.vmap(truth.log_prob))(grid))
    for ax, points in zip(axes, sets, strict=True):
        ax.contour(side, side, density, levels=6, colors="0.8", linewidths=0.8)
        ax.plot(*points.T, ".", color=plotting.DATA, markersize=2)
        ax.set(xticks=[], yticks=[], aspect="equal", xlim=(-2.8, 2.8), ylim=(-2.8, 2.8))
    plotting.label_panels(axes, titles)


# %% [markdown]
# ## Towards a class
#
# Classifier-free guidance goes further in the direction that a condition makes:
# $V_u + g\,(V_c - V_u)$. At $g = 1$ it is the class; above, samples keep away from what the others have,
# and lose variety. In a linear flow, and in a box, this is exactly guidance of the score.
#
# A network has to have met the null condition in training: `hf.drop_labels` writes it over a share
# of the labels, as `python examples/ffhq.py --cond` does.

# %% alt="Samples of one class at guidance 1, 2 and 4: they draw away from the other two"
label = jnp.full(1500, 1)
scales = (1.0, 2.0, 4.0)
guided = [
    hf.generate(hf.Guided(predictor, g), flow, jr.key(0), (1500, 2), condition=label)
    for g in scales
]
figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
show(axes, guided, [f"guidance {g:g}" for g in scales])
for g, points in zip(scales, guided, strict=True):
    mean, deviation = points.mean(0), float(points.std(0).mean())
    print(f"guidance {g:g}: mean {mean[0]:.2f} {mean[1]:.2f}, deviation {deviation:.2f}")
plt.show()

# %% [markdown]
# ## Away from a weaker model
#
# Autoguidance needs no classes: it goes away from a model that is worse in the same way, a smaller
# network or an earlier checkpoint. Here both have blurred the truth, one more than the other.

# %% alt="Samples of a blurred model, and of the same guided away from a more blurred one"


def blurred(by):
    mixture = hf.GaussianMixturePotential(means, jnp.sqrt(stds**2 + by**2), weights)
    return hf.MixtureVelocity(mixture, flow)


model = blurred(0.3)
sharpened = hf.Guided(model, 2.0, weaker=blurred(0.42))
pair = [hf.generate(v, flow, jr.key(1), (1500, 2)) for v in (model, sharpened)]
figure, axes = plt.subplots(1, 2, figsize=(6.2, 3.3), layout="constrained")
show(axes, pair, ["a blurred model", "guided by a worse one"])
plt.show()
log_p = [float(jax.vmap(truth.log_prob)(points).mean()) for points in pair]
print(f"mean log density under the truth: {log_p[0]:.2f}, guided {log_p[1]:.2f}")

# %% [markdown]
# ## By an energy
#
# `hf.EnergyGuided` adds a potential while sampling: what is wanted is $p(x)\,e^{-E(x)}$, and nothing is
# trained for $E$. It is a callable of one datum, or a potential of hamflow. A constant force is
# exact for one Gaussian. For several it is a guess, which goes too far here: as long as the denoiser
# stands between them, it gives way more than one of them would.

# %% alt="Samples with a force to the right added, beside draws of the exact tilted law"
force = jnp.array([1.5, 0.0])


def tilt(x):
    return -jnp.dot(force, x)


steered = hf.EnergyGuided(everything, flow, tilt)
found = hf.generate(steered, flow, jr.key(2), (4000, 2), 60)
# N(m, s^2) times exp(f . x) is N(m + s^2 f, s^2), with a weight exp(f . m + s^2 f^2 / 2) more.
shifted = means + stds[:, None] ** 2 * force
gain = jnp.exp(means @ force + stds**2 * (force @ force) / 2)
tilted = hf.GaussianMixturePotential(shifted, stds, weights * gain / (weights @ gain))
expected = jax.vmap(lambda k: tilted.sample(k, (2,)))(jr.split(jr.key(3), 4000))
figure, axes = plt.subplots(1, 2, figsize=(6.2, 3.3), layout="constrained")
show(axes, [found[:1500], expected[:1500]], ["steered", "exact"])
plt.show()
shares = [float(jnp.mean(points[:, 0] > 0)) for points in (found, expected)]
print(f"on the right {shares[0]:.2f}, exact {shares[1]:.2f}; of the upper Gaussian there:")
for name, points in (("steered", found), ("exact", expected)):
    near = points[(points[:, 0] > 0) & (points[:, 1] > 0.2)]
    print(f"  {name:<7} mean {near[:, 0].mean():.2f}, deviation {near[:, 0].std():.2f}")

# %% [markdown]
# ## Known in part
#
# What is known of a datum is an energy too: `hf.painted(known, mask)`. For pictures it fills in what the
# mask leaves out, and with `measure=` a mean over blocks it makes them larger
# (`examples/guidance.py`). Here the first coordinate is known to be .9, and the second is drawn.

# %% alt="Histogram of the second coordinate given the first, beside its exact density"
known, mask = jnp.array([0.9, 0.0]), jnp.array([1.0, 0.0])
painted = hf.painted(known, mask, std=0.05)
steered = hf.EnergyGuided(everything, flow, painted, data_std=1.0)
found = hf.generate(steered, flow, jr.key(4), (4000, 2), 60)
print(f"the known coordinate: {found[:, 0].mean():.3f} +- {found[:, 0].std():.3f}")

second = np.linspace(-3, 3, 200)
along = jnp.stack([jnp.full(200, 0.9), jnp.asarray(second)], axis=1)
density = np.exp(jax.vmap(truth.log_prob)(along))
density = density / (density.sum() * (second[1] - second[0]))
figure, ax = plt.subplots(figsize=(5.2, 3), layout="constrained")
ax.hist(found[:, 1], bins=60, density=True, color=plotting.PATH, alpha=0.6)
ax.plot(second, density, color=plotting.DATA, label="exact")
ax.set(xlabel="the coordinate that was not known", yticks=[])
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## All of it at once
#
# Steered predictors are made of predictors, so they stack; a class at guidance 2 with an energy:

# %%
guided = hf.Guided(predictor, 2.0)
label = jnp.zeros(1000, int)
for name, steered in (
    ("guided", guided),
    ("and pushed", hf.EnergyGuided(guided, flow, tilt)),
):
    points = hf.generate(steered, flow, jr.key(5), (1000, 2), 40, condition=label)
    print(f"class 0, {name}: mean {points[:, 0].mean():.2f} {points[:, 1].mean():.2f}")
