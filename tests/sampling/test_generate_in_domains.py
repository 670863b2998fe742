"""generate in a box and on a torus: the solver follows the extension of the predictor, and samples lie inside."""

import itertools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix
import pytest

import hamflow as hf

KEY = jr.key(0)
LOWER, UPPER = np.array([-1.0, 0.0]), np.array([2.0, 1.0])
DOMAINS = {"box": hf.Box, "torus": hf.Torus}


def flow_in(domain, prior=None):
    """Free motion with another side length a coordinate."""
    lower, upper = jnp.asarray(LOWER, float), jnp.asarray(UPPER, float)
    system = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(), DOMAINS[domain](lower, upper))
    return hf.Flow(system, hf.IndependentCoupling(), 2.0, prior or hf.UniformPrior(lower, upper))


def rushing(t, x, condition=None, key=None):
    """Crosses the domain many times in a step, differently in each coordinate."""
    return jnp.array([40.0, -25.0], x.dtype) * (1 + jnp.sin(5 * x))


@pytest.mark.parametrize("solver", [None, diffrax.Euler(), diffrax.Dopri5()])
@pytest.mark.parametrize("domain", DOMAINS)
def test_samples_lie_inside_whatever_the_velocity(domain, solver):
    x = np.asarray(hf.generate(rushing, flow_in(domain), KEY, (200, 2), 5, solver))
    assert np.all((x >= LOWER) & (x <= UPPER))


def smooth(domain, t, x, np):
    """A field whose extension to all of space is its own formula: odd about each wall, or periodic."""
    angle = np.pi * (x - LOWER) / (UPPER - LOWER)
    waves = np.sin(angle) if domain == "box" else 1 + 0.2 * np.cos(2 * angle)
    return 9.0 * (1 + t) * waves


def fold(domain, x):
    length = UPPER - LOWER
    if domain == "torus":
        return LOWER + np.mod(x - LOWER, length)
    u = np.mod(x - LOWER, 2 * length)
    return LOWER + np.minimum(u, 2 * length - u)


@pytest.mark.parametrize("solver", [None, diffrax.Heun()])
@pytest.mark.parametrize("domain", DOMAINS)
def test_steps_follow_the_extension_and_fold_at_the_end(domain, solver, x64):
    """Coarse steps overshoot the walls many times; the same steps in all of space, folded once, must agree."""
    flow, n = flow_in(domain), 50
    x = np.stack([np.asarray(flow.prior.sample(jr.fold_in(KEY, i), (2,)), np.float64) for i in range(n)])
    times = np.asarray(hf.rho_grid(flow, 6))
    for t, t_next in itertools.pairwise(times):
        slope = smooth(domain, t, x, np)
        if solver is not None or t_next > 0:
            slope = (slope + smooth(domain, t_next, x + (t_next - t) * slope, np)) / 2
        x = x + (t_next - t) * slope
    assert np.mean((x < LOWER) | (x > UPPER)) > 0.2  # it did leave
    found = hf.generate(lambda t, x, condition, key: smooth(domain, t, x, jnp), flow, KEY, (n, 2), 6, solver)
    gap = np.abs(np.asarray(found) - fold(domain, x))
    if domain == "torus":
        gap = np.minimum(gap, UPPER - LOWER - gap)
    np.testing.assert_allclose(gap, 0, atol=1e-9)


@pytest.mark.parametrize(("solver", "error"), [(diffrax.Kvaerno5, 1e-5), (diffrax.ImplicitEuler, 0.2)])
@pytest.mark.parametrize("domain", DOMAINS)
def test_implicit_solvers_with_a_field_that_vanishes_at_the_walls(domain, solver, error, x64):
    """As every exact velocity's normal component does; the reference is Dopri5 with twenty times as many steps."""
    flow = flow_in(domain)

    def predictor(t, x, condition, key):
        return smooth(domain, t, x, jnp) / 9.0

    def draw(solver, n):
        return hf.generate(predictor, flow, KEY, (20, 2), solver=solver, times=np.linspace(2.0, 0.0, n + 1))

    newton = optimistix.Newton(rtol=1e-8, atol=1e-8)
    gap = np.abs(np.asarray(draw(solver(root_finder=newton), 40) - draw(diffrax.Dopri5(), 800)))
    if domain == "torus":
        gap = np.minimum(gap, UPPER - LOWER - gap)
    assert gap.max() < error


class GivenStart(eqx.Module):
    """A prior that always draws the same point, in a dtype of its own."""

    position: jnp.ndarray

    def sample(self, key, shape):
        return self.position

    def log_prob(self, position):
        return jnp.zeros(())


def still(t, x, condition=None, key=None):
    return jnp.zeros_like(x)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("corner", [LOWER, UPPER, np.array([LOWER[0], UPPER[1]])])
def test_the_walls_themselves_are_inside(domain, corner):
    # A copy: jax 0.10.0 remembers LOWER itself, a constant of a test in double precision, as a buffer of doubles.
    x = np.asarray(hf.generate(still, flow_in(domain, GivenStart(jnp.asarray(corner.copy()))), KEY, (2, 2), 3))
    assert np.all((x >= LOWER) & (x <= UPPER))
    stays = corner if domain == "box" else LOWER  # the ends of a torus are one point
    np.testing.assert_array_equal(x, np.stack([stays, stays]))


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("outside", [[2.1, 0.5], [0.0, -0.1], [float("nan"), 0.5]])
def test_a_prior_outside_the_domain_is_an_error(domain, outside):
    flow = flow_in(domain, GivenStart(jnp.asarray(outside)))
    with pytest.raises(RuntimeError, match=f"outside the {domain.title()}"):
        jax.block_until_ready(hf.generate(still, flow, KEY, (2, 2), 3))
