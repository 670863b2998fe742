"""The conformance kit: right flows pass, and a planted fault of each kind is caught under the name of its law."""

import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from own_systems import InvertedMotion

import hamflow as hf
from hamflow.integrators.base import AbstractIntegrator, step_size_field
from hamflow.integrators.stages import Stage

BUMPS = 0.9 * jr.rademacher(jr.key(0), (2000, 2)).astype(float) + 0.43 * jr.normal(jr.key(1), (2000, 2))


def free(system, horizon=1.0, prior=None, integrator=None):
    return hf.Flow(system, hf.IndependentCoupling(), horizon, prior or hf.NormalPrior(), integrator)


def bumps():
    return hf.GaussianMixturePotential(
        jnp.array([[0.5, 0.2], [-0.7, 0.4]]), jnp.array([0.4, 0.6]), jnp.array([0.4, 0.6])
    )


RIGHT = {
    "oscillation": (hf.oscillation, BUMPS),
    "reflection": (lambda: hf.reflection(-3.0, 3.0, 9.0), BUMPS),
    "diffusion": (lambda: hf.diffusion(80.0, 1.0), BUMPS),
    "flow matching": (hf.flow_matching, BUMPS),
    "whitened": (lambda: hf.whitened_oscillation(jnp.array([[2.0, 0.6], [0.6, 0.9]])), BUMPS),
    "pictures": (hf.oscillation, jr.normal(jr.key(2), (200, 3, 8, 8))),
    "stepped": (
        lambda: (
            hf.fit_prior(
                free(hf.Hamiltonian(bumps(), hf.GaussianKinetic()), 0.2, None, hf.Leapfrog(0.02)),
                BUMPS,
                jr.key(3),
                components=8,
                show=False,
            ).flow
        ),
        BUMPS,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_flows_pass(name):
    build, data = RIGHT[name]
    report = hf.check(build(), data, jr.key(4))
    assert report.passed, f"\n{report}"
    # Two bumps are not exp(-U); the pictures are white noise, which is what the oscillator keeps.
    assert report["Boltzmann-Gibbs stays"].verdict == ("pass" if name == "pictures" else "does not apply")
    assert len([f for f in report.findings if f.verdict == "pass"]) >= 13
    assert f"{len([f for f in report.findings if f.verdict != 'does not apply'])} laws hold" in str(report)


def test_boltzmann_gibbs_is_measured_where_it_holds():
    """Data drawn from the very potential stay distributed so."""
    data = jax.vmap(lambda k: bumps().sample(k, (2,)))(jr.split(jr.key(5), 4000))
    flow = free(hf.Hamiltonian(bumps(), hf.GaussianKinetic()), 1.5, bumps(), hf.Leapfrog(0.1))
    report = hf.check(flow, data, jr.key(6))
    assert report["Boltzmann-Gibbs stays"].verdict == "pass"
    assert report.passed, f"\n{report}"


class WrongSign(hf.AbstractPotential, hf.AbstractSolvable):
    """U = |x|^2 / 2 with the motion of U = -|x|^2 / 2."""

    def energy(self, t, position):
        return 0.5 * jnp.sum(position**2)

    def propagator(self, kinetic, domain):
        return InvertedMotion(1.0, 1.0)


class WrongFactor(hf.AbstractKinetic):
    """K = |p|^2 / 4, moved with v = p and drawn with unit variance; each can be right or wrong."""

    right_velocity: bool
    right_draw: bool

    reaches_every_velocity: ClassVar[bool] = True

    def energy(self, momentum):
        return 0.25 * jnp.sum(momentum**2)

    def velocity(self, momentum):
        return 0.5 * momentum if self.right_velocity else momentum

    def momentum(self, velocity):
        return 2.0 * velocity if self.right_velocity else velocity

    def sample(self, key, shape):
        return (math.sqrt(2.0) if self.right_draw else 1.0) * jr.normal(key, shape)

    def is_even_in_each(self, shape=None):
        return True

    def is_isotropic(self):
        return True


class NoFold(hf.AbstractDomain):
    """A box that forgets its walls."""

    flips_momentum: ClassVar[bool] = True

    def fold(self, position, momentum):
        return position, momentum

    def extend(self, position, velocity):
        return velocity

    def contains(self, position):
        return jnp.all(jnp.abs(position) <= 3.0)


@jax.custom_jvp
def bowl(x):
    return 0.5 * jnp.sum(x**2)


@bowl.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    return bowl(x), jnp.sum(1.3 * x * dx)


class NotTheGradient(hf.AbstractPotential):
    """An energy whose derivative is written by hand, wrongly."""

    def energy(self, t, position):
        return bowl(position)


class OwnSystem(hf.AbstractSeparableSystem):
    """A system of one's own: H = |p|^2 / 2 + |x|^2 / 2, with a swirl in its force."""

    domain: hf.AbstractDomain = hf.Euclidean()
    kinetic: hf.AbstractKinetic = hf.GaussianKinetic()
    swirl: float = 0.3

    def energy(self, t, state):
        return 0.5 * (jnp.sum(state.position**2) + jnp.sum(state.momentum**2))

    def force(self, x):
        return -x + self.swirl * jnp.stack([-x[1], x[0]])

    def vector_field(self, t, state, args=None):
        return hf.PhaseState(state.momentum, self.force(state.position))

    def velocity(self, t, state):
        return state.momentum

    def kick(self, t, state, h):
        return hf.PhaseState(state.position, state.momentum + h * self.force(state.position))

    def drift(self, t, state, h):
        return hf.PhaseState(state.position + h * state.momentum, state.momentum)

    def propagator(self):
        return None


class ExplicitEuler(AbstractIntegrator):
    """Both halves at once: neither symplectic nor invertible by its negative."""

    step_size: float | None = step_size_field()

    def stages(self):
        def euler(system, t, state, h):
            return jax.tree.map(lambda z, f: z + h * f, state, system.vector_field(t, state))

        return (Stage(euler, 1.0, 0.0),)

    def method_order(self):
        return 1

    def require_system(self, system):
        pass


class Cone(hf.AbstractPotential):
    """U = |x|, which has no derivative where a datum lies."""

    def energy(self, t, position):
        return jnp.sqrt(jnp.sum(position**2))


class Elsewhere(hf.AbstractCoupling):
    """Starts beside the data."""

    def sample(self, key, data, system, prior, horizon):
        return hf.PhaseState(data + 1.0, jr.normal(key, data.shape, data.dtype))

    def require_system(self, system):
        pass


class Draw(hf.AbstractKinetic):
    """K = |p|^2 / 2 with another draw of the right E[p . v]."""

    draw: Callable = eqx.field(static=True)

    reaches_every_velocity: ClassVar[bool] = True

    def energy(self, momentum):
        return 0.5 * jnp.sum(momentum**2)

    def velocity(self, momentum):
        return momentum

    def momentum(self, velocity):
        return velocity

    def sample(self, key, shape):
        return self.draw(key, shape)

    def is_even_in_each(self, shape=None):
        return True

    def is_isotropic(self):
        return True


def drawn(draw):
    return free(hf.Hamiltonian(hf.ZeroPotential(), Draw(draw)), 80.0, hf.NormalPrior(0.0, 80.0))


class OwnBox(hf.AbstractDomain):
    """The box of hamflow with a part replaced."""

    box: hf.Box
    only_once: bool = False
    extends: bool = True

    flips_momentum: ClassVar[bool] = True

    def fold(self, position, momentum):
        if not self.only_once:
            return self.box.fold(position, momentum)
        low, high = position < -3.0, position > 3.0
        folded = jnp.where(low, -6.0 - position, jnp.where(high, 6.0 - position, position))
        return folded, jnp.where(low | high, -momentum, momentum)

    def extend(self, position, velocity):
        return self.box.extend(position, velocity) if self.extends else velocity

    def contains(self, position):
        return self.box.contains(position)


def boxed(**parts):
    domain = OwnBox(hf.Box(-3.0, 3.0), **parts)
    return free(hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(), domain), 0.5, hf.UniformPrior(-3.0, 3.0))


class OwnPrior(eqx.Module):
    """N(0, 1), with the density of N(0, 1/2)."""

    def sample(self, key, shape):
        return jr.normal(key, shape)

    def log_prob(self, position):
        return -jnp.sum(position**2)


def kinetic(right_velocity, right_draw):
    return hf.Hamiltonian(hf.ZeroPotential(), WrongFactor(right_velocity, right_draw))


WELL = hf.Hamiltonian(hf.HarmonicPotential(3.0), hf.GaussianKinetic())
FAULTS = {
    "a wrong sign": (lambda: free(hf.Hamiltonian(WrongSign(), hf.GaussianKinetic())), "d momentum / dt = force"),
    "a wrong factor in the velocity": (lambda: free(kinetic(False, True)), "velocity = dH/dp"),
    "a wrong factor in the draw": (lambda: free(kinetic(True, False)), "momenta are drawn from exp(-K)"),
    "a missing fold": (
        lambda: free(
            hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(), NoFold()), 9.0, hf.UniformPrior(-3.0, 3.0)
        ),
        "positions stay in the domain",
    ),
    "a wrong deviation of the prior": (
        lambda: free(
            hf.Hamiltonian(hf.HarmonicPotential(1.0), hf.GaussianKinetic()), math.pi / 2, hf.NormalPrior(0.0, 0.85)
        ),
        "law at T = prior",
    ),
    "a wrong mean of the prior": (
        lambda: free(
            hf.Hamiltonian(hf.HarmonicPotential(1.0), hf.GaussianKinetic()), math.pi / 2, hf.NormalPrior(0.15)
        ),
        "law at T = prior",
    ),
    "a force that is not the gradient": (lambda: free(OwnSystem(), integrator=hf.Leapfrog(0.02)), "force = -dH/dx"),
    "a derivative written wrongly": (
        lambda: free(hf.Hamiltonian(NotTheGradient(), hf.GaussianKinetic()), integrator=hf.Leapfrog(0.02)),
        "dH by finite differences",
    ),
    "a method that is not symplectic": (lambda: free(WELL, integrator=ExplicitEuler(0.02)), "symplectic"),
    "a method that does not retrace": (lambda: free(WELL, integrator=ExplicitEuler(0.02)), "there and back"),
    "steps too large": (lambda: free(WELL, integrator=hf.Leapfrog(0.3)), "energy drift"),
    "another order than declared": (
        lambda: free(WELL, integrator=hf.Splitting((0.5, 0.5), (1.0,), 4, 0.02)),
        "order of the integrator",
    ),
    "a gradient that is not finite": (
        lambda: free(hf.Hamiltonian(Cone(), hf.GaussianKinetic()), integrator=hf.Leapfrog(0.1)),
        "finite gradients in float32",
    ),
    "one draw for all coordinates": (
        lambda: drawn(lambda key, shape: jnp.broadcast_to(jr.normal(key, ()), shape)),
        "momenta are drawn from exp(-K)",
    ),
    "momenta of one sign": (
        lambda: drawn(lambda key, shape: jnp.abs(jr.normal(key, shape))),
        "momenta are drawn from exp(-K)",
    ),
    "signs for normal draws": (
        lambda: drawn(lambda key, shape: jr.rademacher(key, shape).astype(float)),
        "momenta are drawn from exp(-K)",
    ),
    "a fold of one bounce": (lambda: boxed(only_once=True), "folds land inside"),
    "a velocity that is not carried": (lambda: boxed(extends=False), "extend undoes a fold"),
    "another density than the draws": (
        lambda: free(hf.Hamiltonian(hf.HarmonicPotential(1.0), hf.GaussianKinetic()), math.pi / 2, OwnPrior()),
        "prior.log_prob is of its draws",
    ),
    "a start beside the data": (
        lambda: hf.Flow(hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic()), Elsewhere(), 1.0, hf.NormalPrior()),
        "shapes and dtypes",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught_and_named(fault):
    build, law = FAULTS[fault]
    data = BUMPS.at[0].set(0.0)
    report = hf.check(build(), data, jr.key(7))
    assert law in report.failures, f"\n{report}"
    assert law in str(report).splitlines()[-1]


def test_the_planted_system_passes_without_its_fault():
    """Else the tests above might catch something else."""
    flow = free(OwnSystem(swirl=0.0), math.pi / 2, integrator=hf.Leapfrog(0.01))
    assert hf.check(flow, BUMPS, jr.key(7)).passed
    assert hf.check(free(kinetic(True, True), 80.0, hf.NormalPrior(0.0, 40.0 * 2**0.5)), BUMPS, jr.key(7)).passed


@pytest.mark.parametrize(("shape", "rows"), [((2,), 1000), ((1, 4, 4), 2000)])
def test_data_in_equilibrium_raise_no_alarm(shape, rows):
    """The normal law under its own oscillator, with fewer rows than draws too: rows that repeat are not new data."""
    for seed in range(2):
        data = jr.normal(jr.key(100 + seed), (rows, *shape))
        report = hf.check(hf.oscillation(), data, jr.key(seed))
        assert report.passed, f"\n{report}"


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_units_do_not_matter(unit):
    """The same physics in other units of length, mass scaled so that times stay."""
    mixture = hf.GaussianMixturePotential(
        unit * jnp.array([[0.5, 0.2], [-0.7, 0.4]]), unit * jnp.array([0.4, 0.6]), jnp.array([0.4, 0.6])
    )
    system = hf.Hamiltonian(mixture, hf.GaussianKinetic(1.0 / unit**2))
    data = jax.vmap(lambda k: mixture.sample(k, (2,)))(jr.split(jr.key(5), 2000))
    report = hf.check(free(system, 1.5, mixture, hf.Leapfrog(0.05)), data, jr.key(6))
    assert report.passed, f"\n{report}"


class Slow(hf.AbstractCoupling):
    """Momenta of one's own law, which a flow may have."""

    def sample(self, key, data, system, prior, horizon):
        return hf.PhaseState(data, 0.5 * jr.normal(key, data.shape, data.dtype))

    def require_system(self, system):
        pass


def test_what_a_law_does_not_cover_does_not_fail_it():
    """A coupling of one's own need not draw from exp(-K); a uniform prior has edges, which Stein misses."""
    system = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic())
    slow = hf.Flow(system, Slow(), 80.0, hf.NormalPrior(0.0, 40.0))
    assert hf.check(slow, BUMPS, jr.key(0)).passed
    uniform = hf.Flow(system, hf.CondOTCoupling(), 1.0, hf.UniformPrior(-2.0, 2.0))
    report = hf.check(uniform, BUMPS, jr.key(0))
    assert report.passed, f"\n{report}"
    assert report["prior.log_prob is of its draws"].verdict == "does not apply"


def test_an_error_from_inside_jit_is_told_in_its_own_words():
    report = hf.check(hf.reflection(), BUMPS, jr.key(0))  # in the box from -1 to 1
    assert "outside the Box" in report["states to measure at"].note, f"\n{report}"


def test_bad_input():
    with pytest.raises(ValueError, match="at least 16 examples, got 3"):
        hf.check(hf.oscillation(), BUMPS[:3], jr.key(0))
    with pytest.raises(ValueError, match="data must be finite"):
        hf.check(hf.oscillation(), BUMPS.at[0, 0].set(np.nan), jr.key(0))
    report = hf.check(hf.oscillation(), BUMPS, jr.key(0))
    with pytest.raises(KeyError, match="no law is called 'entropy': shapes and dtypes"):
        report["entropy"]
