"""The one registry of systems and flows: a new class costs one line here, and gets every law of `test_laws.py` tested.

Everything is built by a call, since the arrays inside take the precision that is in force at that moment.
"""

import dataclasses
import math
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from own_systems import Driven, Gravity, InvertedOscillator, Ripple

import hamflow as hf

SHAPE = (2,)  # of one position in SYSTEMS


def array(*values):
    """In jax's default float."""
    return jnp.array(values, float)


def spd():
    return array([2.0, 0.6], [0.6, 0.9])


POTENTIALS = {
    "zero": hf.ZeroPotential,
    "harmonic": lambda: hf.HarmonicPotential(1.3),
    "harmonic diagonal": lambda: hf.HarmonicPotential(array(0.8, 0.0)),
    "harmonic matrix": lambda: hf.HarmonicPotential(array([1.1, 0.4], [-0.3, 0.7])),
    "mixture": lambda: hf.GaussianMixturePotential(array([0.5, 0.2], [-0.7, 0.4]), array(0.3, 0.6), array(0.4, 0.6)),
}
KINETICS = {
    "mass": lambda: hf.GaussianKinetic(1.7),
    "diagonal mass": lambda: hf.GaussianKinetic(array(0.5, 2.0)),
    "dense mass": lambda: hf.GaussianKinetic(spd()),
    "relativistic": lambda: hf.RelativisticKinetic(0.8, 1.5),
    "student-t": lambda: hf.StudentTKinetic(6.0, array(0.8, 2.0)),
}
DOMAINS = {
    "space": hf.Euclidean,
    "box": lambda: hf.Box(array(-1.0, -0.5), 1.5),
    "torus": lambda: hf.Torus(-1.0, array(1.5, 0.7)),
}


@dataclasses.dataclass(frozen=True)
class SystemEntry:
    """One system, and what its laws need to know."""

    build: Callable[[], hf.AbstractSystem]
    has_energy: bool = True
    conserves_energy: bool = True
    shape: tuple[int, ...] = SHAPE


def _combinations() -> dict[str, SystemEntry]:
    def entry(potential, kinetic, domain):
        return SystemEntry(lambda: hf.Hamiltonian(POTENTIALS[potential](), KINETICS[kinetic](), DOMAINS[domain]()))

    triples = ((p, k, d) for p in POTENTIALS for k in KINETICS for d in DOMAINS)
    return {f"{p}, {k}, {d}": entry(p, k, d) for p, k, d in triples if (k, d) != ("dense mass", "box")}


def _in_space(potential: Callable[[], hf.AbstractPotential], shape: tuple[int, ...] = SHAPE) -> SystemEntry:
    return SystemEntry(lambda: hf.Hamiltonian(potential(), hf.GaussianKinetic()), shape=shape)


def wave(position, number):
    return jnp.sum(jnp.sin(number * position))


class Swirl(hf.AbstractForce):
    """F = rate (-x_2, x_1), which no potential has."""

    rate: float

    def force(self, t, position):
        return self.rate * jnp.stack([-position[1], position[0]])


def _in_a_field():
    return hf.NonSeparableHamiltonian(hf.MagneticEnergy(hf.HarmonicPotential(0.8), array(1.4)[0], 1.3))


def _riemannian():
    energy = hf.RiemannianEnergy(hf.HarmonicPotential(0.8), lambda x: 1.0 + 0.5 * jnp.tanh(x) ** 2)
    return hf.NonSeparableHamiltonian(energy)


SYSTEMS: dict[str, SystemEntry] = {
    **_combinations(),
    "inverted oscillator": SystemEntry(lambda: hf.Hamiltonian(InvertedOscillator(array(1.2)[0]), hf.GaussianKinetic())),
    "gravity": SystemEntry(lambda: hf.Hamiltonian(Gravity(array(0.3, -1.1)), hf.GaussianKinetic(array(0.5, 2.0)))),
    "driven": SystemEntry(lambda: hf.Hamiltonian(Driven(array(0.7)[0]), hf.GaussianKinetic()), conserves_energy=False),
    "swirl": SystemEntry(lambda: hf.ForcedSystem(Swirl(0.7), hf.GaussianKinetic()), False, False),
    "swirl, box": SystemEntry(
        lambda: hf.ForcedSystem(Swirl(0.7), hf.GaussianKinetic(), hf.Box(-1.0, 1.5)), False, False
    ),
    "free force": SystemEntry(
        lambda: hf.ForcedSystem(hf.ZeroPotential(), hf.GaussianKinetic(2.0), hf.Torus(-1.0, 1.5)), False, False
    ),
    "pendulum": _in_space(lambda: hf.PendulumPotential(1.3)),
    "kepler": _in_space(lambda: hf.KeplerPotential(0.8)),
    "kepler, softened": _in_space(lambda: hf.KeplerPotential(array(0.8)[0], 0.3), (3,)),
    "henon-heiles": _in_space(lambda: hf.HenonHeilesPotential(0.7)),
    "double well": _in_space(lambda: hf.DoubleWellPotential(array(2.0, 0.5), 0.7)),
    "quartic": _in_space(lambda: hf.QuarticPotential(1.5), (2, 2)),
    "fput": _in_space(lambda: hf.FPUTPotential(0.25, 0.3, 1.2), (5,)),
    "mueller-brown": _in_space(lambda: hf.MuellerBrownPotential(0.01)),
    "lennard-jones": _in_space(lambda: hf.LennardJonesPotential(0.7, 0.4), (4, 3)),
    "lennard-jones, some": _in_space(lambda: hf.LennardJonesPotential(0.7, 0.4, np.arange(4) != 1), (4, 2)),
    "network": _in_space(lambda: hf.NetworkPotential(eqx.nn.MLP(2, 1, 8, 1, jnp.tanh, key=jr.key(0)))),
    "function": _in_space(lambda: hf.FunctionPotential(wave, number=array(1.1)[0])),
    "sum": _in_space(lambda: hf.QuarticPotential(0.5) + 2.0 * hf.HarmonicPotential(1.3)),
    "tempered": _in_space(lambda: hf.TemperedPotential(hf.DoubleWellPotential(), 0.6)),
    "in time": dataclasses.replace(
        _in_space(lambda: hf.TimeDependentPotential(hf.HarmonicPotential(1.3), jnp.cos)), conserves_energy=False
    ),
    "network force": SystemEntry(
        lambda: hf.ForcedSystem(hf.NetworkForce(eqx.nn.MLP(2, 2, 8, 1, key=jr.key(0))), hf.GaussianKinetic()),
        False,
        False,
    ),
    "magnetic": SystemEntry(_in_a_field),
    "riemannian": SystemEntry(_riemannian),
    "sum with a swirl": SystemEntry(
        lambda: hf.ForcedSystem(hf.QuarticPotential(0.5) - 2.0 * Swirl(0.7), hf.GaussianKinetic()), False, False
    ),
}


@dataclasses.dataclass(frozen=True)
class FlowEntry:
    """One flow. `data(rng, n)`, where given, draws data from which the law at the horizon is the prior."""

    build: Callable[[], hf.Flow]
    shape: tuple[int, ...] = SHAPE
    data: Callable[[np.random.Generator, int], np.ndarray] | None = None
    conserves_energy: bool = True
    accuracy: float = 1e-10  # of the motion; rounding, or the error that the order of an integrator lets one expect


def bimodal(shape):
    """Two bumps in every coordinate, as far from normal as it gets."""
    return lambda rng, n: 1.2 * rng.choice([-1.0, 1.0], (n, *shape)) + 0.2 * rng.normal(size=(n, *shape))


def normal(shape, std, mean=0.0):
    return lambda rng, n: rng.normal(mean, std, (n, *shape))


def uniform(shape, lower, upper):
    return lambda rng, n: rng.uniform(lower, upper, (n, *shape))


def _free(system, horizon, prior):
    return hf.Flow(system, hf.IndependentCoupling(), horizon, prior)


def _massive_oscillation(frequency, mass):
    """U = m w^2 |x|^2 / 2, whose law at T = pi / (2 w) is N(0, 1 / (m w^2))."""
    system = hf.Hamiltonian(hf.HarmonicPotential(frequency * math.sqrt(mass)), hf.GaussianKinetic(mass))
    prior = hf.NormalPrior(0.0, 1.0 / (frequency * math.sqrt(mass)))
    return _free(system, math.pi / (2.0 * frequency), prior)


def _heavy_tails(flow, degrees_of_freedom, scale):
    """The same with Student-t momenta, whose law at a quarter of a period is theirs too."""
    nu = degrees_of_freedom
    return hf.Flow(flow.system, hf.StudentTCoupling(nu), flow.horizon, hf.StudentTPrior(nu, 0.0, scale))


def _box_flow(kinetic, domain, horizon):
    return _free(
        hf.Hamiltonian(hf.ZeroPotential(), kinetic, domain), horizon, hf.UniformPrior(domain.lower, domain.upper)
    )


def _matching(kinetic, horizon, prior):
    return hf.Flow(hf.Hamiltonian(hf.ZeroPotential(), kinetic), hf.CondOTCoupling(), horizon, prior)


def _inverted(rate, horizon, data_std):
    prior = hf.NormalPrior(0.0, math.hypot(math.cosh(rate * horizon) * data_std, math.sinh(rate * horizon) / rate))
    return _free(hf.Hamiltonian(InvertedOscillator(rate), hf.GaussianKinetic()), horizon, prior)


def _driven(strength, horizon, data_std):
    prior = hf.NormalPrior(strength * (horizon - math.sin(horizon)), math.hypot(data_std, horizon))
    return _free(hf.Hamiltonian(Driven(strength), hf.GaussianKinetic()), horizon, prior)


def _stepped(potential, kinetic, integrator):
    system = hf.Hamiltonian(POTENTIALS[potential](), KINETICS[kinetic]())
    return hf.Flow(system, hf.IndependentCoupling(), 0.9, hf.NormalPrior(), integrator)


def _rippled(domain, wave_number, integrator):
    """A force that vanishes at walls, or is periodic, so that every method keeps its order."""
    system = hf.Hamiltonian(Ripple(array(wave_number)[0], -1.0), hf.GaussianKinetic(array(0.5, 2.0)), domain)
    return hf.Flow(system, hf.IndependentCoupling(), 0.9, hf.UniformPrior(-1.0, 1.5), integrator)


def _quadratic(t):
    """From 0 to pi / 2 at pi / 2, at first at half the pace."""
    return t * (0.5 + t / math.pi)


def _named() -> dict[str, FlowEntry]:
    image, small_image, scalar = (3, 4, 4), (2, 1, 2), ()
    # For reflection the misfit at T = 1.5 L is exp(-(1.5 pi)^2 / 2) = 1.5e-5 of the first Fourier mode of the data
    # (THEORY, section 4); for motion on a torus, exp(-(3 pi)^2 / 2). A test with 4,000 draws resolves .01.
    return {
        "diffusion": FlowEntry(lambda: hf.diffusion(3.0, 0.5), data=normal(SHAPE, 0.5)),
        "diffusion to 80, centred": FlowEntry(
            lambda: hf.diffusion(80.0, 0.5, array(1.0, -2.0)), data=normal(SHAPE, 0.5, (1.0, -2.0))
        ),
        "flow matching": FlowEntry(hf.flow_matching, small_image, bimodal(small_image)),
        "flow matching, mass": FlowEntry(
            lambda: _matching(hf.GaussianKinetic(1.7), 2.5, hf.NormalPrior(0.0, 0.8)), scalar, bimodal(scalar)
        ),
        "flow matching, diagonal mass and scale": FlowEntry(
            lambda: _matching(hf.GaussianKinetic(array(0.5, 2.0)), 2.0, hf.NormalPrior(0.0, array(3.0, 0.4))),
            data=bimodal(SHAPE),
        ),
        "flow matching, dense mass and scale": FlowEntry(
            lambda: _matching(hf.GaussianKinetic(spd()), 1.0, hf.NormalPrior(0.0, array([1.0, 0.5], [-0.7, 2.0]))),
            data=bimodal(SHAPE),
        ),
        "flow matching, shifted prior": FlowEntry(
            lambda: _matching(hf.GaussianKinetic(), 1.0, hf.NormalPrior(array(1.0, -2.0), 0.5)), data=bimodal(SHAPE)
        ),
        "flow matching to uniform": FlowEntry(
            lambda: _matching(hf.GaussianKinetic(), 1.0, hf.UniformPrior(-1.0, 2.0)), data=bimodal(SHAPE)
        ),
        "flow matching, minibatch OT": FlowEntry(
            lambda: hf.Flow(hf.flow_matching().system, hf.MinibatchOTCoupling(), 1.5, hf.NormalPrior(0.0, 0.8)),
            data=bimodal(SHAPE),
        ),
        "oscillation": FlowEntry(hf.oscillation, data=bimodal(SHAPE)),
        "oscillation, slow": FlowEntry(lambda: hf.oscillation(0.3), scalar, bimodal(scalar)),
        "oscillation, images": FlowEntry(lambda: hf.oscillation(2.0), image, bimodal(image)),
        "oscillation, mass": FlowEntry(lambda: _massive_oscillation(1.4, 2.5), data=bimodal(SHAPE)),
        "whitened": FlowEntry(lambda: hf.whitened_oscillation(0.3), data=bimodal(SHAPE)),
        "whitened, diagonal": FlowEntry(lambda: hf.whitened_oscillation(array(4.0, 0.1)), data=bimodal(SHAPE)),
        "whitened, dense": FlowEntry(lambda: hf.whitened_oscillation(spd()), data=bimodal(SHAPE)),
        "whitened, dense images": FlowEntry(
            lambda: hf.whitened_oscillation(0.5 * jnp.eye(4).reshape(2, 2, 2, 2) + 0.1), (2, 2), bimodal((2, 2))
        ),
        "reflection": FlowEntry(hf.reflection, small_image, uniform(small_image, -0.9, 0.1)),
        "reflection, bounds a coordinate": FlowEntry(
            lambda: hf.reflection(array(-1.0, 0.0), array(1.0, 0.5), 3.0),
            data=uniform(SHAPE, (-0.2, 0.0), (0.9, 0.5)),
        ),
        "reflection, mass": FlowEntry(
            lambda: _box_flow(hf.GaussianKinetic(array(0.25, 4.0)), hf.Box(-1.0, 1.0), 6.0),
            data=uniform(SHAPE, 0.2, 1.0),
        ),
        # Its law mixes as slowly as its slowest particles; but uniform data stay uniform, exactly.
        "reflection, relativistic": FlowEntry(
            lambda: _box_flow(hf.RelativisticKinetic(0.5, 2.0), hf.Box(-1.0, 2.0), 3.0), data=uniform(SHAPE, -1.0, 2.0)
        ),
        "torus": FlowEntry(
            lambda: _box_flow(hf.GaussianKinetic(), hf.Torus(-1.0, 1.0), 3.0), data=uniform(SHAPE, -0.9, 0.1)
        ),
        "poisson": FlowEntry(lambda: hf.poisson_flow(5.0, 3.0, 0.5), small_image),
        "oscillation, heavy tails": FlowEntry(
            lambda: _heavy_tails(_massive_oscillation(1.4, 2.5), 3.0, 1.0 / (1.4 * math.sqrt(2.5))),
            small_image,
            bimodal(small_image),
        ),
        "whitened, heavy tails": FlowEntry(
            lambda: _heavy_tails(hf.whitened_oscillation(spd()), 4.0, jnp.linalg.cholesky(spd())), data=bimodal(SHAPE)
        ),
        # Masses so large that the momenta of `test_laws.states`, up to 4, are inside the support.
        "flow matching, student-t": FlowEntry(
            lambda: _matching(hf.StudentTKinetic(4.0, 3.0), 1.5, hf.StudentTPrior(3.0, 0.4, 0.8)), data=bimodal(SHAPE)
        ),
        "reflection, student-t": FlowEntry(
            lambda: _box_flow(hf.StudentTKinetic(3.0, 6.0), hf.Box(-1.0, 2.0), 3.0), data=uniform(SHAPE, -1.0, 2.0)
        ),
        "inverted oscillator": FlowEntry(lambda: _inverted(1.2, 1.0, 0.5), small_image, normal(small_image, 0.5)),
        "driven": FlowEntry(lambda: _driven(0.7, 2.0, 0.5), data=normal(SHAPE, 0.5), conserves_energy=False),
        "diffusion, variance preserving": FlowEntry(
            lambda: hf.reschedule(hf.diffusion(3.0, 0.5), hf.VariancePreserving()),
            data=normal(SHAPE, 0.5),
            conserves_energy=False,
        ),
        "diffusion, variance exploding": FlowEntry(
            lambda: hf.reschedule(hf.diffusion(3.0, 0.5), hf.VarianceExploding()),
            data=normal(SHAPE, 0.5),
            conserves_energy=False,
        ),
        "whitened, dense, another clock and scale": FlowEntry(
            lambda: hf.reschedule(
                hf.whitened_oscillation(spd()), hf.Schedule(_quadratic, math.pi / 2.0, lambda t: 1.0 / (1.0 + t))
            ),
            data=bimodal(SHAPE),
            conserves_energy=False,
        ),
        "reflection, another clock": FlowEntry(
            lambda: hf.reschedule(hf.reflection(), hf.Schedule(jnp.sqrt, 9.0)),
            data=uniform(SHAPE, -0.9, 0.1),
            conserves_energy=False,
        ),
        # Steps of .1 and less over a time of about 1, forces of about 1: h^p, ten times that for the constant.
        "integrator: Leapfrog": FlowEntry(
            lambda: _stepped("mixture", "diagonal mass", hf.Leapfrog(0.01)), accuracy=3e-3
        ),
        "integrator: SymplecticEuler": FlowEntry(
            lambda: _stepped("harmonic matrix", "relativistic", hf.SymplecticEuler(0.01)), accuracy=5e-2
        ),
        "integrator: Yoshida8, driven": FlowEntry(
            lambda: hf.Flow(
                _driven(0.7, 2.0, 0.5).system, hf.IndependentCoupling(), 1.0, hf.NormalPrior(), hf.Yoshida8(0.1)
            ),
            conserves_energy=False,
            accuracy=1e-7,
        ),
        "integrator: BlanesMoan4, box": FlowEntry(
            lambda: _rippled(hf.Box(-1.0, 1.5), math.pi / 2.5, hf.BlanesMoan4(0.05)), accuracy=5e-5
        ),
        "integrator: Yoshida4, torus": FlowEntry(
            lambda: _rippled(hf.Torus(-1.0, 1.5), 2.0 * math.pi / 2.5, hf.Yoshida4(0.02)), accuracy=1e-4
        ),
        "integrator: ImplicitMidpoint": FlowEntry(
            lambda: _stepped("harmonic", "dense mass", hf.ImplicitMidpoint(0.02)), accuracy=5e-3
        ),
        "integrator: ImplicitMidpoint, magnetic": FlowEntry(
            lambda: hf.Flow(_in_a_field(), hf.GibbsCoupling(), 0.9, hf.NormalPrior(), hf.ImplicitMidpoint(0.02)),
            accuracy=5e-3,
        ),
        "integrator: ImplicitMidpoint, riemannian": FlowEntry(
            lambda: hf.Flow(_riemannian(), hf.GibbsCoupling(), 0.9, hf.NormalPrior(), hf.ImplicitMidpoint(0.02)),
            accuracy=5e-3,
        ),
    }


def _closed(name: str) -> FlowEntry:
    entry = SYSTEMS[name]
    return FlowEntry(lambda: _free(entry.build(), 0.9, hf.NormalPrior()), conserves_energy=entry.conserves_energy)


# Which of the combinations above move in closed form is what the documentation says, not what the code answers.
CLOSED = [n for n in SYSTEMS if n.startswith(("zero", "inverted", "gravity", "driven", "free"))] + [
    n for n in SYSTEMS if n.startswith("harmonic") and n.endswith("mass, space")
]
FLOWS: dict[str, FlowEntry] = {**_named(), **{f"system: {name}": _closed(name) for name in CLOSED}}
