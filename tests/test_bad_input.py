"""More that a user may get wrong, and what a user sees, who has no import hook: see `test_errors.py` for the rest."""

import json
import math
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import hamflow as hf

STATE = hf.PhaseState(jnp.ones(2), jnp.ones(2))
FREE = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic())
NAN, INF = float("nan"), float("inf")

NUMBERS = {
    "mass must": hf.GaussianKinetic,
    "mass .*must": hf.RelativisticKinetic,
    "speed_of_light must": lambda c: hf.RelativisticKinetic(1.0, c),
    "scale must": lambda s: hf.NormalPrior(0.0, s),
    "degrees_of_freedom must": hf.StudentTKinetic,
    "degrees_of_freedom must .*": hf.StudentTCoupling,
    "scale must .*": lambda s: hf.StudentTPrior(3.0, 0.0, s),
    "horizon must": lambda t: hf.Flow(FREE, hf.IndependentCoupling(), t, hf.NormalPrior()),
    "horizon must .*": lambda t: hf.reflection(horizon=t),
    "frequency must": hf.oscillation,
    "data_std must": lambda s: hf.diffusion(data_std=s),
    "covariance must": hf.whitened_oscillation,
    "stds must": lambda s: hf.GaussianMixturePotential(jnp.zeros((1, 2)), jnp.array([s]), jnp.ones(1)),
    "weights must": lambda w: hf.GaussianMixturePotential(jnp.zeros((1, 2)), jnp.ones(1), jnp.array([w])),
}


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INF, -INF])
@pytest.mark.parametrize("message", NUMBERS)
def test_numbers_that_must_be_positive(message, value):
    with pytest.raises(ValueError, match=message):
        NUMBERS[message](value)


@pytest.mark.parametrize("value", [NAN, INF])
def test_numbers_that_must_be_finite(value):
    for build in (hf.HarmonicPotential, hf.NormalPrior, lambda x: hf.Box(x, 1.0), lambda x: hf.Torus(-1.0, x)):
        with pytest.raises(ValueError, match="must be finite"):
            build(value)
    for build in (hf.HarmonicPotential, hf.NormalPrior, lambda x: hf.Box(x, 1.0)):
        with pytest.raises(ValueError, match="must be finite"):
            build(jnp.array([0.0, value]))


@pytest.mark.parametrize("value", ["one", None, True, 1j, jnp.array([True, True]), jnp.array([1j]), object()])
def test_things_that_are_no_numbers(value):
    builds = {
        "mass": hf.GaussianKinetic,
        "frequency": hf.HarmonicPotential,
        "lower": lambda x: hf.Box(x, 2.0),
        "upper": lambda x: hf.UniformPrior(-2.0, x),
        "mean": hf.NormalPrior,
        "covariance": hf.whitened_oscillation,
    }
    for name, build in builds.items():
        with pytest.raises(TypeError, match=name):
            build(value)


BOUNDS = "lower has shape .* and upper"


@pytest.mark.parametrize("momentum", [jnp.ones(3), jnp.ones(1), jnp.ones((2, 2)), jnp.ones(())])
def test_a_momentum_of_another_shape_is_not_broadcast(momentum):
    state = eqx.tree_at(lambda s: s.momentum, STATE, momentum)
    for flow in (hf.oscillation(), hf.reflection()):
        with pytest.raises(TypeError, match="momentum"):
            flow.evolve(state, 0.5)


@pytest.mark.parametrize("part", ["position", "momentum"])
@pytest.mark.parametrize("value", [jnp.array([1, 2]), jnp.array([True, False]), jnp.array([1j, 0j])])
def test_a_state_that_is_not_floating_is_refused(part, value):
    """Integers would cut the time to a whole number."""
    state = eqx.tree_at(lambda s: getattr(s, part), STATE, value)
    with pytest.raises(TypeError, match=part):
        hf.oscillation().evolve(state, 0.7)


def test_a_state_of_two_dtypes_is_refused():
    state = eqx.tree_at(lambda s: s.momentum, STATE, jnp.ones(2, jnp.float16))
    with pytest.raises(TypeError, match="momentum is float16 and position float32"):
        hf.oscillation().evolve(state, 0.7)


@pytest.mark.parametrize("t", [jnp.ones(2), "now", None, [0.5]])
def test_a_time_that_is_not_one_number(t):
    with pytest.raises(TypeError, match="'t'"):
        hf.oscillation().evolve(STATE, t)


SAMPLE = {
    "'key'": lambda: hf.oscillation().sample_state(0, jnp.ones((3, 2)), jnp.ones(3)),
    "'data'": lambda: hf.oscillation().sample_state(jr.key(0), jnp.ones((3, 2), jnp.uint8), jnp.ones(3)),
    "'data' ": lambda: hf.oscillation().sample_state(jr.key(0), [[1.0, 2.0]], jnp.ones(1)),
    "'t'": lambda: hf.oscillation().sample_state(jr.key(0), jnp.ones((3, 2)), jnp.ones(2)),
    "'t' ": lambda: hf.oscillation().sample_state(jr.key(0), jnp.ones((3, 2)), 0.5),
    "'t'  ": lambda: hf.oscillation().sample_state(jr.key(0), jnp.ones((3, 2)), jnp.ones(3, jnp.int32)),
    "'ts'": lambda: hf.oscillation().trajectory(STATE, jnp.arange(3)),
    "'ts' ": lambda: hf.oscillation().trajectory(STATE, jnp.ones((2, 2))),
    "'ts'  ": lambda: hf.oscillation().trajectory(STATE, 0.5),
}


@pytest.mark.parametrize("name", SAMPLE)
def test_arguments_are_named(name):
    with pytest.raises(TypeError, match=name.strip()):
        SAMPLE[name]()


WRONG_SHAPES = {
    "Box lower has shape": lambda: hf.reflection(jnp.zeros(3), 1.0).evolve(STATE, 0.5),
    "Torus upper has shape": lambda: hf.Torus(0.0, jnp.ones((2, 2))).fold(jnp.ones(2), jnp.ones(2)),
    "mass has shape": lambda: hf.GaussianKinetic(jnp.ones(3)).velocity(jnp.ones(2)),
    "frequency has shape": lambda: hf.HarmonicPotential(jnp.ones((3, 3))).force(jnp.zeros(()), jnp.ones(2)),
    "mean has shape": lambda: hf.NormalPrior(jnp.zeros((2, 2))).sample(jr.key(0), (2,)),
    "mean has shape ": lambda: hf.diffusion(data_mean=jnp.zeros(3)).prior.log_prob(jnp.ones(2)),
    "scale has shape": lambda: hf.NormalPrior(0.0, jnp.ones(3)).log_prob(jnp.ones(2)),
    "lower has shape": lambda: hf.UniformPrior(jnp.zeros((2, 2)), 1.0).sample(jr.key(0), (2,)),
    "upper has shape": lambda: hf.UniformPrior(0.0, jnp.ones(3)).log_prob(jnp.ones(2)),
    BOUNDS: lambda: hf.Box(jnp.zeros(2), jnp.ones(3)),
    BOUNDS + " ": lambda: hf.reflection(jnp.zeros(2), jnp.ones(3)),
    "shape must be that of one position": lambda: hf.GaussianMixturePotential(
        jnp.zeros((1, 2)), jnp.ones(1), jnp.ones(1)
    ).sample(jr.key(0), (3,)),
    r"stds \(k,\)": lambda: hf.GaussianMixturePotential(jnp.zeros((2, 2)), jnp.ones(3), jnp.ones(2)),
    "weights": lambda: hf.GaussianMixturePotential(jnp.zeros((2, 2)), jnp.ones(2), jnp.ones(3)),
    r"means must have shape \(k": lambda: hf.GaussianMixturePotential(1.0, 1.0, 1.0),
    "has no inverse": lambda: hf.NormalPrior(0.0, jnp.array([[1.0, -1.0], [1.0, -1.0]])),
    "frequency must be one number": lambda: hf.oscillation(jnp.ones(2)),
    "horizon must be one number": lambda: hf.diffusion(jnp.ones(1)),
    "which mixes momenta": lambda: hf.Flow(  # square: a diagonal for all that is known when it is built
        hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(jnp.array([[1.0, 2.0], [3.0, 4.0]])), hf.Box(0.0, 2.0)),
        hf.IndependentCoupling(),
        1.0,
        hf.UniformPrior(0.0, 2.0),
    ).evolve(STATE, 0.5),
}


@pytest.mark.parametrize("message", WRONG_SHAPES)
def test_shapes_that_do_not_fit(message):
    with pytest.raises(ValueError, match=message.strip()):
        WRONG_SHAPES[message]()


def test_nearly_symmetric_masses_are_matrices():
    """An inverse is symmetric up to rounding only, also where an entry is close to zero."""
    mass = jnp.array([[2.0, 1e-9, 0.3], [-1e-9, 1.0, 0.0], [0.3, 0.0, 1.0]])
    assert not hf.GaussianKinetic(mass).is_even_in_each()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("x", [1.0001, -2.0, NAN, INF])
def test_outside_of_the_domain_at_every_edge(x, compiled):
    """Naming the domain, and what to do. A NaN is in no box."""
    wrap = eqx.filter_jit if compiled else lambda function: function
    for flow, name in ((hf.reflection(), "Box"), (torus(), "Torus")):
        position = jnp.array([0.0, x])
        for run in (
            lambda flow=flow, position=position: flow.evolve(hf.PhaseState(position, jnp.ones(2)), 0.5),
            lambda flow=flow, position=position: flow.trajectory(hf.PhaseState(position, jnp.ones(2)), jnp.ones(2)),
            lambda flow=flow, position=position: flow.sample_state(jr.key(0), position[None], jnp.ones(1)),
        ):
            with pytest.raises(
                RuntimeError, match=f"outside the {name}.*rescale the data into it, or widen its bounds"
            ):
                jax.block_until_ready(wrap(run)())


def torus():
    return hf.Flow(
        hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(), hf.Torus(-1.0, 1.0)),
        hf.IndependentCoupling(),
        1.0,
        hf.UniformPrior(),
    )


def test_a_nan_is_never_repaired():
    """Momenta and times that are not numbers give positions that are not."""
    for flow in (hf.reflection(), hf.oscillation(), torus()):
        broken = flow.evolve(hf.PhaseState(jnp.zeros(2), jnp.array([NAN, 1.0])), 0.5)
        assert bool(jnp.isnan(broken.position[0]))
        assert not bool(jnp.isnan(broken.position[1]))
        assert bool(jnp.all(jnp.isnan(flow.evolve(hf.PhaseState(jnp.zeros(2), jnp.ones(2)), NAN).position)))


def test_a_traced_number_is_refused_by_a_recipe_and_taken_by_a_flow():
    with pytest.raises(TypeError, match=r"frequency must be a known number, got a traced one.*Flow\(\.\.\.\)"):
        jax.jit(lambda w: hf.oscillation(w).horizon)(1.0)

    def horizon(t):
        return hf.Flow(FREE, hf.IndependentCoupling(), t, hf.NormalPrior()).horizon

    assert float(jax.jit(horizon)(jnp.array(2.0))) == 2.0


def test_every_module_is_checked_inside_jit():
    """A value known while tracing is looked at there; a traced one passes."""
    builds = (
        lambda x: hf.GaussianKinetic(x).velocity(jnp.ones(2)),
        lambda x: hf.Box(0.0, x).fold(jnp.ones(2), jnp.ones(2))[0],
        lambda x: hf.NormalPrior(0.0, x).log_prob(jnp.ones(2)),
        lambda x: hf.whitened_oscillation(x).evolve(STATE, 0.3).position,
        lambda x: hf.GaussianMixturePotential(jnp.zeros((2, 2)), x, x).log_prob(jnp.ones(2)),
    )
    good, bad = jnp.array([1.0, 2.0]), jnp.array([1.0, -2.0])
    for build in builds:
        assert bool(jnp.all(jnp.isfinite(jax.jit(lambda build=build: build(good))())))
        assert bool(jnp.all(jnp.isfinite(jax.jit(build)(good))))
        with pytest.raises(ValueError, match="must be"):
            jax.jit(lambda build=build: build(bad))()


USER = """
    import json, sys
    import jax.numpy as jnp, jax.random as jr, numpy as np
    import hamflow as hf

    class Push(hf.AbstractForce):
        def force(self, t, position):
            return position

    class Moves(hf.AbstractPotential, hf.AbstractSolvable):
        def energy(self, t, position):
            return position.sum()

        def propagator(self, kinetic, domain):
            return 3

    state = hf.PhaseState(np.ones(2), np.ones(2))
    cases = {
        "force": lambda: hf.Hamiltonian(Push(), hf.GaussianKinetic()),
        "class": lambda: hf.Hamiltonian(hf.ZeroPotential, hf.GaussianKinetic()),
        "list": lambda: hf.Box([0.0, 1.0], 2.0),
        "integers": lambda: hf.oscillation().evolve(hf.PhaseState(jnp.arange(2), jnp.arange(2)), 0.5),
        "shapes": lambda: hf.oscillation().evolve(hf.PhaseState(jnp.ones(2), jnp.ones(1)), 0.5),
        "data": lambda: hf.oscillation().sample_state(jr.key(0), np.ones((2, 2), np.uint8), jnp.ones(2)),
        "prior": lambda: hf.Flow(hf.reflection().system, hf.IndependentCoupling(), 1.0, 5.0),
        "box": lambda: hf.reflection(np.zeros(3), 1.0).evolve(hf.PhaseState(jnp.zeros(1), jnp.ones(1)), 0.5),
        "mean": lambda: hf.NormalPrior(np.zeros((2, 3))).sample(jr.key(0), (3,)),
        "numpy": lambda: hf.oscillation().evolve(state, np.float64(0.5)).position.dtype.name,
        "energy": lambda: float(hf.oscillation().system.energy(0.0, state)),
        "whole numbers": lambda: hf.NormalPrior(0.4, jnp.array(0.5)).log_prob(jnp.arange(2)),
        "times": lambda: hf.Preconditioned(lambda c, x, *_: x, hf.diffusion(), 0.5)(jnp.ones(2), jnp.ones(2)),
        "propagator": lambda: hf.Flow(hf.Hamiltonian(Moves(), hf.GaussianKinetic()), hf.IndependentCoupling(), 1.0,
                                      hf.NormalPrior()),
        "doubles": lambda: float(hf.NormalPrior().log_prob(np.zeros(2)) + hf.UniformPrior().log_prob(np.zeros(2))),
        "numbers": lambda: [hf.diffusion(80).horizon, hf.GaussianKinetic(np.array([1, 2])).mass.tolist()],
    }
    said = {}
    for name, case in cases.items():
        try:
            said[name] = case()
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    json.dump(said, sys.stdout)
"""


def test_what_a_user_sees_without_the_hook():
    """pytest checks every call of hamflow; a user's Python checks the public edge alone, and may promote dtypes."""
    script = ["-W", "error", "-c", textwrap.dedent(USER)]
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    for name, words in {
        "force": ("TypeError", "Push", "hamflow.ForcedSystem"),
        "class": ("TypeError", "potential", "AbstractPotential"),
        "list": ("TypeCheckError", "lower"),
        "integers": ("TypeCheckError", "position"),
        "shapes": ("ValueError", "momentum"),
        "data": ("TypeCheckError", "data"),
        "whole numbers": ("TypeError", "floating point"),
        "times": ("ValueError", "one time", "jax.vmap"),
        "propagator": ("TypeError", "AbstractPropagator", "int"),
        "prior": ("TypeError", "prior is a float", "sample"),
        "box": ("ArgumentError", "Box lower has shape (3,)", "(1,)"),
        "mean": ("ArgumentError", "mean has shape (2, 3)", "(3,)"),
    }.items():
        for word in words:
            assert word in said[name], f"{name}: {said[name]}"
    assert said["numpy"] == "float32"
    assert said["energy"] == pytest.approx(2.0)
    assert said["doubles"] == pytest.approx(-math.log(2 * math.pi) - math.log(4.0), rel=1e-5)
    assert said["numbers"] == [80.0, [1.0, 2.0]]
