"""Potentials that a user might bring, each with a closed form of its own: the registry treats them as hamflow's."""

import jax.numpy as jnp

import hamflow as hf


class InvertedMotion(hf.AbstractLinearPropagator):
    """x'' = w^2 x with w = k / sqrt(m): x_t = cosh(wt) x_0 + sinh(wt)/(m w) p_0."""

    rate: float
    mass: float

    def blocks(self, t0, t, shape):
        m = jnp.asarray(self.mass, t.dtype)
        w = jnp.asarray(self.rate, t.dtype) / jnp.sqrt(m)
        c, s = jnp.cosh(w * (t - t0)), jnp.sinh(w * (t - t0))
        return c, s / (m * w), m * w * s, c


class InvertedOscillator(hf.AbstractPotential, hf.AbstractSolvable):
    """U = -k^2 |x|^2 / 2, one mass for all coordinates."""

    rate: float

    def energy(self, t, position):
        return -0.5 * jnp.sum((jnp.asarray(self.rate, position.dtype) * position) ** 2)

    def propagator(self, kinetic, domain):
        if not (isinstance(kinetic, hf.GaussianKinetic) and jnp.shape(kinetic.mass) == ()):
            return None
        return InvertedMotion(self.rate, kinetic.mass) if isinstance(domain, hf.Euclidean) else None


class Fall(hf.AbstractPropagator):
    """p_t = p_0 + g t, x_t = x_0 + t p_0/m + t^2 g/(2m): not linear, there is a shift."""

    acceleration: object
    kinetic: hf.GaussianKinetic

    def __call__(self, t0, t, state):
        h = t - t0
        g = self.acceleration.astype(state.position.dtype)
        middle = state.momentum + 0.5 * h * g
        return hf.PhaseState(state.position + h * self.kinetic.velocity(middle), state.momentum + h * g)


class Gravity(hf.AbstractPotential, hf.AbstractSolvable):
    """U = -g . x."""

    acceleration: object

    def energy(self, t, position):
        return -jnp.sum(self.acceleration.astype(position.dtype) * position)

    def propagator(self, kinetic, domain):
        fits = isinstance(kinetic, hf.GaussianKinetic) and isinstance(domain, hf.Euclidean)
        return Fall(self.acceleration, kinetic) if fits else None


class Swing(hf.AbstractPropagator):
    """p' = s sin t: only here does it matter when the clock starts."""

    strength: float
    kinetic: hf.GaussianKinetic

    def __call__(self, t0, t, state):
        s = jnp.asarray(self.strength, state.position.dtype)
        drift = state.momentum + s * jnp.cos(t0)
        impulse = drift * (t - t0) - s * (jnp.sin(t) - jnp.sin(t0))
        return hf.PhaseState(state.position + self.kinetic.velocity(impulse), drift - s * jnp.cos(t))


class Driven(hf.AbstractPotential, hf.AbstractSolvable):
    """U = -s sin(t) sum(x)."""

    strength: float

    def energy(self, t, position):
        return -jnp.asarray(self.strength, position.dtype) * jnp.sin(t) * jnp.sum(position)

    def propagator(self, kinetic, domain):
        fits = isinstance(kinetic, hf.GaussianKinetic) and isinstance(domain, hf.Euclidean)
        return Swing(self.strength, kinetic) if fits else None


class Ripple(hf.AbstractPotential):
    """U = sum cos(k (x - lower)): no force at x = lower and half a wavelength on, and none that jumps."""

    wave_number: object
    lower: float

    def energy(self, t, position):
        return jnp.sum(
            jnp.cos(self.wave_number.astype(position.dtype) * (position - jnp.asarray(self.lower, position.dtype)))
        )
