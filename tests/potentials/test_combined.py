"""Sums, scalings, temperature and time: the arithmetic of energies and forces, and the types that keep the truth."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from systems import Swirl, array

import hamflow as hf

T = jnp.zeros(())
X = (0.7, -0.4)


class Ramp(eqx.Module):
    """1 + rate t."""

    rate: jax.Array

    def __call__(self, t):
        return 1.0 + self.rate.astype(t.dtype) * t


def well():
    return hf.HarmonicPotential(1.3)


def quartic():
    return hf.QuarticPotential(array(0.5, 2.0))


def swirl():
    return Swirl(0.7)


# By hand at X: the energies and forces of the parts.
WELL, WELL_FORCE = 0.5 * 1.69 * (0.49 + 0.16), -1.69 * np.array(X)
QUARTIC, QUARTIC_FORCE = (0.5 * 0.7**4 + 2.0 * 0.4**4) / 4.0, -np.array([0.5 * 0.7**3, 2.0 * (-0.4) ** 3])
SWIRL_FORCE = 0.7 * np.array([0.4, 0.7])

POTENTIALS = {
    "sum": (lambda: hf.SumPotential([well(), quartic()]), WELL + QUARTIC, WELL_FORCE + QUARTIC_FORCE),
    "a + b": (lambda: well() + quartic(), WELL + QUARTIC, WELL_FORCE + QUARTIC_FORCE),
    "a - b": (lambda: well() - quartic(), WELL - QUARTIC, WELL_FORCE - QUARTIC_FORCE),
    "a + b + a": (lambda: well() + quartic() + well(), 2 * WELL + QUARTIC, 2 * WELL_FORCE + QUARTIC_FORCE),
    "scaled": (lambda: hf.ScaledPotential(well(), -2.5), -2.5 * WELL, -2.5 * WELL_FORCE),
    "2 a": (lambda: 2 * well(), 2 * WELL, 2 * WELL_FORCE),
    "a 2.0": (lambda: well() * 2.0, 2 * WELL, 2 * WELL_FORCE),
    "array a": (lambda: array(2.0)[0] * well(), 2 * WELL, 2 * WELL_FORCE),
    "numpy a": (lambda: np.float64(2.0) * well(), 2 * WELL, 2 * WELL_FORCE),
    "numpy array a": (lambda: np.array(2.0) * well(), 2 * WELL, 2 * WELL_FORCE),
    "a / 4": (lambda: well() / 4, WELL / 4, WELL_FORCE / 4),
    "-a": (lambda: -well(), -WELL, -WELL_FORCE),
    "all at once": (
        lambda: 3.0 * (well() + quartic() / 2.0) - well(),
        2 * WELL + 1.5 * QUARTIC,
        2 * WELL_FORCE + 1.5 * QUARTIC_FORCE,
    ),
    "tempered": (lambda: hf.TemperedPotential(well(), 0.5), WELL / 0.5, WELL_FORCE / 0.5),
    "in time": (
        lambda: hf.TimeDependentPotential(well(), Ramp(array(0.4)[0])),
        1.2 * WELL,
        1.2 * WELL_FORCE,
    ),
    "sine": (lambda: hf.TimeDependentPotential(well(), jnp.sin), math.sin(0.5) * WELL, math.sin(0.5) * WELL_FORCE),
}
FORCES = {
    "sum": (lambda: hf.SumForce((well(), swirl())), WELL_FORCE + SWIRL_FORCE),
    "a + f": (lambda: well() + swirl(), WELL_FORCE + SWIRL_FORCE),
    "f + a": (lambda: swirl() + well(), WELL_FORCE + SWIRL_FORCE),
    "f + f": (lambda: swirl() + swirl(), 2 * SWIRL_FORCE),
    "(a + b) + f": (lambda: (well() + quartic()) + swirl(), WELL_FORCE + QUARTIC_FORCE + SWIRL_FORCE),
    "f + (a + b)": (lambda: swirl() + (well() + quartic()), WELL_FORCE + QUARTIC_FORCE + SWIRL_FORCE),
    "a - f": (lambda: well() - swirl(), WELL_FORCE - SWIRL_FORCE),
    "scaled": (lambda: hf.ScaledForce(swirl(), -2.5), -2.5 * SWIRL_FORCE),
    "2 f": (lambda: 2 * swirl(), 2 * SWIRL_FORCE),
    "f / 4": (lambda: swirl() / 4, SWIRL_FORCE / 4),
    "-f": (lambda: -swirl(), -SWIRL_FORCE),
    "a potential that forgot its energy": (lambda: hf.ScaledForce(well(), 1.0), WELL_FORCE),
    "and its sum": (lambda: hf.SumForce([well()]) + quartic(), WELL_FORCE + QUARTIC_FORCE),
    "in time": (lambda: hf.TimeDependentForce(swirl(), Ramp(array(0.4)[0])), 1.2 * SWIRL_FORCE),
}
BUILD = {f"potential: {name}": row[0] for name, row in POTENTIALS.items()} | {
    f"force: {name}": row[0] for name, row in FORCES.items()
}
EVERY = pytest.mark.parametrize("name", BUILD)


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_combination_of_potentials_has_an_energy(name, x64):
    build, energy, force = POTENTIALS[name]
    potential = build()
    assert isinstance(potential, hf.AbstractPotential)
    assert float(potential.energy(0.5, array(*X))) == pytest.approx(energy, rel=1e-13)
    np.testing.assert_allclose(potential.force(0.5, array(*X)), force, rtol=1e-13, atol=1e-14)
    hf.Hamiltonian(potential, hf.GaussianKinetic())


@pytest.mark.parametrize("name", FORCES)
def test_a_combination_with_a_bare_force_has_none(name, x64):
    build, expected = FORCES[name]
    force = build()
    assert not isinstance(force, hf.AbstractPotential)
    assert not hasattr(force, "energy")
    np.testing.assert_allclose(force.force(0.5, array(*X)), expected, rtol=1e-13, atol=1e-14)
    with pytest.raises(TypeError, match="which has no energy"):
        hf.Hamiltonian(force, hf.GaussianKinetic())


@EVERY
def test_dtype_is_that_of_the_position(name, x64):
    combined = BUILD[name]()
    for dtype in (jnp.float32, jnp.float64):
        x = jnp.asarray(X, dtype)
        for t in (0.5, 1, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float64)):
            assert combined.force(t, x).dtype == dtype
            if isinstance(combined, hf.AbstractPotential):
                assert combined.energy(t, x).dtype == dtype


@EVERY
def test_compiled_and_batched_is_the_same(name):
    combined, x = BUILD[name](), jr.normal(jr.key(0), (3, 2))
    many = eqx.filter_jit(lambda part, x: jax.vmap(part.force, (None, 0))(0.5, x))(combined, x)
    np.testing.assert_allclose(many, [combined.force(0.5, row) for row in x], rtol=1e-5, atol=1e-6)


@EVERY
def test_saved_and_loaded(name, tmp_path):
    combined = BUILD[name]()
    hf.save(tmp_path / "combined", combined)
    back, x = hf.load(tmp_path / "combined", trust=("systems", __name__)), jnp.array(X)
    assert jax.tree.structure(back) == jax.tree.structure(combined)
    np.testing.assert_array_equal(back.force(0.5, x), combined.force(0.5, x))


def test_the_builtin_sum():
    parts = [hf.QuarticPotential(0.5), hf.HarmonicPotential(1.3), hf.PendulumPotential()]
    total = sum(parts[1:], start=parts[0])
    assert isinstance(sum(parts), hf.SumPotential)
    assert eqx.tree_equal(sum(parts), total)


def test_sums_of_sums_are_one_sum():
    assert len((well() + quartic() + well()).parts) == 3
    assert len((swirl() + (well() + quartic())).parts) == 3


def test_time_derivative_of_the_energy_is_the_power_of_the_schedule(x64):
    """dH/dt = (d schedule / dt) U along the motion: U = (1 + r t) |x|^2 / 2 by an integral of Simpson's rule."""
    rate = 0.4
    system = hf.Hamiltonian(
        hf.TimeDependentPotential(hf.HarmonicPotential(), Ramp(array(rate)[0])), hf.GaussianKinetic()
    )
    start = hf.PhaseState(array(*X), array(0.2, 0.9))
    path = hf.integrate(system, start, 0.0, 2.0, 400, hf.Yoshida6(), save_every=4)
    h = np.array(jax.vmap(system.energy)(path.times, path.states))
    power = rate * 0.5 * np.sum(np.asarray(path.states.position) ** 2, axis=1)
    weights = np.array([1.0] + [4.0, 2.0] * 49 + [4.0, 1.0]) * 0.02 / 3.0
    assert h[-1] - h[0] == pytest.approx(weights @ power, rel=1e-7)
    assert abs(h[-1] - h[0]) > 0.05


def test_temperature_is_the_width_of_the_density(x64):
    """exp(-U / T) of an oscillator is N(0, T / w^2): log ratios against that of the Gaussian."""
    frequency, temperature = 1.3, 0.4
    tempered = hf.TemperedPotential(hf.HarmonicPotential(frequency), temperature)
    x, y = array(*X), array(-0.2, 1.1)
    gaussian = np.sum(np.square(y) - np.square(x)) / (2.0 * temperature / frequency**2)
    assert float(tempered.energy(T, y) - tempered.energy(T, x)) == pytest.approx(gaussian, rel=1e-12)


def test_gradients_reach_factors_parts_and_schedules(x64):
    """By hand: d/d factor, d/d temperature and d/d rate of energies that are known."""
    x, leaf = array(*X), array(2.0)[0]

    def slope(combined):
        found = jax.tree.leaves(eqx.filter_grad(lambda part: part.energy(0.5, x))(combined))
        return [float(jnp.sum(value)) for value in found]

    assert slope(hf.ScaledPotential(well(), leaf)) == pytest.approx([WELL])
    assert slope(hf.TemperedPotential(well(), leaf)) == pytest.approx([-WELL / 4.0])
    assert slope(hf.TimeDependentPotential(well(), Ramp(leaf))) == pytest.approx([0.5 * WELL])
    # U is quadratic in the frequency, and linear in the strength: dU/dw = 2 U / w, dU/ds = U / s.
    assert slope(3.0 * (hf.HarmonicPotential(leaf) + hf.QuarticPotential(leaf))) == pytest.approx(
        [3.0 * 2.0 * (0.49 + 0.16), 3.0 * (0.7**4 + 0.4**4) / 4.0]
    )
    assert slope(2.0 * well() + hf.PendulumPotential(3.0)) == []  # Python numbers are constants


def test_a_combination_claims_no_closed_form():
    for part in (2.0 * well(), well() + hf.ZeroPotential(), hf.TemperedPotential(well(), 2.0)):
        assert not isinstance(part, hf.AbstractSolvable)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: hf.SumPotential([well(), swirl()]), r"Swirl is a force, which has no energy: use hamflow\.SumForce"),
        (lambda: hf.SumPotential([well(), 3.0]), r"(?s)part.*AbstractForce|AbstractPotential, got float"),
        (lambda: hf.SumForce([well(), None]), r"(?s)part.*AbstractForce"),
        (lambda: hf.SumPotential(well()), "parts"),
        (lambda: hf.ScaledPotential(swirl(), 2.0), r"Swirl is a force.*use hamflow\.ScaledForce"),
        (lambda: hf.TemperedPotential(swirl(), 2.0), r"Swirl is a force.*ScaledForce\(force, 1 / temperature\)"),
        (lambda: hf.TimeDependentPotential(swirl(), jnp.sin), r"Swirl is a force.*use hamflow\.TimeDependentForce"),
        (lambda: hf.TimeDependentPotential(well(), 3.0), "schedule"),
        (lambda: array(1.0, 2.0) * well(), "factor"),
        (lambda: np.array([1.0, 2.0]) * well(), "factor"),
        (lambda: well() * None, "factor"),
        (lambda: well() * well(), "unsupported operand"),
        (lambda: well() / well(), "unsupported operand"),
        (lambda: 1.0 / well(), "unsupported operand"),
        (lambda: well() + 1.0, "unsupported operand"),
        (lambda: 1.0 - well(), "unsupported operand"),
    ],
)
def test_types_that_do_not_fit(build, message):
    with pytest.raises((TypeError, TypeCheckError), match=message):
        build()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: hf.SumPotential([]), ValueError, r"parts must hold one or more.*ZeroPotential\(\)"),
        (lambda: hf.SumForce(()), ValueError, "parts must hold one or more"),
        (lambda: hf.TemperedPotential(well(), 0.0), ValueError, "temperature must be positive, got 0.0"),
        (lambda: hf.TemperedPotential(well(), array(-1.0)[0]), ValueError, "temperature must be positive"),
        (lambda: math.nan * well(), ValueError, "factor must be finite"),
        (lambda: well() / array(0.0)[0], ValueError, "factor must be finite"),
        (lambda: well() / 0.0, ZeroDivisionError, "division by zero"),
        (
            lambda: hf.TimeDependentPotential(well(), lambda t: jnp.stack([t, t])).energy(0.0, array(*X)),
            ValueError,
            r"schedule returned shape \(2,\) for one time",
        ),
    ],
)
def test_values_that_do_not_fit(build, error, message):
    with pytest.raises(error, match=message):
        build()
