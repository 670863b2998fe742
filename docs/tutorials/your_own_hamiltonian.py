# %% [markdown]
# # Your own Hamiltonian
#
# A Hamiltonian of your own is a module with one method, its energy; the force follows by differentiation. In this
# version a flow also needs the motion in closed form. This page writes a potential that hamflow does not have, gives
# it one, tests it, trains it and samples it; and then a system that needs no new class at all.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import optax

import hamflow as hf
from hamflow import plotting
from hamflow.data import checkerboard, two_moons
from hamflow.networks import MLP

# %% [markdown]
# ## A hill instead of a valley
#
# The oscillation uses a spring. What of the opposite, a hill with the data near its top? The energy is $U =
# -k^2|x|^2/2$, the equation $\ddot x = k^2 x$, and its solution
#
# $$x_t = \cosh(kt)\, x_0 + \frac{\sinh(kt)}{k}\, p_0, \qquad p_t = k \sinh(kt)\, x_0 + \cosh(kt)\, p_0.$$
#
# That is linear in phase space, so the closed form is its four blocks.


# %%
class HillMotion(hf.AbstractLinearPropagator):
    rate: float

    def blocks(self, t0, t, shape):
        kt = self.rate * (t - t0)
        cosh, sinh = jnp.cosh(kt), jnp.sinh(kt)
        return cosh, sinh / self.rate, self.rate * sinh, cosh


class Hill(hf.AbstractPotential, hf.AbstractSolvable):
    rate: float

    def energy(self, t, position):
        return -0.5 * self.rate**2 * jnp.sum(position**2)

    def propagator(self, kinetic, domain):
        match kinetic, domain:
            case hf.GaussianKinetic(mass=float(1.0)), hf.Euclidean():
                return HillMotion(self.rate)
        return None


system = hf.Hamiltonian(Hill(rate=0.5), hf.GaussianKinetic())

# %% [markdown]
# `propagator` returns None where the formula does not hold, here for another mass or with walls. A flow of such a
# system is refused when it is built, with a message that says what to do.

# %%
try:
    heavy = hf.Hamiltonian(Hill(0.5), hf.GaussianKinetic(mass=2.0))
    hf.Flow(heavy, hf.IndependentCoupling(), 6.0, hf.NormalPrior())
except ValueError as error:
    print(error)

# %% [markdown]
# ## Is it right?
#
# Do not trust a closed form: ask the physics. Along the motion the energy must stand still, position and momentum
# must change as the vector field says, and the flow map must be symplectic, $J^\top \Omega J = \Omega$.

# %%
propagator = system.propagator()
state = hf.PhaseState(jnp.array([0.3, -1.0]), jnp.array([0.5, 0.2]))


def at(t):
    return propagator(jnp.array(0.0), t, state)


moved, derivative = jax.jvp(at, (jnp.array(1.7),), (jnp.array(1.0),))
expected = system.vector_field(1.7, moved)
print("energy       ", system.energy(0.0, state), system.energy(1.7, moved))
print("dx/dt, twice ", derivative.position, expected.position)
print("dp/dt, twice ", derivative.momentum, expected.momentum)


def step(z):
    end = propagator(jnp.array(0.0), jnp.array(1.7), hf.PhaseState(z[:2], z[2:]))
    return jnp.concatenate([end.position, end.momentum])


jacobian = jax.jacobian(step)(jnp.concatenate([state.position, state.momentum]))
omega = jnp.block([[jnp.zeros((2, 2)), jnp.eye(2)], [-jnp.eye(2), jnp.zeros((2, 2))]])
print("symplectic to", jnp.abs(jacobian.T @ omega @ jacobian - omega).max())

# %% [markdown]
# ## From a system to a flow
#
# On the hill noise and data both grow, and their ratio $\sigma = \tanh(kt)/k$ levels off at $1/k$: the law at the
# horizon is never exactly Gaussian. With $k = 0.1$ and $T = 12$ the noise is eight times the data. A Gaussian of the
# right variance is the prior, and how wrong it is should be measured, not hoped: for two moons of unit variance, the
# distance between the two distribution functions.

# %%
rate, horizon = 0.1, 12.0
scale = (jnp.cosh(rate * horizon) ** 2 + (jnp.sinh(rate * horizon) / rate) ** 2) ** 0.5
flow = hf.Flow(
    hf.Hamiltonian(Hill(rate), hf.GaussianKinetic()),
    hf.IndependentCoupling(),
    horizon,
    hf.NormalPrior(scale=float(scale)),
)
data = two_moons(jr.key(0), 20_000)
last = flow.sample_state(jr.key(1), data, jnp.full((len(data),), horizon))
normal = jax.scipy.stats.norm.cdf(jnp.sort(last.position[:, 0]) / flow.prior.scale)
distance = jnp.abs(normal - (jnp.arange(len(data)) + 0.5) / len(data)).max()
print(f"largest difference of the distribution functions: {distance:.4f}")
print(f"what the noise of {len(data)} draws alone makes:     {0.87 / len(data) ** 0.5:.4f}")

# %% [markdown]
# A longer run would not buy more: past $T = 12$ positions go on growing, $\sigma$ hardly does, and the grid of sampling
# is spaced in $\sigma$, so its first step would have to undo all of that growth.
#
# Nothing else is new. The flow is linear, so scalings, noise scale and grid have their formulas already.

# %%


def train(flow, data, num_steps=1500, time_law=None, **options):
    network = MLP((2,), width=128, depth=3, **options, key=jr.key(2))
    model = hf.Preconditioned.from_data(network, flow, data, jr.key(3))
    params, static = eqx.partition(model, model.trainable())
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, num_steps))

    @jax.jit
    def run(params, keys):
        def step(carry, key):
            params, opt_state = carry
            key_batch, key_loss = jr.split(key)
            batch = data[jr.randint(key_batch, (512,), 0, len(data))]

            def loss(params):
                model = eqx.combine(params, static)
                return hf.velocity_matching_loss(
                    model, flow, batch, key_loss, time_law=time_law
                )

            value, gradients = jax.value_and_grad(loss)(params)
            updates, opt_state = optimizer.update(gradients, opt_state)
            return (optax.apply_updates(params, updates), opt_state), value

        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params, losses

    params, losses = run(params, jr.split(jr.key(4), num_steps))
    print(f"loss {losses[:100].mean():.3f} -> {losses[-100:].mean():.3f}")
    return eqx.combine(params, static)


model = train(flow, data)

# %% alt="Samples of the hill flow beside the data"
samples = hf.generate(model, flow, jr.key(5), (20_000, 2))
figure, axes = plt.subplots(1, 2, figsize=(8, 4))
plotting.density(axes[0], data, extent=2.5)
plotting.density(axes[1], samples, extent=2.5)
plotting.label_panels(axes, ["data", "down the hill and back"])
plt.show()

# %% [markdown]
# ## Walls and a speed limit
#
# Many systems need no class of their own. Free motion has a closed form in every domain with every kinetic energy
# that suits it, so a relativistic gas in a box, in which nothing moves faster than $c = 1$, is a line. It is not
# linear: the scalings are measured.

# %% alt="A checkerboard, the law at three times in the box, and samples"
relativistic = hf.RelativisticKinetic(mass=1.0, speed_of_light=1.0)
gas = hf.Flow(
    hf.Hamiltonian(hf.ZeroPotential(), relativistic, hf.Box(-1.0, 1.0)),
    hf.IndependentCoupling(),
    horizon=4.0,
    prior=hf.UniformPrior(-1.0, 1.0),
)
board = checkerboard(jr.key(6), 20_000)
early = hf.LogitNormalTime(mean=-2.5, std=1.2)  # the board dissolves early: look there
model = train(gas, board, num_steps=2500, time_law=early, position_octaves=4)
times = gas.horizon * jnp.linspace(1.0, 0.0, 41) ** 2  # and step there
samples = hf.generate(model, gas, jr.key(7), (20_000, 2), times=times)
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
for ax, t in zip(axes, (0.0, 0.2, 4.0), strict=False):
    state = gas.sample_state(jr.key(8), board, jnp.full((len(board),), t))
    plotting.density(ax, state.position, extent=1.0, bins=60)
plotting.density(axes[3], samples, extent=1.0, bins=60)
plotting.label_panels(axes, ["t = 0", "t = 0.2", "t = 4, the horizon", "generated"])
plt.show()

# %% [markdown]
# A motion that is not linear is an `AbstractPropagator`: a module with `__call__(t0, t, state)`. A domain of your own
# subclasses `AbstractDomain` and says how a step folds; a kinetic energy subclasses `AbstractKinetic`.
