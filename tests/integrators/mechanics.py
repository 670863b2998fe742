"""Systems with a smooth force, and reference motions that do not come from hamflow."""

import jax.numpy as jnp
import numpy as np
import scipy.integrate

import hamflow as hf


class Pendulum(hf.AbstractPotential):
    """U = -cos q."""

    def energy(self, t, position):
        return -jnp.sum(jnp.cos(position))


class HenonHeiles(hf.AbstractPotential):
    """U = (x^2 + y^2) / 2 + c (x^2 y - y^3 / 3)."""

    coupling: object = 1.0

    def energy(self, t, position):
        x, y = position[0], position[1]
        c = jnp.asarray(self.coupling, position.dtype)
        return 0.5 * (x * x + y * y) + c * (x * x * y - y**3 / 3.0)


class Kepler(hf.AbstractPotential):
    """U = -1 / |x|."""

    def energy(self, t, position):
        return -1.0 / jnp.sqrt(jnp.sum(position**2))


class Sway(hf.AbstractPotential):
    """U = cos(t) x^2 / 2 + x^4 / 4: the clock matters, and has a rate of its own."""

    rate: object = 1.3

    def energy(self, t, position):
        swing = jnp.cos(jnp.asarray(self.rate, position.dtype) * t)
        return 0.5 * swing * jnp.sum(position**2) + 0.25 * jnp.sum(position**4)


def unit(potential, domain=None):
    return hf.Hamiltonian(potential, hf.GaussianKinetic(), hf.Euclidean() if domain is None else domain)


def start(position, momentum):
    return hf.PhaseState(jnp.array(position, float), jnp.array(momentum, float))


def reference(force, position, momentum, t1, t0=0.0):
    """scipy's eighth-order Runge-Kutta method at its tightest: (position, momentum) at t1."""
    x, p = np.asarray(position, float), np.asarray(momentum, float)

    def field(t, z):
        return np.concatenate([z[len(x) :], force(t, z[: len(x)])])

    solution = scipy.integrate.solve_ivp(field, (t0, t1), np.concatenate([x, p]), "DOP853", rtol=1e-13, atol=1e-14)
    return solution.y[: len(x), -1], solution.y[len(x) :, -1]


FORCES = {  # by hand
    "pendulum": lambda t, q: -np.sin(q),
    "Henon-Heiles": lambda t, q: np.array([-q[0] - 2 * q[0] * q[1], -q[1] - q[0] ** 2 + q[1] ** 2]),
    "sway": lambda t, q: -np.cos(1.3 * t) * q - q**3,
}
PROBLEMS = {
    "pendulum": (lambda: unit(Pendulum()), ([np.pi / 2], [0.0])),
    "Henon-Heiles": (lambda: unit(HenonHeiles()), ([0.1, 0.25], [0.3, -0.2])),
    "sway": (lambda: unit(Sway()), ([0.7], [0.4])),
}
METHODS = {
    "SymplecticEuler": hf.SymplecticEuler,
    "Leapfrog": hf.Leapfrog,
    "McLachlan2": hf.McLachlan2,
    "Yoshida4": hf.Yoshida4,
    "Suzuki4": hf.Suzuki4,
    "BlanesMoan4": hf.BlanesMoan4,
    "Yoshida6": hf.Yoshida6,
    "Yoshida8": hf.Yoshida8,
    "ImplicitMidpoint": hf.ImplicitMidpoint,
}
ORDERS = {"SymplecticEuler": 1, "Leapfrog": 2, "McLachlan2": 2, "ImplicitMidpoint": 2, "Yoshida6": 6, "Yoshida8": 8}
ORDERS |= dict.fromkeys(("Yoshida4", "Suzuki4", "BlanesMoan4"), 4)
