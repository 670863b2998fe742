"""Exact laws and velocities that hamflow does not have: mixtures of Gaussians on the line, in a box and on a torus.

For data from a mixture well inside the domain and independent momenta of unit deviation, the law at t is a sum over
mirror images (the heat kernel with reflecting walls), on a torus over copies; and V = -t grad log q_t (THEORY 4).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

import hamflow as hf


class ImageVelocity(eqx.Module):
    """-t grad log q_t in a box or a torus lower..upper: each coordinate of a component is summed over its images."""

    means: jnp.ndarray  # (k, *event)
    stds: jnp.ndarray
    log_weights: jnp.ndarray
    lower: float = eqx.field(static=True)
    upper: float = eqx.field(static=True)
    walls: bool = eqx.field(static=True)
    images: int = eqx.field(static=True)

    def log_density(self, t, x):
        """log q_t(x), exact up to images further than 6 standard deviations."""
        length = self.upper - self.lower
        shift = jnp.arange(-self.images, self.images + 1, dtype=x.dtype) * (2 * length if self.walls else length)
        shift = shift.reshape((-1,) + (1,) * (x.ndim + 1))
        centres = self.means.astype(x.dtype)[None] + shift
        if self.walls:
            mirrored = 2 * self.lower - self.means.astype(x.dtype)[None] + shift
            centres = jnp.concatenate([centres, mirrored])
        variance = self.stds.astype(x.dtype) ** 2 + t**2
        exponent = -0.5 * (x[None, None] - centres) ** 2 / variance[None]
        coordinates = jax.nn.logsumexp(exponent, axis=0) - 0.5 * jnp.log(variance)
        components = jnp.sum(coordinates, axis=tuple(range(1, coordinates.ndim)))
        return jax.nn.logsumexp(self.log_weights.astype(x.dtype) + components)

    def __call__(self, t, x, condition=None, key=None):
        return -t * jax.grad(lambda x: self.log_density(t, x))(x)


def reflection_velocity(mixture, lower=-1.0, upper=1.0, images=5) -> ImageVelocity:
    return _images(mixture, lower, upper, True, images)


def torus_velocity(mixture, lower=-1.0, upper=1.0, images=10) -> ImageVelocity:
    return _images(mixture, lower, upper, False, images)


def torus_flow(lower=-1.0, upper=1.0, horizon=3.0) -> hf.Flow:
    """Free motion on a circle a coordinate: about uniform at the horizon, as in a box."""
    system = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(), hf.Torus(lower, upper))
    return hf.Flow(system, hf.IndependentCoupling(), horizon, hf.UniformPrior(lower, upper))


def _images(mixture, lower, upper, walls, images):
    stds = mixture.stds_of(mixture.means.dtype)
    return ImageVelocity(mixture.means, stds, jnp.log(mixture.weights), lower, upper, walls, images)


class WhitenedVelocity(eqx.Module):
    """E[v | x] under x_t = cos t x_0 + sin t v_0, v_0 ~ N(0, C), for a mixture of Gaussians and a matrix C.

    Component k has x_t ~ N(cos t m, S), S = cos^2 t D + sin^2 t C, D = diag(stds^2); Cov(v, x) = sin t cos t (C - D).
    """

    means: jnp.ndarray  # (k, d)
    stds: jnp.ndarray
    log_weights: jnp.ndarray
    covariance: jnp.ndarray

    def __call__(self, t, x, condition=None, key=None):
        cos, sin = jnp.cos(t), jnp.sin(t)

        def component(mean, std):
            data = jnp.diag(std**2)
            spread = cos**2 * data + sin**2 * self.covariance
            offset = x - cos * mean
            solved = jnp.linalg.solve(spread, offset)
            log_density = -0.5 * (offset @ solved + jnp.linalg.slogdet(spread)[1])
            return log_density, -sin * mean + sin * cos * (self.covariance - data) @ solved

        log_densities, velocities = jax.vmap(component)(self.means, self.stds)
        return jax.nn.softmax(self.log_weights + log_densities) @ velocities


def whitened_velocity(mixture, covariance) -> WhitenedVelocity:
    stds = mixture.stds_of(mixture.means.dtype)
    return WhitenedVelocity(mixture.means, stds, jnp.log(mixture.weights), covariance)


def mixture_cdf(x, means, stds, weights):
    """P(X <= x) of a mixture of Gaussians on the line, in numpy."""
    return np.sum(weights * special.ndtr((np.asarray(x)[..., None] - means) / stds), axis=-1)


def mixture_quantile(p, means, stds, weights):
    """The inverse of `mixture_cdf`, to rounding, at each of the numbers `p`."""
    low, high = np.min(means - 40 * stds), np.max(means + 40 * stds)
    solve = [optimize.brentq(lambda x, p=p: mixture_cdf(x, means, stds, weights) - p, low, high, xtol=1e-13) for p in p]
    return np.array(solve)


class HeavyTailedVelocity(eqx.Module):
    """E[v | x] under x_t = x_0 + t z, z Student-t with nu degrees of freedom, for a mixture of Gaussians.

    z = n sqrt(s) with s = nu / chi2_nu, so given s all is Gaussian: of component k, x_t ~ N(m, d^2 + t^2 s) and
    E[v | x_t] = t s / (d^2 + t^2 s) (x - m). The mean over s is the trapezoidal rule in y = log(chi2_nu / 2), of
    density exp(nu y / 2 - e^y) / Gamma(nu / 2), all of it analytic; from y = -32 it holds far tails too.
    """

    means: jnp.ndarray  # (k, *event)
    stds: jnp.ndarray
    log_weights: jnp.ndarray
    squares: jnp.ndarray  # s at the nodes
    log_nodes: jnp.ndarray

    def parts(self, t, x):
        """The log density of each pair (s, k), with its weight, and its velocity."""

        def pair(s, mean, std):
            variance, offset = std**2 + t**2 * s, x - mean
            log_density = -0.5 * jnp.sum(offset**2 / variance + jnp.log(2.0 * jnp.pi * variance))
            return log_density, t * s / variance * offset

        over_components = jax.vmap(pair, (None, 0, 0))
        squares, means, stds = (value.astype(x.dtype) for value in (self.squares, self.means, self.stds))
        log_densities, velocities = jax.vmap(over_components, (0, None, None))(squares, means, stds)
        log_weights = (self.log_nodes[:, None] + self.log_weights[None, :]).astype(x.dtype)
        return log_densities + log_weights, velocities

    def log_density(self, t, x):
        return jax.nn.logsumexp(self.parts(t, x)[0])

    def __call__(self, t, x, condition=None, key=None):
        log_densities, velocities = self.parts(t, x)
        return jnp.tensordot(jax.nn.softmax(log_densities, axis=(0, 1)), velocities, axes=2)


def heavy_tailed_velocity(mixture, degrees_of_freedom, step=0.3) -> HeavyTailedVelocity:
    half = degrees_of_freedom / 2.0
    y = np.arange(-32.0, np.log(half + 8.0 * np.sqrt(half) + 40.0), step)
    log_nodes = half * y - np.exp(y) - special.gammaln(half) + np.log(step)
    stds, squares = mixture.stds_of(mixture.means.dtype), half / np.exp(y)
    return HeavyTailedVelocity(
        mixture.means, stds, jnp.log(mixture.weights), jnp.asarray(squares, float), jnp.asarray(log_nodes, float)
    )
