# %% [markdown]
# # HMC with a learned energy
#
# A score that is the gradient of an energy can be sampled with a guarantee: Hamiltonian Monte
# Carlo accepts or rejects by the energy, so whatever its steps get wrong, the draws follow
# $e^{-U}$. Here the energy is a network, learned by Hamiltonian score matching, and the sampler
# is blackjax's.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import optax

import hamflow as hf
from hamflow import plotting
from hamflow.distances import two_sample_distance

# %% [markdown]
# ## A conservative score
#
# A `NetworkPotential` is one number a position; its force is minus its gradient. The loss is the
# one for any force. The network adds to a bowl, so that the energy grows where no data are.

# %%
truth = hf.GaussianMixturePotential(
    means=jnp.array([[1.0, 0.6], [-1.0, -0.2], [0.3, -1.1]]),
    stds=jnp.array([0.5, 0.6, 0.4]),
    weights=jnp.array([0.4, 0.4, 0.2]),
)


@jax.jit
def draw(key):
    return jax.vmap(lambda k: truth.sample(k, (2,)))(jr.split(key, 10_000))


data = draw(jr.key(0))
network = eqx.nn.MLP(2, "scalar", 64, 2, activation=jax.nn.softplus, key=jr.key(1))
potential = hf.NetworkPotential(network) + hf.HarmonicPotential(1.0)

# %%
steps = 3000
optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
parameters, static = eqx.partition(potential, eqx.is_inexact_array)


def step(carry, key):
    parameters, state = carry
    key_rows, key_loss = jr.split(key)
    x = data[jr.randint(key_rows, (256,), 0, len(data))]

    def loss(parameters):
        force = eqx.combine(parameters, static)
        return hf.hamiltonian_score_matching_loss(force, x, key_loss, times=0.1)

    updates, state = optimizer.update(jax.grad(loss)(parameters), state)
    return (optax.apply_updates(parameters, updates), state), None


@jax.jit
def run(parameters):
    carry = (parameters, optimizer.init(parameters))
    return jax.lax.scan(step, carry, jr.split(jr.key(2), steps))[0]


potential = eqx.combine(run(parameters)[0], static)
fresh = draw(jr.key(3))
size = hf.explicit_score_matching_loss(hf.ZeroPotential(), fresh, truth=truth)
error = hf.explicit_score_matching_loss(potential, fresh, truth=truth)
print(f"E|F - s|^2 / E|s|^2 = {error / size:.4f}")

# %% [markdown]
# ## Draw from it
#
# `hf.to_blackjax` says the potential in blackjax's words. Two thousand chains start at data;
# each makes forty proposals of eight leapfrog steps.

# %%
target = hf.to_blackjax(potential)
chain = target.hmc(step_size=0.25, num_integration_steps=8)


@jax.jit
@jax.vmap
def sample(key, start):
    def proposal(state, key):
        state, info = chain.step(key, state)
        return state, (state.position, info.is_accepted)

    _, (positions, accepted) = jax.lax.scan(proposal, chain.init(start), jr.split(key, 40))
    return positions[-1], jnp.mean(accepted)


draws, accepted = sample(jr.split(jr.key(4), 2000), fresh[:2000])
print(f"accepted {accepted.mean():.3f}")

# %% [markdown]
# The chains ended where data are. The two-sample distance is that of the last positions from
# data that nobody saw, in standard deviations, beside what two sets of data show.

# %%
distance, floor = two_sample_distance(jr.key(5), draws, draw(jr.key(6))[:2000])
print(f"distance {distance:.3f}, noise floor {floor:.3f}")

# %% alt="Data and HMC draws: three blobs in both panels"
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
plotting.density(axes[0], fresh[:2000], extent=3.0, bins=60)
plotting.density(axes[1], draws, extent=3.0, bins=60)
plotting.label_panels(axes, ["data", "HMC with the learned energy"])
plt.show()

# %% [markdown]
# A force that is no gradient has no energy to accept or reject by, and the type says so:

# %%
try:
    hf.to_blackjax(hf.NetworkForce(eqx.nn.MLP(2, 2, 8, 1, key=jr.key(7))))
except TypeError as error:
    print(error)
