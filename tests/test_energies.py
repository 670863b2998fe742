"""Energies in which position and momentum mix: forces by hand, laws by quadrature, and the one integrator."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from jax.flatten_util import ravel_pytree
from own_systems import Driven
from systems import array, spd

import hamflow as hf


class Bowl(eqx.Module):
    """A metric with a parameter: (1 + strength |x|^2) times a matrix that turns with x."""

    strength: jax.Array

    def __call__(self, x):
        tilt = jnp.tanh(x[0]) * array([0.0, 0.5], [0.5, 0.0]).astype(x.dtype)
        return (1.0 + self.strength.astype(x.dtype) * jnp.sum(x**2)) * (spd().astype(x.dtype) + tilt)


def bowl_by_hand(x, strength=0.4):
    return (1 + strength * (x @ x)) * (
        np.array([[2.0, 0.6], [0.6, 0.9]]) + np.tanh(x[0]) * np.array([[0, 0.5], [0.5, 0]])
    )


def well():
    return hf.HarmonicPotential(array(0.8, 1.4))


# Energy, position, its covariance G of p | x by hand, its mean of p | x by hand.
CASES = {
    "plane": (
        lambda: hf.MagneticEnergy(well(), 1.7, mass=1.3, charge=-0.6),
        [0.4, -0.9],
        1.3 * np.eye(2),
        -0.6 * 1.7 / 2 * np.array([0.9, 0.4]),
    ),
    "space": (
        lambda: hf.MagneticEnergy(hf.HarmonicPotential(0.9), array(0.5, -1.1, 0.8), mass=array(0.7)[0]),
        [0.4, -0.9, 0.3],
        0.7 * np.eye(3),
        0.5 * np.cross([0.5, -1.1, 0.8], [0.4, -0.9, 0.3]),
    ),
    "bowl": (
        lambda: hf.RiemannianEnergy(well(), Bowl(array(0.4)[0])),
        [0.4, -0.9],
        bowl_by_hand(np.array([0.4, -0.9])),
        np.zeros(2),
    ),
    "diagonal metric": (
        lambda: hf.RiemannianEnergy(well(), lambda x: 0.5 + x**2),
        [0.4, -0.9],
        np.diag([0.66, 1.31]),
        np.zeros(2),
    ),
    "conformal metric": (
        lambda: hf.RiemannianEnergy(well(), lambda x: 0.5 + jnp.sum(x**2)),
        [0.4, -0.9],
        1.47 * np.eye(2),
        np.zeros(2),
    ),
}
EVERY = pytest.mark.parametrize("name", CASES)


def built(name):
    energy, position, *_ = CASES[name]
    position = array(*position)
    return energy(), position, jnp.linspace(-0.7, 0.9, position.size)


# -- the formula -----------------------------------------------------------------------------------------------------


@EVERY
def test_energy_by_hand(name, x64):
    """U + (p - mean)^T G^-1 (p - mean) / 2 + log det G / 2; a constant mass needs no determinant."""
    energy, x, p = built(name)
    _, _, covariance, mean = CASES[name]
    offset = np.asarray(p) - mean
    expected = float(energy.potential.energy(0.0, x)) + 0.5 * offset @ np.linalg.solve(covariance, offset)
    if "metric" in name or name == "bowl":
        expected += 0.5 * np.log(np.linalg.det(covariance))
    assert float(energy(0.0, x, p)) == pytest.approx(expected, rel=1e-13)


@EVERY
def test_velocity_is_the_gradient_and_momentum_its_inverse(name, x64):
    energy, x, p = built(name)
    velocity = energy.velocity(x, p)
    np.testing.assert_allclose(velocity, jax.grad(energy, argnums=2)(0.0, x, p), rtol=1e-12)
    np.testing.assert_allclose(energy.momentum(x, velocity), p, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        hf.NonSeparableHamiltonian(energy).velocity(0.0, hf.PhaseState(x, p)), velocity, rtol=1e-12
    )


@EVERY
def test_everything_keeps_single_precision(name):
    energy, x, p = (jax.tree.map(lambda leaf: leaf, part) for part in built(name))
    assert energy(0.0, x, p).dtype == jnp.float32
    for vector in (energy.sample(jr.key(0), x), energy.velocity(x, p), energy.momentum(x, p)):
        assert vector.dtype == jnp.float32
        assert vector.shape == x.shape


@pytest.mark.parametrize("name", ["plane", "space"])
def test_a_charge_feels_the_lorentz_force(name, x64):
    """m x'' = q x' x B - grad U: the acceleration along Hamilton's equations, without an integrator."""
    energy, x, p = built(name)
    system, state = hf.NonSeparableHamiltonian(energy), hf.PhaseState(x, p)
    field = system.vector_field(0.0, state)
    acceleration = jax.jvp(energy.velocity, (x, p), (field.position, field.momentum))[1]
    v, q, m = np.zeros(3), float(energy.charge), float(energy.mass)
    v[: x.size] = field.position
    b = [0.0, 0.0, 1.7] if name == "plane" else [0.5, -1.1, 0.8]
    expected = q * np.cross(v, b)[: x.size] - np.asarray(jax.grad(energy.potential.energy, 1)(0.0, x))
    np.testing.assert_allclose(m * np.asarray(acceleration), expected, rtol=1e-12, atol=1e-13)


def test_a_free_charge_circles(x64):
    """Frequency q B / m, radius m v / (q B), clockwise for a positive q B: x = x_0 + v_0 (1 - exp(-i w t)) / (i w)."""
    m, q, b, t = 2.0, 1.5, 0.8, 3.0
    energy = hf.MagneticEnergy(hf.ZeroPotential(), b, m, q)
    x, v, w = array(0.3, -0.2), array(0.7, 0.4), q * b / m
    x0, v0 = complex(*np.asarray(x)), complex(*np.asarray(v))
    path = hf.integrate(
        hf.NonSeparableHamiltonian(energy), hf.PhaseState(x, energy.momentum(x, v)), 0.0, t, 3000,
        hf.ImplicitMidpoint(), save_every=300,
    )  # fmt: skip
    positions = np.asarray(path.states.position) @ [1.0, 1.0j]
    expected = x0 + v0 * (1 - np.exp(-1j * w * np.asarray(path.times))) / (1j * w)
    np.testing.assert_allclose(positions, expected, atol=2e-7)  # (w h)^2 / 12 of an angle of 1.8, times 1.3
    centre = x0 + v0 / (1j * w)
    np.testing.assert_allclose(np.abs(positions - centre), m * abs(v0) / (q * b), rtol=1e-9)


def test_a_field_along_the_axis_is_the_field_of_the_plane(x64):
    plane, space = (
        hf.MagneticEnergy(well(), 1.7, 1.3),
        hf.MagneticEnergy(hf.HarmonicPotential(array(0.8, 1.4, 0.0)), array(0.0, 0.0, 1.7), 1.3),
    )
    x, p = array(0.4, -0.9), array(0.3, 0.8)
    flat = float(space(0.0, jnp.append(x, 2.5), jnp.append(p, 0.0)))
    assert float(plane(0.0, x, p)) == pytest.approx(flat, rel=1e-14)


def test_a_constant_metric_is_a_mass(x64):
    x, p = array(0.4, -0.9), array(0.3, 0.8)
    energy = hf.RiemannianEnergy(well(), lambda x: spd())
    plain = hf.Hamiltonian(well(), hf.GaussianKinetic(spd()))
    extra = 0.5 * np.log(np.linalg.det(spd()))
    assert float(energy(0.0, x, p) - plain.energy(0.0, hf.PhaseState(x, p))) == pytest.approx(extra, rel=1e-12)


def test_potentials_see_the_clock(x64):
    x, p = array(0.4, -0.9), array(0.3, 0.8)
    for energy in (hf.MagneticEnergy(Driven(0.7), 0.5), hf.RiemannianEnergy(Driven(0.7), lambda x: 1.0 + x**2)):
        change = float(energy(0.9, x, p) - energy(0.0, x, p))
        assert change == pytest.approx(-0.7 * np.sin(0.9) * (0.4 - 0.9), rel=1e-12)


# -- the law of the momentum -----------------------------------------------------------------------------------------


def test_the_x_marginal_is_that_of_the_potential(x64):
    """The integral of exp(-H) over p is sqrt(2 pi) exp(-U) at every x, in one dimension by quadrature."""
    energy = hf.RiemannianEnergy(hf.HarmonicPotential(0.9), lambda x: jnp.exp(jnp.sin(3.0 * x)) + 0.2)
    value = jax.jit(lambda x, p: energy(0.0, x[None], p[None]))
    for x in (-1.3, 0.0, 0.4, 2.0):
        total, _ = scipy.integrate.quad(lambda p, x=x: np.exp(-float(value(*array(x, p)))), -30.0, 30.0, points=[0.0])
        assert total == pytest.approx(np.sqrt(2 * np.pi) * np.exp(-0.5 * (0.9 * x) ** 2), rel=1e-9)


@pytest.mark.parametrize(("name", "mass"), [("plane", 1.3), ("bowl", 1.0)])
def test_the_x_marginal_in_two_dimensions(name, mass, x64):
    """2 pi m exp(-U): the trapezoidal rule is exact to rounding for a function that is smooth and gone at the ends."""
    energy, _, _ = built(name)
    side = jnp.linspace(-25.0, 25.0, 401)
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    step = float(side[1] - side[0])
    integral = jax.jit(lambda x: jnp.sum(jnp.exp(-jax.vmap(lambda p: energy(0.0, x, p))(grid))) * step**2)
    for x in (array(0.0, 0.0), array(0.4, -0.9), array(-1.2, 0.7)):
        expected = 2 * np.pi * mass * np.exp(-float(energy.potential.energy(0.0, x)))
        assert float(integral(x)) == pytest.approx(expected, rel=1e-10)


@EVERY
def test_samples_have_the_conditional_law(name):
    """Whitened by hand, every coordinate is normal and no pair is correlated: 1e-4 of false alarm, the key is fixed."""
    energy, x, _ = built(name)
    _, _, covariance, mean = CASES[name]
    draws = np.asarray(jax.vmap(lambda k: energy.sample(k, x))(jr.split(jr.key(1), 8000)), float)
    z = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    p_values = [scipy.stats.kstest(row, "norm").pvalue for row in z]
    correlations = (z @ z.T / z.shape[1])[np.triu_indices(len(z), 1)]
    p_values += list(2 * scipy.stats.norm.sf(np.abs(correlations) * z.shape[1] ** 0.5))
    assert min(p_values) > 1e-4 / len(p_values)


# -- followed by the implicit midpoint -------------------------------------------------------------------------------

FOLLOWED = pytest.mark.parametrize("name", ["plane", "space", "bowl", "diagonal metric"])


@functools.cache
def followed(name):
    """The Jacobian of three steps, the energies of many, and there and back: in double precision."""
    with jax.enable_x64(True):
        energy, x, p = built(name)
        system, start = hf.NonSeparableHamiltonian(energy), hf.PhaseState(x, p)
        flat, unravel = ravel_pytree(start)

        def three(z):
            return ravel_pytree(hf.integrate(system, unravel(z), 0.0, 0.6, 3, hf.ImplicitMidpoint()))[0]

        end = hf.integrate(system, start, 0.0, 2.0, 20, hf.ImplicitMidpoint())
        back = hf.integrate(system, end, 2.0, 0.0, 20, hf.ImplicitMidpoint())
        path = hf.integrate(
            system, start, 0.0, 80.0, 1600, hf.ImplicitMidpoint(), save_every=4, observables=system.energy,
            save_states=False,
        )  # fmt: skip
        return jax.tree.map(np.asarray, (jax.jacfwd(three)(flat), start, end, back, path.observables))


@FOLLOWED
def test_steps_are_symplectic(name):
    jacobian, *_ = followed(name)
    half = len(jacobian) // 2
    omega = np.kron([[0.0, 1.0], [-1.0, 0.0]], np.eye(half))
    assert np.max(np.abs(jacobian.T @ omega @ jacobian - omega)) < 1e-10
    assert np.max(np.abs(jacobian - np.eye(2 * half))) > 0.1  # else nothing was tested


@FOLLOWED
def test_there_and_back(name):
    _, start, end, back, _ = followed(name)
    np.testing.assert_allclose(back.position, start.position, atol=1e-10)
    np.testing.assert_allclose(back.momentum, start.momentum, atol=1e-10)
    assert np.max(np.abs(end.position - start.position)) > 0.1


@FOLLOWED
def test_energy_does_not_drift(name):
    """It swings with h^2 = .0025 and comes back, late as early; where H is quadratic, it is kept to rounding."""
    *_, energies = followed(name)
    swing = np.abs(energies - energies[0])
    assert np.max(swing) < (1e-11 if name in ("plane", "space") else 0.02)
    assert np.max(swing[200:]) < 1.5 * np.max(swing[:200]) + 1e-11


# -- as flows --------------------------------------------------------------------------------------------------------


def test_gibbs_is_independent_where_the_energy_is_separable():
    data = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), float)
    system = hf.Hamiltonian(well(), hf.GaussianKinetic(spd()))
    draws = [
        coupling.sample(jr.key(0), data, system, hf.NormalPrior(), 1.0).momentum
        for coupling in (hf.GibbsCoupling(), hf.IndependentCoupling())
    ]
    np.testing.assert_array_equal(*draws)
    flow = hf.Flow(hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic()), hf.GibbsCoupling(), 2.0, hf.NormalPrior())
    assert flow.is_linear
    assert float(flow.coefficients(0.7)[1]) == pytest.approx(0.7)


def test_gibbs_draws_each_momentum_at_its_datum():
    energy, _, _ = built("plane")
    system = hf.NonSeparableHamiltonian(energy)
    data = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), float)
    start = hf.GibbsCoupling().sample(jr.key(3), data, system, hf.NormalPrior(), 1.0)
    np.testing.assert_array_equal(start.position, data)
    noise = jax.vmap(lambda k: jr.normal(k, (2,)))(jr.split(jr.key(3), 6))
    expected = np.sqrt(1.3) * noise - 0.51 * np.stack([-data[:, 1], data[:, 0]], 1)
    np.testing.assert_allclose(start.momentum, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["plane", "bowl"])
def test_a_flow_in_equilibrium_stays_there(name):
    """Data from exp(-U) with Gibbs' momenta: exp(-H) is kept, so positions at any time follow exp(-U).

    1e-4 of false alarm in all, the key is fixed; with momenta of another law the same test fails for the bowl.
    """
    energy, _, _ = built(name)
    scale = 1.0 / np.array([0.8, 1.4])
    system, prior = hf.NonSeparableHamiltonian(energy), hf.NormalPrior(0.0, array(*scale))
    flow = hf.Flow(system, hf.GibbsCoupling(), 2.0, prior, hf.ImplicitMidpoint(step_size=0.1))
    data = jnp.asarray(scale * np.random.default_rng(2).normal(size=(4000, 2)), float)
    moved = eqx.filter_jit(flow.sample_state)(jr.key(5), data, jnp.full(4000, 1.3)).position
    assert np.max(np.abs(moved - data)) > 0.5
    p_values = [scipy.stats.kstest(np.asarray(moved[:, i]) / scale[i], "norm").pvalue for i in range(2)]
    assert min(p_values) > 1e-4 / 2
    if name == "bowl":
        cold = hf.PhaseState(data, 0.5 * jr.normal(jr.key(5), data.shape))
        moved = eqx.filter_jit(jax.vmap(lambda state: flow.evolve(state, 1.3)))(cold).position
        assert min(scipy.stats.kstest(np.asarray(moved[:, i]) / scale[i], "norm").pvalue for i in range(2)) < 1e-4


def test_an_energy_of_ones_own():
    class Relative(hf.AbstractEnergy):
        drift: float

        def __call__(self, t, position, momentum):
            return 0.5 * jnp.sum((momentum - self.drift * position) ** 2)

        def sample(self, key, position):
            return self.drift * position + jr.normal(key, position.shape, position.dtype)

    system = hf.NonSeparableHamiltonian(Relative(0.5))
    hf.GibbsCoupling().require_system(system)
    state = hf.GibbsCoupling().sample(jr.key(0), jnp.ones((3, 2)), system, hf.NormalPrior(), 1.0)
    noise = jax.vmap(lambda k: jr.normal(k, (2,)))(jr.split(jr.key(0), 3))
    np.testing.assert_allclose(state.momentum, 0.5 + noise, rtol=1e-6)


def test_gradients_reach_every_parameter(x64):
    x, p = array(0.4, -0.9, 0.3), array(0.3, 0.8, -0.5)

    def magnetic(field, mass, charge):
        return hf.MagneticEnergy(hf.HarmonicPotential(0.9), field, mass, charge)(0.0, x, p)

    gradients = jax.grad(magnetic, argnums=(0, 1, 2))(array(0.5, -1.1, 0.8), *array(0.7, 1.2))
    assert all(np.all(np.abs(g) > 1e-3) for g in gradients)
    bowl = eqx.filter_grad(lambda energy: energy(0.0, x[:2], p[:2]))(hf.RiemannianEnergy(well(), Bowl(array(0.4)[0])))
    step = 1e-6
    ends = [float(hf.RiemannianEnergy(well(), Bowl(array(0.4 + s)[0]))(0.0, x[:2], p[:2])) for s in (step, -step)]
    assert float(bowl.metric.strength) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-7)


def test_a_flow_can_be_kept(tmp_path):
    energy, *_ = built("plane")
    flow = hf.Flow(
        hf.NonSeparableHamiltonian(energy),
        hf.GibbsCoupling(),
        1.0,
        hf.NormalPrior(),
        hf.ImplicitMidpoint(step_size=0.5),
    )
    hf.save(tmp_path / "flow.hf", flow)
    kept = hf.load(tmp_path / "flow.hf")
    assert eqx.tree_equal(kept, flow)


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    zero, one = hf.ZeroPotential(), jnp.ones(2)
    with pytest.raises(ValueError, match=r"field must be a number .* or an array of shape \(3,\)"):
        hf.MagneticEnergy(zero, jnp.ones(2))
    with pytest.raises(ValueError, match="mass must be positive"):
        hf.MagneticEnergy(zero, 1.0, mass=0.0)
    with pytest.raises(ValueError, match="acts on positions of shape"):
        hf.MagneticEnergy(zero, 1.0)(0.0, jnp.ones(3), jnp.ones(3))
    with pytest.raises(ValueError, match="acts on positions of shape"):
        hf.MagneticEnergy(zero, jnp.ones(3))(0.0, one, one)
    with pytest.raises(TypeError, match="potential"):
        hf.MagneticEnergy(lambda t, x: 0.0, 1.0)
    with pytest.raises(ValueError, match="metric has shape"):
        hf.RiemannianEnergy(zero, lambda x: jnp.ones(3))(0.0, one, one)
    with pytest.raises(TypeError, match="metric"):
        hf.RiemannianEnergy(zero, jnp.eye(2))
    with pytest.raises(TypeError, match="ImplicitMidpoint"):
        hf.integrate(
            hf.NonSeparableHamiltonian(hf.MagneticEnergy(zero, 1.0)),
            hf.PhaseState(one, one),
            0.0,
            1.0,
            2,
            hf.Leapfrog(),
        )


@pytest.mark.parametrize("metric", [lambda x: x, lambda x: x[0], lambda x: jnp.diag(x)])
def test_a_metric_that_is_not_positive_is_reported(metric):
    """NaN where it is not, which no integrator lets pass."""
    energy = hf.RiemannianEnergy(hf.ZeroPotential(), metric)
    x, p = array(-0.5, 1.0), array(1.0, 1.0)
    assert np.isnan(energy(0.0, x, p))
    assert np.any(np.isnan(energy.sample(jr.key(0), x)))
    with pytest.raises(RuntimeError, match=r"non-finite|did not solve"):
        hf.integrate(hf.NonSeparableHamiltonian(energy), hf.PhaseState(x, p), 0.0, 1.0, 2, hf.ImplicitMidpoint())


def test_gibbs_needs_an_energy_that_can_be_drawn_from():
    bare = hf.NonSeparableHamiltonian(lambda t, x, p: jnp.sum(x * p))
    with pytest.raises(ValueError, match=r"of a bare function: make its energy a hamflow\.AbstractEnergy"):
        hf.GibbsCoupling().require_system(bare)
    with pytest.raises(ValueError, match="AbstractEnergy"):
        hf.Flow(bare, hf.GibbsCoupling(), 1.0, hf.NormalPrior(), hf.ImplicitMidpoint(step_size=0.1))
    with pytest.raises(ValueError, match=r"GibbsCoupling\(\) draws from"):
        hf.IndependentCoupling().require_system(bare)
