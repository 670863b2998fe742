"""What a constructor cannot know is refused in use: integers, ambiguous shapes, matrices, classes that change a law."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import gamma, kstest, norm

import hamflow as hf

FREE = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic())
INTEGERS = jnp.array([0, 1])
MIXTURE = hf.GaussianMixturePotential(jnp.zeros((1, 2)), jnp.ones(1), jnp.ones(1))


def flow_of(kinetic=None, potential=None, horizon=1.0, prior=None, coupling=None):
    system = hf.Hamiltonian(potential or hf.ZeroPotential(), kinetic or hf.GaussianKinetic())
    return hf.Flow(system, coupling or hf.IndependentCoupling(), horizon, prior or hf.NormalPrior())


def still(t, x, condition=None, key=None):
    return jnp.zeros_like(x)


# -- integers round every parameter to a whole number ------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda: hf.NormalPrior(0.4, jnp.array(0.5)).log_prob(INTEGERS),
        lambda: hf.UniformPrior(jnp.array(-0.5), jnp.array(1.5)).log_prob(INTEGERS),
        lambda: flow_of(hf.GaussianKinetic(jnp.array(2.3))).velocity(hf.PhaseState(INTEGERS, INTEGERS)),
        lambda: hf.RelativisticKinetic(0.5, 0.7).velocity(INTEGERS),
        lambda: hf.StudentTKinetic(3.0, 0.7).velocity(INTEGERS),
        lambda: hf.StudentTPrior(3.0, 0.4, jnp.array(0.5)).log_prob(INTEGERS),
        lambda: hf.HarmonicPotential(jnp.array(0.7)).energy(0.0, INTEGERS),
        lambda: MIXTURE.log_prob(INTEGERS),
        lambda: hf.Box(jnp.array(-0.5), 1.5).fold(INTEGERS, INTEGERS),
        lambda: hf.Preconditioned(still, hf.diffusion(), 0.5)(0.5, INTEGERS),
    ],
)
def test_integer_positions(use):
    with pytest.raises(TypeError, match=r"floating point|Float"):
        use()


# -- numbers and numpy's doubles are positions too; jax would warn about the doubles, and warnings are errors ----------


@pytest.mark.parametrize("convert", [np.asarray, lambda x: np.asarray(x, np.float32), jnp.asarray])
def test_numpy_positions(convert):
    x = convert([0.3, -0.2])
    expected = -0.5 * (0.09 + 0.04) - math.log(2 * math.pi)
    assert float(hf.NormalPrior().log_prob(x)) == pytest.approx(expected)
    assert float(MIXTURE.log_prob(x)) == pytest.approx(expected)
    assert float(hf.UniformPrior(-1.0, 1.0).log_prob(x)) == pytest.approx(-math.log(4.0))
    state = hf.PhaseState(x, x)
    assert float(FREE.energy(0.0, state)) == pytest.approx(0.065)
    flow = flow_of()
    np.testing.assert_allclose(flow.velocity(state), [0.3, -0.2], rtol=1e-6)
    np.testing.assert_allclose(flow.trajectory(state, jnp.array([1.0])).position, [[0.6, -0.4]], rtol=1e-6)


def test_a_position_that_is_one_number():
    state = hf.PhaseState(0.3, 0.4)
    assert float(flow_of().velocity(state)) == pytest.approx(0.4)
    assert float(flow_of().evolve(state, 0.5).position) == pytest.approx(0.5)
    assert float(hf.NormalPrior().log_prob(0.3)) == pytest.approx(-0.045 - 0.5 * math.log(2 * math.pi))


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_a_momentum_of_another_shape():
    with pytest.raises(ValueError, match=r"momentum has shape \(3,\) and position \(2,\)"):
        hf.PhaseState(jnp.zeros(2), jnp.zeros(3))
    assert hf.PhaseState(0, None).position == 0  # a tree of axes for `jax.vmap`


def test_times_for_one_example():
    with pytest.raises((ValueError, TypeError), match=r"one time .*vmap|parameter 't'"):
        hf.Preconditioned(still, hf.diffusion(), 0.5)(jnp.array([1.0, 2.0]), jnp.ones(2))


@pytest.mark.parametrize("law", [hf.LogNormalNoise, hf.LogitNormalTime])
@pytest.mark.parametrize(("name", "value"), [("mean", jnp.zeros(3)), ("std", jnp.ones(3))])
def test_time_laws_of_one_number(law, name, value):
    with pytest.raises(TypeError, match=f"parameter '{name}'"):
        law(**{name: value})


@pytest.mark.parametrize("use", ["loss", "generate", "Preconditioned"])
@pytest.mark.parametrize("indefinite", [True, False])
def test_a_diagonal_that_could_be_a_matrix(use, indefinite):
    """The noise scale knows no shape: sigma of this flow was nan, or wrong, though `evolve` was right."""
    mass = jnp.array([[1.0, 4.0], [9.0, 2.0]] if indefinite else [[2.0, 1.0], [1.0, 2.0]])
    flow = flow_of(hf.GaussianKinetic(mass))
    uses = {
        "loss": lambda: hf.velocity_matching_loss(still, flow, jnp.ones((8, 2, 2)), jr.key(0)),
        "generate": lambda: hf.generate(still, flow, jr.key(0), (3, 2, 2)),
        "Preconditioned": lambda: hf.Preconditioned(lambda c, x, *_: x, flow, 0.5)(0.5, jnp.ones((2, 2))),
    }
    with pytest.raises(ValueError, match=r"flatten positions and parameters to \(4,\)"):
        uses[use]()
    flow.evolve(hf.PhaseState(jnp.ones((2, 2)), jnp.ones((2, 2))), 0.5)


def test_variances_that_could_be_a_matrix():
    with pytest.raises(ValueError, match=r"read as a matrix.*flatten"):
        hf.whitened_oscillation(jnp.array([[1.0, 4.0], [9.0, 2.0]]))


# -- square arrays of positive numbers: a diagonal or a matrix, and only a position's shape tells ----------------------


@pytest.mark.parametrize("mass", [[[2.0, 1.0], [0.5, 2.0]], [[1.0, 2.0], [2.0, 1.0]]], ids=["skew", "indefinite"])
def test_a_mass_that_turns_out_to_be_a_matrix(mass):
    kinetic = hf.GaussianKinetic(jnp.array(mass))
    kinetic.velocity(jnp.ones((2, 2)))  # one mass a coordinate
    for use in (kinetic.velocity, kinetic.momentum, kinetic.energy, lambda x: kinetic.sample(jr.key(0), x.shape)):
        with pytest.raises(ValueError, match="not symmetric positive definite"):
            use(jnp.ones(2))


def test_scales_that_turn_out_to_have_no_inverse():
    prior = hf.NormalPrior(0.0, jnp.ones((2, 2)))
    assert np.isfinite(prior.log_prob(jnp.ones((2, 2))))
    with pytest.raises(ValueError, match="no inverse"):
        prior.log_prob(jnp.ones(2))
    with pytest.raises(ValueError, match="no inverse"):
        hf.Preconditioned(still, hf.diffusion(), jnp.ones((2, 2)))(0.5, jnp.ones(2))
    with pytest.raises(ValueError, match="no inverse"):
        hf.Preconditioned(still, hf.diffusion(), -jnp.ones((2, 2)))


# -- a subclass must not change a law that a closed form counts on -----------------------------------------------------


@pytest.mark.parametrize(
    "base",
    [
        hf.GaussianKinetic,
        hf.RelativisticKinetic,
        hf.StudentTKinetic,
        hf.StudentTCoupling,
        hf.HarmonicPotential,
        hf.ZeroPotential,
        hf.IndependentCoupling,
        hf.CondOTCoupling,
        hf.Box,
        hf.Torus,
        hf.Euclidean,
        hf.Hamiltonian,
    ],
)
def test_final_classes(base):
    with pytest.raises(TypeError, match=f"cannot be a subclass of {base.__name__}.*Subclass hamflow.Abstract"):
        type("Mine", (base,), {})


def test_the_force_of_a_potential_is_its_gradient():
    with pytest.raises(TypeError, match=r"Mine\.force .* final"):

        class Mine(hf.AbstractPotential):
            def energy(self, t, position):
                return jnp.sum(position**2)

            def force(self, t, position):
                return position


# -- modules of one's own that return something else -------------------------------------------------------------------


class Vectors(hf.AbstractPotential):
    def energy(self, t, position):
        return position**2


class ThreeBlocks(hf.AbstractLinearPropagator):
    def blocks(self, t0, t, shape):
        return 1.0, t - t0, 0.0


class Moves(hf.AbstractPotential, hf.AbstractSolvable):
    answer: object

    def energy(self, t, position):
        return jnp.sum(position)

    def propagator(self, kinetic, domain):
        return self.answer


class OneRow(hf.AbstractCoupling):
    def sample(self, key, data, system, prior, horizon):
        return hf.PhaseState(data[:1], data[:1])

    def require_system(self, system):
        pass


def test_modules_of_ones_own_are_named():
    with pytest.raises(ValueError, match=r"Vectors.energy returned shape \(2,\).*one number"):
        Vectors().force(0.0, jnp.ones(2))
    with pytest.raises(
        TypeError,
        match=r"must return a hamflow|return value",
    ):
        flow_of(potential=Moves(3))
    with pytest.raises(ValueError, match=r"ThreeBlocks\.blocks must return the four blocks"):
        flow_of(potential=Moves(ThreeBlocks()))
    with pytest.raises(ValueError, match=r"OneRow.sample returned positions of shape \(1, 2\)"):
        flow_of(coupling=OneRow()).sample_state(jr.key(0), jnp.ones((3, 2)), jnp.ones(3))
    with pytest.raises(TypeError, match="prior is the class NormalPrior"):
        flow_of(prior=hf.NormalPrior)
    for use in (
        lambda p: hf.generate(p, hf.oscillation(), jr.key(0), (3, 2)),
        lambda p: hf.velocity_matching_loss(p, hf.oscillation(), jnp.ones((3, 2)), jr.key(0)),
    ):
        with pytest.raises(ValueError, match="predictor returned None"):
            use(lambda t, x, condition, key: None)


def test_a_prior_with_a_mean_is_named_where_a_linear_flow_is_asked_for():
    flow = flow_of(coupling=hf.CondOTCoupling(), prior=hf.NormalPrior(jnp.zeros(2), 1.0))
    with pytest.raises(ValueError, match=r"mean is the number 0\.0"):
        flow.coefficients(0.5)


# -- the loss's weight -------------------------------------------------------------------------------------------------


class Weighted(eqx.Module):
    def __call__(self, t, x, condition=None, key=None):
        return jnp.zeros_like(x)

    def weight(self, t, x):
        return 100.0


def test_a_predictors_own_weight():
    data, flow = jnp.ones((4, 2)), hf.oscillation()
    plain = hf.velocity_matching_loss(still, flow, data, jr.key(0))
    assert float(hf.velocity_matching_loss(Weighted(), flow, data, jr.key(0))) == pytest.approx(100.0 * float(plain))
    given = hf.velocity_matching_loss(Weighted(), flow, data, jr.key(0), weight=3.0)
    assert float(given) == pytest.approx(3.0 * float(plain))


def test_weights_out_of_range():
    with pytest.raises(ValueError, match="weight must not be negative"):
        hf.velocity_matching_loss(still, hf.oscillation(), jnp.ones((4, 2)), jr.key(0), weight=-1.0)
    with pytest.raises(ValueError, match=r"weight has shape \(3,\)"):
        hf.velocity_matching_loss(still, hf.oscillation(), jnp.ones((4,)), jr.key(0), weight=lambda t: jnp.ones(3))


# -- solvers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [diffrax.KenCarp4, diffrax.SemiImplicitEuler, diffrax.EulerHeun])
def test_solvers_of_other_equations(solver):
    with pytest.raises(ValueError, match=f"{solver.__name__} is for split or stochastic"):
        hf.generate(still, hf.oscillation(), jr.key(0), (3, 2), solver=solver())


def test_an_implicit_solver_as_it_comes():
    """Its tolerances come from an adaptive step, which there is none of; dx/dt = x from 1 to 0 is a factor exp(-1)."""
    flow = hf.flow_matching()
    keys = jr.split(jr.key(0), 3)
    x = hf.generate(lambda t, x, c, k: x, flow, keys, (3, 2), 18, diffrax.Kvaerno3(), times=jnp.linspace(1.0, 0.0, 19))
    first = jax.vmap(lambda key: flow.prior.sample(key, (2,)))(keys)
    np.testing.assert_allclose(x, np.exp(-1.0) * np.asarray(first), rtol=1e-4)


# -- units of the laboratory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mass", "c"), [(1000.0, 3e8), (1.0, 1e-20)])
def test_relativistic_momenta_in_any_unit(mass, c):
    """Slow and heavy, p ~ N(0, m); all but massless, the density exp(-c |p|)."""
    draw = jax.vmap(lambda key: hf.RelativisticKinetic(mass, c).sample(key, (2,)))
    p = np.asarray(draw(jr.split(jr.key(0), 2000)), float)
    assert np.all(np.isfinite(p))
    if mass * c * c > 1e10:
        assert kstest(p[:, 0], norm(0, math.sqrt(mass)).cdf).pvalue > 1e-3
    else:  # in the plane the radius is Gamma(2) of scale 1 / c
        assert kstest(np.linalg.norm(p, axis=1) * c, gamma(2).cdf).pvalue > 1e-3
