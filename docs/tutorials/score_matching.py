# %% [markdown]
# # Score matching without noise
#
# The score of data is the gradient of their log density. Hamiltonian score matching learns it
# by asking whether motion keeps the law of the data: start every datum with a random
# momentum, push it with a force, and look at the velocity that is left on average at each
# place. If that is zero, the force is the score; if not, it says where the force is wrong.
# No noise is added to the data and no divergence is computed. Everything on this page was
# run when it was built.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax

import hamflow as hf
from hamflow import plotting

# %% [markdown]
# ## Data whose score is known
#
# Six Gaussians on a circle. As a potential, $-\log$ of their density, the mixture's force is
# the true score, so every step can be checked.

# %%
angle = 2 * jnp.pi * jnp.arange(6) / 6
truth = hf.GaussianMixturePotential(
    means=2.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1),
    stds=jnp.full(6, 0.5),
    weights=jnp.ones(6),
)


@jax.jit
def draw(key):
    return jax.vmap(lambda k: truth.sample(k, (2,)))(jr.split(key, 10_000))


data, test = draw(jr.key(0)), draw(jr.key(1))

# %% [markdown]
# ## Learn it
#
# The loss takes any callable from one position to a score. `times` is how long the data move:
# short against the finest structure of the data, here a fifth of it. With one network for
# both sides of the game (`inner="tied"`, the default), its gradient moves the force against
# the mean velocity that the force itself leaves.

# %%
network = eqx.nn.MLP(2, 2, 128, 3, activation=jax.nn.silu, key=jr.key(2))
steps = 3000
optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
parameters, static = eqx.partition(network, eqx.is_inexact_array)


def step(carry, key):
    parameters, state = carry
    key_rows, key_loss = jr.split(key)
    x = data[jr.randint(key_rows, (256,), 0, len(data))]

    def loss(parameters):
        score = eqx.combine(parameters, static)
        return hf.hamiltonian_score_matching_loss(score, x, key_loss, times=0.1)

    value, gradient = jax.value_and_grad(loss)(parameters)
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(parameters, updates), state), value


@jax.jit
def run(parameters):
    carry = (parameters, optimizer.init(parameters))
    return jax.lax.scan(step, carry, jr.split(jr.key(3), steps))


(parameters, _), losses = run(parameters)
score = eqx.combine(parameters, static)

# %% [markdown]
# The loss reads as $E|F - s|^2 - E|s|^2$, at the score as minus the mean square of the score; a few
# percent below it here, since a time of a fifth of the finest structure is not quite zero, and since
# the network has seen these data many times.

# %%
size = float(jnp.mean(jax.vmap(lambda x: jnp.sum(truth.force(0.0, x) ** 2))(test)))
error = float(hf.explicit_score_matching_loss(score, test, truth=truth))
print(f"loss {losses[-300:].mean():.2f}, at the score {-size:.2f}")
print(f"E|F - s|^2 / E|s|^2 = {error / size:.4f}")

# %% alt="The data, the true score and the learned score as arrows: the two fields look alike"
side = jnp.linspace(-3.4, 3.4, 21)
grid = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
grid = grid[jax.vmap(truth.log_prob)(grid) > -8.0]  # where there are data
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4))
plotting.density(axes[0], test, extent=3.4)
for ax, field in zip(axes[1:], (lambda x: truth.force(0.0, x), score), strict=True):
    arrows = np.asarray(jax.vmap(field)(grid))
    ax.quiver(*np.asarray(grid).T, *arrows.T, color=plotting.PRIOR, scale=90)
    ax.set(xticks=[], yticks=[], aspect="equal")
plotting.label_panels(axes, ["data", "true score", "learned score"])
plt.show()

# %% [markdown]
# ## Measure any score
#
# The discrepancy $D(t) = E|E[v_t \mid x_t]|^2$ is zero for all $t$ if and only if the force is
# the score, and $t^2 E|F - s|^2$ for short times. `hf.hamiltonian_score_discrepancy` fits the
# velocity on one half of the data and takes the value on the other half: a lower bound, with an
# error from refits. It needs data and a score from anywhere, and no truth. Being a lower bound,
# it reads low where the error is fine-grained: of the quarter of $E|s|^2$ that a score half too
# strong is off by, most is found.

# %%
for name, force in [
    ("the truth", truth),
    ("learned", score),
    ("half too strong", 1.5 * truth),
    ("no force at all", hf.ZeroPotential()),
]:
    found = hf.hamiltonian_score_discrepancy(force, test, jr.key(4), times=(0.05, 0.1))
    print(f"{name:<24} {found.estimate:7.3f} +- {found.standard_error:.3f}")

# %% [markdown]
# ## One long time does not order scores
#
# For $N(0, s^2)$ and $F = -a x$ the discrepancy has a closed form, and it vanishes at a quarter
# of a swing even for a wrong $a$. With $s = 1/2$ the right one is $a = 4$; at $t = .5$ the worse
# of two wrong forces looks far better.

# %%
normal = 0.5 * jr.normal(jr.key(5), (20_000, 1))
for t in (0.05, 0.5):
    for a in (1.0, 9.0):
        found = hf.hamiltonian_score_discrepancy(
            hf.HarmonicPotential(a**0.5), normal, jr.key(6), times=t, features="linear"
        )
        print(
            f"t = {t:<5} a = {a:.0f}: D / t^2 = {found.estimate:.3f} +- {found.standard_error:.3f},"
            f" E|F - s|^2 = {(a - 4) ** 2 / 4:.2f}"
        )

# %% [markdown]
# ## From a score to samples
#
# This score is right where there are data and says nothing elsewhere, so it cannot lead noise to
# the data. Three ways on:
#
# - [HMC with a learned energy](hmc_learned_energy.md): start at the data, and stay there.
# - `hf.denoising_hamiltonian_score_matching_loss`: the same idea at every level of noise; with
#   `hf.convert` the scores become the velocity of a diffusion, and `hf.generate` follows it.
# - A flow: [Ten minutes](ten_minutes.md).
