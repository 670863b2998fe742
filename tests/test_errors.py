"""What does not fit is refused when it is built, by name, with what to do instead."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jaxtyping import TypeCheckError

import hamflow as hf

DENSE = jnp.array([[1.0, 0.5], [0.5, 1.0]])


def mixture():
    return hf.GaussianMixturePotential(jnp.zeros((1, 2)), jnp.ones(1), jnp.ones(1))


def free(kinetic=None, domain=None):
    return hf.Hamiltonian(hf.ZeroPotential(), kinetic or hf.GaussianKinetic(), domain or hf.Euclidean())


class Push(hf.AbstractForce):
    def force(self, t, position):
        return position


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: hf.GaussianKinetic(-1.0), "mass must be positive"),
        (lambda: hf.GaussianKinetic(jnp.array([1.0, 0.0])), "mass must be positive"),
        (lambda: hf.GaussianKinetic(jnp.array([[1.0, 2.0], [2.0, -1.0]])), "neither a symmetric positive definite"),
        (lambda: hf.GaussianKinetic(float("nan")), "mass must be finite"),
        (lambda: hf.RelativisticKinetic(0.0), "mass must be positive"),
        (lambda: hf.RelativisticKinetic(1.0, -2.0), "speed_of_light must be positive"),
        (lambda: hf.StudentTKinetic(3.0, -1.0), "mass must be positive"),
        (lambda: hf.StudentTKinetic(1.0), "degrees_of_freedom must be above 1, got 1.0"),
        (lambda: hf.StudentTKinetic(3.0, DENSE).velocity(jnp.ones(2)), "mass has shape"),
        (lambda: hf.StudentTCoupling(0.0), "degrees_of_freedom must be positive, got 0.0"),
        (lambda: hf.StudentTPrior(-1.0), "degrees_of_freedom must be positive, got -1.0"),
        (lambda: hf.StudentTPrior(3.0, 0.0, -1.0), "scale must be positive"),
        (lambda: hf.poisson_flow(2.0), r"degrees_of_freedom must be above 2 .*got 2.0.*StudentTCoupling\(nu\)"),
        (
            lambda: hf.Flow(free(hf.RelativisticKinetic()), hf.StudentTCoupling(3.0), 1.0, hf.NormalPrior()),
            "for a GaussianKinetic of mass M, got RelativisticKinetic: use.*StudentTKinetic",
        ),
        (lambda: hf.HarmonicPotential(float("inf")), "frequency must be finite"),
        (lambda: hf.Box(1.0, 1.0), "lower must be below upper"),
        (lambda: hf.Torus(jnp.array([0.0, 2.0]), 1.0), "lower must be below upper"),
        (lambda: hf.UniformPrior(1.0, 0.0), "lower must be below upper"),
        (lambda: hf.NormalPrior(0.0, 0.0), "scale must be positive"),
        (lambda: free(hf.GaussianKinetic(DENSE), hf.Box(-1.0, 1.0)), "dense mass.*diagonal"),
        (lambda: hf.NonSeparableHamiltonian(lambda t, x, p: p @ x, hf.Box(-1.0, 1.0)), "Euclidean or Torus"),
        (
            lambda: hf.Flow(free(hf.RelativisticKinetic()), hf.CondOTCoupling(), 1.0, hf.NormalPrior()),
            "momentum for every velocity.*IndependentCoupling",
        ),
        (
            lambda: hf.Flow(
                hf.Hamiltonian(mixture(), hf.GaussianKinetic()), hf.IndependentCoupling(), 1.0, hf.NormalPrior()
            ),
            "no closed form.*AbstractSolvable",
        ),
        (
            lambda: hf.Flow(
                hf.Hamiltonian(hf.HarmonicPotential(), hf.GaussianKinetic(), hf.Box(-1, 1)),
                hf.IndependentCoupling(),
                1.0,
                hf.UniformPrior(),
            ),
            "no closed form",
        ),
        (
            lambda: hf.Flow(
                hf.NonSeparableHamiltonian(lambda t, x, p: p @ x, hf.Euclidean()),
                hf.IndependentCoupling(),
                1.0,
                hf.NormalPrior(),
            ),
            "no closed form",
        ),
        (lambda: hf.Flow(free(), hf.IndependentCoupling(), 0.0, hf.NormalPrior()), "horizon must be positive"),
        (lambda: hf.oscillation(0.0), "frequency must be positive"),
        (lambda: hf.oscillation(jnp.ones(2)), "frequency must be one number"),
        (lambda: hf.diffusion(data_std=-1.0), "data_std must be positive"),
        (lambda: hf.whitened_oscillation(jnp.array([[1.0, 2.0], [2.0, 1.0]])), "not positive definite"),
        (lambda: hf.whitened_oscillation(jnp.array([[1.0, 0.2], [0.0, 1.0]])), "not symmetric"),
        (lambda: hf.reflection().coefficients(0.5), "not a linear flow.*from_data"),
        (lambda: hf.Preconditioned(lambda *a: a[1], hf.reflection(), 0.5), "from_data"),
        (lambda: mixture().log_prob(jnp.ones(3)), "the mixture lives on"),
        (
            lambda: hf.HarmonicPotential(jnp.ones(3)).energy(jnp.array(0.0), jnp.ones(2)),
            r"frequency has shape \(3,\), but the position has shape \(2,\)",
        ),
        (
            lambda: hf.oscillation().trajectory(hf.PhaseState(jnp.ones(2), jnp.ones(2)), jnp.array([0.0, 1.0, 0.5])),
            "ts must be monotone",
        ),
    ],
)
def test_refused_with_what_to_do(build, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build()


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: hf.Hamiltonian(Push(), hf.GaussianKinetic()), "potential"),
        (lambda: hf.Hamiltonian(hf.ZeroPotential(), 1.0), "kinetic"),
        (lambda: hf.Flow(3, hf.CondOTCoupling(), 1.0, hf.NormalPrior()), "system"),
        (lambda: hf.Flow(free(), hf.CondOTCoupling(), 1.0, 5.0), "prior"),
        (lambda: hf.GaussianKinetic("heavy"), "mass"),
        (lambda: hf.oscillation().sample_state(jr.key(0), jnp.ones((3, 2), jnp.int32), jnp.ones(3)), "data"),
        (lambda: hf.oscillation().sample_state(jr.key(0), jnp.ones((3, 2)), jnp.ones(4)), "'t'"),
    ],
)
def test_a_wrong_type_or_shape_names_its_argument(build, name):
    with pytest.raises((TypeError, TypeCheckError), match=name):
        build()


@pytest.mark.parametrize("x", [1.5, jnp.nan])
def test_a_start_outside_the_box_is_an_error(x):
    flow = hf.reflection()
    data = jnp.array([[0.0, x]])
    with pytest.raises(RuntimeError, match="outside the Box"):
        jax.block_until_ready(flow.sample_state(jr.key(0), data, jnp.ones(1)))


def test_the_walls_are_inside():
    state = hf.reflection().sample_state(jr.key(0), jnp.array([[-1.0, 1.0]]), jnp.ones(1))
    assert bool(jnp.all(jnp.abs(state.position) <= 1.0))


def test_trajectory_inside_jit_refuses_times_that_turn_back():
    flow, state = hf.oscillation(), hf.PhaseState(jnp.ones(2), jnp.ones(2))
    run = jax.jit(lambda ts: flow.trajectory(state, ts).position)
    assert run(jnp.array([1.0, 0.5, 0.0])).shape == (3, 2)
    with pytest.raises(Exception, match="monotone"):
        jax.block_until_ready(run(jnp.array([0.0, 1.0, 0.5])))


def test_modules_are_built_inside_jit():
    """Constants are checked there as well, and a traced value passes."""

    @jax.jit
    def energy(mass):
        kinetic = hf.GaussianKinetic(mass)
        return hf.Hamiltonian(hf.HarmonicPotential(2.0), kinetic).energy(0.0, hf.PhaseState(jnp.ones(2), jnp.ones(2)))

    assert float(energy(jnp.array(0.5))) == pytest.approx(0.5 * 4 * 2 + 0.5 * 2 / 0.5)
    with pytest.raises(ValueError, match="mass must be positive"):
        jax.jit(lambda: hf.GaussianKinetic(-1.0).energy(jnp.ones(2)))()
