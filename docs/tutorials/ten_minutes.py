# %% [markdown]
# # Ten minutes
#
# A flow carries data to noise by the laws of mechanics, and a learned velocity carries noise back. This page builds
# one, looks at it, trains it and samples it. Everything on it was run when the page was built.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import optax

import hamflow as hf
from hamflow import plotting

# %% [markdown]
# ## A flow is four objects
#
# A system (what pushes, what moves, and where), a coupling (the first momentum of each datum), a horizon and a prior.
# Here a spring: after a quarter of its period, position and momentum have changed places, so the positions are
# Gaussian whatever the data were. `hf.oscillation(frequency=1.0)` is short for this.

# %%
flow = hf.Flow(
    hf.Hamiltonian(hf.HarmonicPotential(1.0), hf.GaussianKinetic()),
    hf.IndependentCoupling(),
    horizon=jnp.pi / 2,
    prior=hf.NormalPrior(),
)

# %% [markdown]
# Data live at $t = 0$ and the prior at the horizon, here and everywhere in hamflow. Each datum gets a momentum and
# moves; in the plane of position and velocity the whole cloud turns by a quarter.

# %% alt="Phase portrait of two clusters that turn by a quarter of a circle"
mixture = hf.GaussianMixturePotential(
    means=jnp.array([-1.5, 1.5]),
    stds=jnp.array([0.2, 0.2]),
    weights=jnp.array([0.5, 0.5]),
)
data_1d = jax.vmap(lambda key: mixture.sample(key, ()))(jr.split(jr.key(0), 300))
figure, ax = plt.subplots(figsize=(5, 4.5))
plotting.phase_portrait(ax, flow, data_1d, jr.key(1))
ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
plt.show()

# %% [markdown]
# One state at a time is the rule inside (`vmap` is at the edge), and the motion is exact: there and back returns.

# %%
state = hf.PhaseState(position=jnp.array([1.0, 0.5]), momentum=jnp.array([0.0, -1.0]))
there = flow.evolve(state, t=0.7)
back = flow.evolve(there, t=0.0, t0=0.7)
print("there", there.position, there.momentum)
print("back ", back.position, back.momentum)

# %% [markdown]
# This flow is linear, $x_t = a\,x_0 + b\,e$, and says so; from $b/a$ come the noise scale, the training times and the
# sampling grid.

# %%
a, b, a_dot, b_dot = flow.coefficients(0.7)
print(f"a = {a:.4f}, b = {b:.4f}, and a^2 + b^2 = {a**2 + b**2:.4f}")
print("log sigma:", flow.noise_scale.log_sigma(jnp.array(0.7)), "= log tan 0.7")
print("grid:", hf.rho_grid(flow, 6))

# %% [markdown]
# ## Sampling with the exact velocity
#
# For a mixture of Gaussians the velocity predictor $V^*(t, x) = \mathbb{E}[v_t \mid x_t = x]$ is known, so sampling
# can be judged before anything is learned. `generate` draws from the prior and follows it down to $t = 0$: 18 steps
# of Heun's method, 35 evaluations.

# %% alt="Histogram of samples against the exact density"
exact = hf.MixtureVelocity(mixture, flow)
x = hf.generate(exact, flow, jr.key(2), (20_000,))
grid = jnp.linspace(-3, 3, 300)
plt.hist(x, bins=120, density=True, color=plotting.PATH)
plt.plot(grid, jnp.exp(jax.vmap(mixture.log_prob)(grid)), color=plotting.DATA)
plt.xlabel("x")
plt.show()

# %% [markdown]
# ## Training
#
# Now data whose velocity nobody knows. A network of any kind is called as `network(c_noise, x, condition, key)` on
# one example; `Preconditioned` puts the scalings around it that give it inputs and targets of unit variance. The loss
# is one function, and the loop is yours.

# %%
from hamflow.data import two_moons
from hamflow.networks import MLP

data = two_moons(jr.key(3), 20_000)
network = MLP((2,), width=128, depth=3, key=jr.key(4))
model = hf.Preconditioned.from_data(network, flow, data, jr.key(5))
params, static = eqx.partition(model, model.trainable())
optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, 1500))


@jax.jit
def step(params, opt_state, key):
    key_batch, key_loss = jr.split(key)
    batch = data[jr.randint(key_batch, (512,), 0, len(data))]

    def loss(params):
        return hf.velocity_matching_loss(eqx.combine(params, static), flow, batch, key_loss)

    value, gradients = jax.value_and_grad(loss)(params)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return optax.apply_updates(params, updates), opt_state, value


opt_state = optimizer.init(params)
losses = []
for key in jr.split(jr.key(6), 1500):
    params, opt_state, value = step(params, opt_state, key)
    losses.append(value)
model = eqx.combine(params, static)
print(f"loss {jnp.stack(losses[:100]).mean():.3f} -> {jnp.stack(losses[-100:]).mean():.3f}")

# %% alt="Two moons, data and samples"
samples = hf.generate(model, flow, jr.key(7), (20_000, 2))
figure, axes = plt.subplots(1, 2, figsize=(8, 4))
plotting.density(axes[0], data, extent=2.5)
plotting.density(axes[1], samples, extent=2.5)
plotting.label_panels(axes, ["data", "samples"])
plt.show()

# %% [markdown]
# ## Another flow is one line
#
# Diffusion, flow matching and a box with walls: the training code above would not change. Walls make a flow that is
# not linear; `Preconditioned.from_data` then measures what the others have as formulas.

# %%
flows = {
    "diffusion": hf.diffusion(data_std=1.0),
    "flow matching": hf.flow_matching(),
    "oscillation": hf.oscillation(),
    "reflection": hf.reflection(lower=-3.0, upper=3.0, horizon=9.0),
}
inside = jnp.clip(data, -3.0, 3.0)
for name, other in flows.items():
    fresh = hf.Preconditioned.from_data(network, other, inside, jr.key(8))
    loss = hf.velocity_matching_loss(fresh, other, inside[:512], jr.key(9))
    print(f"{name:14s} linear: {other.is_linear!s:5s}  loss, untrained, {loss:.3f}")

# %% [markdown]
# Every loss starts near one: that is what the scalings are for.
#
# ## Keeping it
#
# `save` writes any tree of modules, arrays and numbers to one file (safetensors and JSON, no pickle).

# %%
hf.save("moons.safetensors", model)
again = hf.load("moons.safetensors")
print(jnp.array_equal(again(0.3, jnp.ones(2)), model(0.3, jnp.ones(2))))
