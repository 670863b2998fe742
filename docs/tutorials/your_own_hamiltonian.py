# %% [markdown]
# # Your own Hamiltonian
#
# A Hamiltonian of your own is a module with one method, its energy. The force follows by differentiation, an
# integrator follows the motion, and `hf.check` measures whether it is what it says it is. This page writes a potential
# that hamflow does not have, simulates it, makes a flow of it, plants a mistake to see it caught, trains and samples.
# `examples/new_hamiltonian.py` is the same as one script, with another potential.

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
from hamflow.data import two_moons
from hamflow.networks import MLP

# %% [markdown]
# ## An energy
#
# Two springs, and a coupling that makes one stiffer where the other is stretched (Pullen and Edmonds 1981):
#
# $$U(x, y) = \tfrac12 (x^2 + y^2) + c\, x^2 y^2.$$
#
# Parameters are fields, `energy` takes one position without a batch axis, and returns one number.


# %%
class CoupledSprings(hf.AbstractPotential):
    coupling: float

    def energy(self, t, position):
        x, y = position
        return 0.5 * (x**2 + y**2) + self.coupling * x**2 * y**2


system = hf.Hamiltonian(CoupledSprings(coupling=1.0), hf.GaussianKinetic())
print("force at (1, 2):", system.potential.force(0.0, jnp.array([1.0, 2.0])))

# %% [markdown]
# ## Follow it
#
# `hf.integrate` takes a system, a state, two times and a number of steps. What is worth keeping on the way is an
# observable; here the energy, which the true motion keeps. A splitting method keeps it only nearly, but its error
# swings and does not drift, however long it runs. (Yoshida's is near the rounding of single precision here.)

# %% alt="An orbit in the plane, and the energy error of three integrators over time"
state = hf.PhaseState(jnp.array([1.4, 0.3]), momentum=jnp.array([0.2, 1.1]))
start = system.energy(0.0, state)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
saved = {"save_every": 2, "observables": system.energy}
for method in (hf.SymplecticEuler(), hf.Leapfrog(), hf.Yoshida4()):
    run = hf.integrate(system, state, 0.0, 100.0, 2000, method, **saved)
    error = jnp.abs(run.observables / start - 1.0)
    right.semilogy(run.times, error, linewidth=0.8, label=type(method).__name__)
left.plot(*run.states.position.T, color=plotting.PRIOR, linewidth=0.4)
left.set(xlabel="x", ylabel="y", aspect="equal")
right.set(xlabel="t", ylabel="relative error of the energy", ylim=(1e-8, 1))
right.legend(frameon=False, loc="upper right", ncols=3, fontsize=8)
plt.show()

# %% [markdown]
# ## From a system to a flow
#
# A flow follows the system with an integrator that has a step size: always the same number of equal steps, for any
# time, so that the compiler knows it. Where the law at the horizon has no formula, `fit_prior` runs data there, fits a
# prior and prints by how much it misses: generation starts from the prior, so whatever it misses, the samples miss.
# The noise floor is what two sets of draws of one law differ by.


# %%
def flow_of(system, prior):
    return hf.Flow(
        system,
        hf.IndependentCoupling(),  # p_0 ~ exp(-K), whatever the datum
        horizon=1.2,
        prior=prior,
        integrator=hf.Leapfrog(step_size=0.05),
    )


data = two_moons(jr.key(0), 20_000)
flow = flow_of(system, hf.NormalPrior())  # until one is fitted
hf.fit_prior(flow, data, jr.key(1), num_draws=20_000)
flow = hf.fit_prior(flow, data, jr.key(1), components=16, num_draws=20_000).flow

# %% [markdown]
# One Gaussian misses: the law at the horizon is a star, drawn out along the axes, where the coupling does not push. A
# mixture of sixteen does not. Below, the way there, above in the plane and below in phase space.

# %% alt="Two moons at four times, in the plane and in phase space"
times = (0.0, 0.4, 0.8, 1.2)
figure, axes = plt.subplots(2, 4, figsize=(10, 5), layout="constrained")
for (above, below), t in zip(axes.T, times, strict=True):
    at = jnp.full((len(data),), t)
    z = eqx.filter_jit(flow.sample_state)(jr.key(2), data, at)
    plotting.density(above, z.position, extent=3.5, bins=90)
    phase = jnp.stack([z.position[:, 0], z.momentum[:, 0]], axis=1)
    plotting.density(below, phase, extent=3.5, bins=90)
plotting.label_panels(axes[0], [f"(x, y) at t = {t}" for t in times])
plotting.label_panels(axes[1], ["(x, p)"] * 4)
plt.show()

# %% [markdown]
# ## Is it right?
#
# `hf.check` measures what training and sampling rely on: that the field is the gradient of the energy, that the
# motion follows the field, retraces, keeps energy and phase volume, that first momenta and the law at the horizon are
# what the flow says, and that gradients in single precision are finite. Each line is a verdict, a law, a number and the
# bound that it must keep. `print(report)` adds what each number is, or why a law does not apply.


# %%
def show(report):
    """The table without its last column, or the broken laws alone."""
    lines = str(report).splitlines()
    broken = [line for line in lines if line.startswith("FAIL")]
    print(*(line[:72].rstrip() for line in broken or lines), sep="\n")


show(hf.check(flow, data, jr.key(3)))

# %% [markdown]
# On the command line the same is `hamflow check`, for a flow (or a function that returns one) in a module of yours:
#
# ```sh
# hamflow check my_systems:flow --data points.npy
# ```
#
# It prints this table. Its exit status is 0 if all laws hold, 1 if one is broken and 2 if it cannot be run, so it can
# stand in a test suite as it is.
#
# ## A mistake
#
# Somebody writes the derivative by hand, to save an evaluation, and forgets a factor two in one component.


# %%
@jax.custom_jvp
def springs(position):
    x, y = position
    return 0.5 * (x**2 + y**2) + x**2 * y**2


@springs.defjvp
def _(primals, tangents):
    (position,), (direction,) = primals, tangents
    x, y = position
    gradient = jnp.stack([x + 2.0 * x * y**2, y + x**2 * y])  # should be 2 x^2 y
    return springs(position), jnp.vdot(gradient, direction)


mistaken = hf.Hamiltonian(hf.FunctionPotential(springs), hf.GaussianKinetic())
show(hf.check(flow_of(mistaken, flow.prior), data, jr.key(3)))

# %% [markdown]
# The first broken law is the place to look: the energy's values say what its derivative must be. The others follow
# from it: this force is the gradient of no energy, so the motion is not symplectic, and what it should keep it loses, at
# whatever step.
#
# Training would not have noticed: any force makes a flow whose velocity can be learned. It would have been the flow of
# another system than the one that was meant.
#
# ## Train, sample, look
#
# The flow is not linear, so `Preconditioned.from_data` measures the scalings that others have as formulas. Nothing
# else differs from [Ten minutes](ten_minutes.md).

# %%
network = MLP((2,), width=128, depth=3, key=jr.key(4))
model = hf.Preconditioned.from_data(network, flow, data, jr.key(5))
params, static = eqx.partition(model, model.trainable())
optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, 1500))


@jax.jit
def train(params, keys):
    def step(carry, key):
        params, opt_state = carry
        key_batch, key_loss = jr.split(key)
        batch = data[jr.randint(key_batch, (256,), 0, len(data))]

        def loss(params):
            model = eqx.combine(params, static)
            return hf.velocity_matching_loss(model, flow, batch, key_loss)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    start = (params, optimizer.init(params))
    (params, _), losses = jax.lax.scan(step, start, keys)
    return params, losses


params, losses = train(params, jr.split(jr.key(6), 1500))
model = eqx.combine(params, static)
print(f"loss {losses[:100].mean():.3f} -> {losses[-100:].mean():.3f}")

# %% alt="Data, draws of the fitted prior, and samples"
samples = hf.generate(model, flow, jr.key(7), (20_000, 2))
keys = jr.split(jr.key(8), 20_000)
start = jax.vmap(lambda key: flow.prior.sample(key, (2,)))(keys)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for ax, points in zip(axes, (data, start, samples), strict=True):
    plotting.density(ax, points, extent=3.0)
plotting.label_panels(axes, ["data", "drawn from the prior", "generated from it"])
plt.show()

# %% [markdown]
# A number for what the eye sees: half the absolute difference of two histograms, between samples and data, and
# between two sets of data.


# %%
def variation(a, b):
    bins = [np.linspace(-2.2, 2.2, 41)] * 2
    a, b = (np.histogram2d(*np.asarray(x).T, bins)[0] for x in (a, b))
    return 0.5 * np.abs(a - b).sum() / len(samples)


other = two_moons(jr.key(9), 20_000)
print(f"samples and data {variation(samples, data):.3f}")
print(f"data and data    {variation(other, data):.3f}")

# %% [markdown]
# ## Where the motion has a formula
#
# Then write it: a flow with a closed form needs no steps, and one that is linear in phase space gets noise scale,
# scalings and coefficients as formulas too. The opposite of a spring, a hill $U = -k^2|x|^2/2$, moves by
#
# $$x_t = \cosh(kt)\, x_0 + \frac{\sinh(kt)}{k}\, p_0, \qquad p_t = k \sinh(kt)\, x_0 + \cosh(kt)\, p_0,$$
#
# which are four blocks. `propagator` returns None where they do not hold, here with walls or for another mass.


# %%
class HillMotion(hf.AbstractLinearPropagator):
    rate: float

    def blocks(self, t0, t, shape):
        kt = self.rate * (t - t0)
        cosh, sinh = jnp.cosh(kt), jnp.sinh(kt)
        return cosh, sinh / self.rate, self.rate * sinh, cosh


class Hill(hf.AbstractPotential, hf.AbstractSolvable):
    rate: float
    motion: type = HillMotion

    def energy(self, t, position):
        return -0.5 * self.rate**2 * jnp.sum(position**2)

    def propagator(self, kinetic, domain):
        match kinetic, domain:
            case hf.GaussianKinetic(mass=float(1.0)), hf.Euclidean():
                return self.motion(self.rate)
        return None


def hill_flow(motion):
    hill = hf.Hamiltonian(Hill(0.1, motion), hf.GaussianKinetic())
    deviation = (np.cosh(1.2) ** 2 + (np.sinh(1.2) / 0.1) ** 2) ** 0.5
    prior = hf.NormalPrior(0.0, deviation)
    return hf.Flow(hill, hf.IndependentCoupling(), 12.0, prior)


print("linear:", hill_flow(HillMotion).is_linear)
print("all laws hold:", hf.check(hill_flow(HillMotion), data, jr.key(3)).passed)

# %% [markdown]
# A closed form is easily mistyped. This one lost the $k$ of its third block, and with it the velocity is no longer
# the rate at which positions change: what a network learned from it would lead elsewhere than to the data.


# %%
class Mistyped(hf.AbstractLinearPropagator):
    rate: float

    def blocks(self, t0, t, shape):
        kt = self.rate * (t - t0)
        cosh, sinh = jnp.cosh(kt), jnp.sinh(kt)
        return cosh, sinh / self.rate, sinh, cosh


show(hf.check(hill_flow(Mistyped), data, jr.key(3)))

# %% [markdown]
# Kinetic energies, domains, couplings, integrators and whole systems of your own are on the page
# [Extending](../extending.md).
