"""The potentials of mechanics: known minima, frequencies and orbits, and forces against finite differences."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
from jaxtyping import TypeCheckError
from systems import array

import hamflow as hf

T = jnp.zeros(())

# Each with a position shape that it takes.
MECHANICS = {
    "pendulum": (lambda: hf.PendulumPotential(1.3), (3, 2)),
    "pendulum, each": (lambda: hf.PendulumPotential(array(1.3, 0.4)), (2,)),
    "kepler": (lambda: hf.KeplerPotential(0.8), (3,)),
    "kepler, softened": (lambda: hf.KeplerPotential(array(0.8)[0], array(0.3)[0]), (2,)),
    "henon-heiles": (lambda: hf.HenonHeilesPotential(0.7), (2,)),
    "double well": (lambda: hf.DoubleWellPotential(2.0, 0.7), ()),
    "double well, each": (lambda: hf.DoubleWellPotential(array(2.0, 0.5), array(0.7, 1.1)), (2,)),
    "quartic": (lambda: hf.QuarticPotential(1.5), (2, 2)),
    "fput": (lambda: hf.FPUTPotential(0.25, 0.3, 1.2), (5,)),
    "mueller-brown": (lambda: hf.MuellerBrownPotential(0.01), (2,)),
    "lennard-jones": (lambda: hf.LennardJonesPotential(0.7, 0.6), (4, 3)),
    "lennard-jones, some": (lambda: hf.LennardJonesPotential(0.7, 0.6, np.array([True, False, True, True])), (4, 2)),
}
EVERY = pytest.mark.parametrize("name", MECHANICS)


def energy(potential, x):
    return float(potential.energy(T, jnp.asarray(x, float)))


def frequency_at(potential, x):
    """The angular frequencies of small oscillations about x, unit mass: roots of the Hessian's eigenvalues."""
    hessian = jax.hessian(lambda x: potential.energy(T, x))(jnp.asarray(x, float))
    return np.sqrt(np.linalg.eigvalsh(np.asarray(hessian).reshape(np.size(x), -1)))


# -- what holds for all -----------------------------------------------------------------------------------------------


@EVERY
def test_force_is_minus_the_slope_of_the_energy(name, x64):
    build, shape = MECHANICS[name]
    potential = build()
    value = jax.jit(lambda x: potential.energy(T, x))
    x, h = np.random.default_rng(0).normal(size=shape), 1e-5
    slope = np.zeros(shape)
    for i in np.ndindex(shape):
        step = np.zeros(shape)
        step[i] = h
        slope[i] = (float(value(jnp.asarray(x + step))) - float(value(jnp.asarray(x - step)))) / (2.0 * h)
    force = potential.force(T, jnp.asarray(x))
    assert np.max(np.abs(slope)) > 1e-2  # else nothing was tested
    np.testing.assert_allclose(force, -slope, atol=1e-8 * (1.0 + np.max(np.abs(slope))))


@EVERY
def test_dtype_is_that_of_the_position(name):
    """Strict promotion is on. The parameters may be single precision and the data double, or the reverse."""
    build, shape = MECHANICS[name]

    def in_dtype(tree, dtype):
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree)

    with jax.enable_x64(True):
        for parameters in (jnp.float32, jnp.float64):
            potential = in_dtype(build(), parameters)
            for dtype in (jnp.float16, jnp.float32, jnp.float64):
                x = jax.ShapeDtypeStruct(shape, dtype)
                value, push = jax.eval_shape(
                    lambda x, p=potential: (p.energy(jnp.zeros((), x.dtype), x), p.force(0.0, x)), x
                )
                assert (value.dtype, push.dtype, value.shape, push.shape) == (dtype, dtype, (), shape)


@EVERY
def test_compiled_and_batched_is_the_same(name):
    build, shape = MECHANICS[name]
    potential, x = build(), jr.normal(jr.key(1), (3, *shape))
    many = eqx.filter_jit(lambda potential, x: jax.vmap(potential.force, (None, 0))(T, x))(potential, x)
    for i in range(3):
        one = potential.force(T, x[i])
        np.testing.assert_allclose(many[i], one, rtol=2e-5, atol=2e-5 * float(jnp.max(jnp.abs(one))))


@pytest.mark.parametrize("name", [name for name in MECHANICS if name != "kepler"])  # its slope in a softening of 0 is 0
def test_gradients_reach_arrays_and_no_python_number(name, x64):
    build, shape = MECHANICS[name]
    numbers = build()
    floats = [leaf for leaf in jax.tree.leaves(numbers) if isinstance(leaf, float)]
    arrays = jax.tree.map(lambda leaf: jnp.asarray(leaf, float) if isinstance(leaf, float) else leaf, numbers)
    x = jnp.asarray(np.random.default_rng(2).normal(size=shape))
    slopes = jax.tree.leaves(eqx.filter_grad(lambda p: p.energy(T, x))(arrays))
    assert len(slopes) == len(jax.tree.leaves(eqx.filter(arrays, eqx.is_inexact_array)))
    assert all(np.all(np.isfinite(s)) and np.all(s != 0.0) for s in slopes)
    left = jax.tree.leaves(eqx.filter(numbers, eqx.is_inexact_array))
    assert len(slopes) == len(left) + len(floats)  # what was a Python number was out of sight


@EVERY
def test_saved_and_loaded(name, tmp_path):
    build, shape = MECHANICS[name]
    potential, x = build(), jr.normal(jr.key(3), shape)
    hf.save(tmp_path / "potential", potential)
    back = hf.load(tmp_path / "potential")
    assert type(back) is type(potential)
    assert jax.tree.structure(back) == jax.tree.structure(potential)
    np.testing.assert_array_equal(back.force(T, x), potential.force(T, x))


@EVERY
def test_integers_are_refused(name):
    build, shape = MECHANICS[name]
    with pytest.raises((TypeError, TypeCheckError), match="float"):
        build().energy(T, jnp.ones(shape, int))


# -- one by one -------------------------------------------------------------------------------------------------------


def test_pendulum(x64):
    """Rest, quarter and top by hand; small swings at sqrt(strength / m), large ones slower by the elliptic integral."""
    strength, mass = 1.7, 0.6
    potential = hf.PendulumPotential(strength)
    assert [energy(potential, x) for x in (0.0, math.pi / 2, math.pi)] == pytest.approx([-1.7, 0.0, 1.7])
    system = hf.Hamiltonian(potential, hf.GaussianKinetic(mass))
    for amplitude in (1e-4, 2.0):
        # T = 4 K(sin^2(amplitude / 2)) / w, pi / 2 for K at small amplitudes
        period = 4.0 * scipy.special.ellipk(math.sin(amplitude / 2.0) ** 2) / math.sqrt(strength / mass)
        start = hf.PhaseState(array(amplitude), array(0.0))
        end = hf.integrate(system, start, 0.0, period, 200, hf.Yoshida6())
        np.testing.assert_allclose(end.position, start.position, rtol=1e-7)
        np.testing.assert_allclose(end.momentum, 0.0, atol=1e-7 * amplitude)
    assert period / (2.0 * math.pi / math.sqrt(strength / mass)) > 1.2  # the large swing is another test


def test_kepler_circle(x64):
    """On a circle of radius r, w^2 = strength / (m r^3): a third of a turn leads to the angle 2 pi / 3."""
    strength, mass, r = 1.9, 0.7, 1.3
    w = math.sqrt(strength / (mass * r**3))
    system = hf.Hamiltonian(hf.KeplerPotential(strength), hf.GaussianKinetic(mass))
    start = hf.PhaseState(array(r, 0.0), array(0.0, mass * r * w))
    end = hf.integrate(system, start, 0.0, 2.0 * math.pi / 3.0 / w, 200, hf.Yoshida6())
    np.testing.assert_allclose(end.position, [-r / 2.0, r * math.sqrt(3.0) / 2.0], atol=1e-9)
    assert energy(hf.KeplerPotential(strength), [r, 0.0]) == pytest.approx(-strength / r)


def test_kepler_ellipse(x64):
    """From the nearest point of an ellipse, half a period T = 2 pi sqrt(m a^3 / strength) leads to the farthest."""
    a, e = 1.2, 0.4
    system = hf.Hamiltonian(hf.KeplerPotential(), hf.GaussianKinetic())
    start = hf.PhaseState(array(a * (1 - e), 0.0, 0.0), array(0.0, math.sqrt((1 + e) / (a * (1 - e))), 0.0))
    end = hf.integrate(system, start, 0.0, math.pi * a**1.5, 800, hf.Yoshida6())
    np.testing.assert_allclose(end.position, [-a * (1 + e), 0.0, 0.0], atol=1e-8)


def test_kepler_softening(x64):
    """A depth of strength / softening with the curvature strength / softening^3, and a finite force at the centre."""
    soft = hf.KeplerPotential(2.0, 0.5)
    assert energy(soft, [0.0, 0.0]) == pytest.approx(-4.0)
    np.testing.assert_array_equal(soft.force(T, jnp.zeros(2)), 0.0)
    np.testing.assert_allclose(frequency_at(soft, [0.0, 0.0]), 4.0)
    assert not np.all(np.isfinite(hf.KeplerPotential().force(T, jnp.zeros(2))))  # said so, and not repaired


@pytest.mark.parametrize("coupling", [1.0, 0.6])
def test_henon_heiles(coupling, x64):
    """Three saddles at the corners of an equilateral triangle, all of energy 1 / (6 coupling^2); unit wells at 0."""
    potential = hf.HenonHeilesPotential(coupling)
    for angle in (math.pi / 2, math.pi / 2 + 2 * math.pi / 3, math.pi / 2 + 4 * math.pi / 3):
        saddle = np.array([math.cos(angle), math.sin(angle)]) / coupling
        assert energy(potential, saddle) == pytest.approx(1.0 / (6.0 * coupling**2))
        np.testing.assert_allclose(potential.force(T, jnp.asarray(saddle)), 0.0, atol=1e-14)
    np.testing.assert_allclose(frequency_at(potential, [0.0, 0.0]), 1.0)
    assert energy(potential, [0.3, -0.2]) == pytest.approx(0.065 + coupling * (-0.018 + 0.008 / 3.0))


def test_double_well(x64):
    """Minima of 0 at +-separation, a barrier of its height at 0, curvature 8 barrier / separation^2."""
    barrier, separation = 1.7, 0.6
    potential = hf.DoubleWellPotential(barrier, separation)
    assert energy(potential, [separation, -separation]) == pytest.approx(0.0, abs=1e-15)
    assert energy(potential, [0.0, separation]) == pytest.approx(barrier)
    np.testing.assert_allclose(potential.force(T, array(separation, 0.0)), 0.0, atol=1e-14)
    curvature = frequency_at(potential, [separation, -separation]) ** 2
    np.testing.assert_allclose(curvature, 8.0 * barrier / separation**2)


def test_quartic(x64):
    """U = s x^4 / 4, F = -s x^3; with unit mass the period from amplitude a is 4 K(1/2) / (a sqrt(s))."""
    strength, amplitude = 1.4, 0.9
    potential = hf.QuarticPotential(strength)
    assert energy(potential, [1.0, -2.0]) == pytest.approx(1.4 * 17.0 / 4.0)
    np.testing.assert_allclose(potential.force(T, array(1.0, -2.0)), [-1.4, 11.2])
    period = 4.0 * scipy.special.ellipk(0.5) / (amplitude * math.sqrt(strength))
    system = hf.Hamiltonian(potential, hf.GaussianKinetic())
    end = hf.integrate(system, hf.PhaseState(array(amplitude), array(0.0)), 0.0, period, 300, hf.Yoshida6())
    np.testing.assert_allclose([*end.position, *end.momentum], [amplitude, 0.0], atol=1e-8)


def test_fput_without_its_cubic_and_quartic_terms_is_harmonic(x64):
    """O = sqrt(spring) D with D the differences, (n + 1, n); HarmonicPotential takes the root of O^T O."""
    n, spring = 6, 1.7
    stiffness = spring * (2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    root = np.linalg.cholesky(stiffness).T
    chain, harmonic = hf.FPUTPotential(0.0, 0.0, spring), hf.HarmonicPotential(jnp.asarray(root))
    x = jnp.asarray(np.random.default_rng(4).normal(size=n))
    assert energy(chain, x) == pytest.approx(energy(harmonic, x), rel=1e-13)
    np.testing.assert_allclose(chain.force(T, x), harmonic.force(T, x), atol=1e-13)
    modes = 2.0 * math.sqrt(spring) * np.sin(math.pi * np.arange(1, n + 1) / (2 * (n + 1)))
    np.testing.assert_allclose(frequency_at(chain, np.zeros(n)), modes, rtol=1e-10)


def test_fput_by_hand(x64):
    """One particle displaced by u: d = (u, -u), the cubic terms cancel. Two: d = (1, 1, -2)."""
    potential = hf.FPUTPotential(0.3, 0.8, 2.0)
    assert energy(potential, [0.5]) == pytest.approx(2.0 * 0.25 + 0.8 * 0.0625 / 2.0)
    assert energy(potential, [1.0, 2.0]) == pytest.approx(1.0 * 6.0 + 0.1 * (1 + 1 - 8) + 0.2 * (1 + 1 + 16))


MINIMA = [((-0.5582, 1.4417), -146.70), ((0.6235, 0.0280), -108.17), ((-0.0500, 0.4667), -80.77)]
SADDLES = [((-0.8220, 0.6243), -40.66), ((0.2125, 0.2930), -72.25)]


@pytest.mark.parametrize(("place", "depth"), MINIMA)
def test_mueller_brown_minima(place, depth, x64):
    potential = hf.MuellerBrownPotential()
    assert energy(potential, place) == pytest.approx(depth, abs=6e-3)
    found = scipy.optimize.minimize(
        lambda x: energy(potential, x), place, jac=lambda x: -np.asarray(potential.force(T, jnp.asarray(x)))
    )
    np.testing.assert_allclose(found.x, place, atol=6e-5)
    assert found.fun == pytest.approx(depth, abs=6e-3)
    assert np.all(frequency_at(potential, found.x) > 1.0)
    assert energy(hf.MuellerBrownPotential(0.1), place) == pytest.approx(depth / 10.0, abs=6e-4)


@pytest.mark.parametrize(("place", "height"), SADDLES)
def test_mueller_brown_saddles(place, height, x64):
    potential = hf.MuellerBrownPotential()
    found = scipy.optimize.root(lambda x: np.asarray(potential.force(T, jnp.asarray(x))), place)
    np.testing.assert_allclose(found.x, place, atol=6e-5)
    assert energy(potential, found.x) == pytest.approx(height, abs=6e-3)
    hessian = jax.hessian(lambda x: potential.energy(T, x))(jnp.asarray(found.x))
    low, high = np.linalg.eigvalsh(hessian)
    assert low < 0.0 < high


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: hf.KeplerPotential(1.0, -0.1), "softening must not be negative, got -0.1"),
        (lambda: hf.DoubleWellPotential(0.0), "barrier must be positive"),
        (lambda: hf.DoubleWellPotential(1.0, array(1.0, -2.0)), "separation must be positive"),
        (lambda: hf.PendulumPotential(float("nan")), "strength must be finite"),
        (lambda: hf.FPUTPotential(beta=math.inf), "beta must be finite"),
        (lambda: hf.HenonHeilesPotential().energy(T, jnp.ones(3)), r"must have shape \(2,\), got \(3,\)"),
        (lambda: hf.MuellerBrownPotential().force(T, jnp.ones((1, 2))), r"must have shape \(2,\), got \(1, 2\)"),
        (lambda: hf.FPUTPotential().energy(T, jnp.ones((2, 2))), r"must have shape \(n,\), got \(2, 2\)"),
        (lambda: hf.QuarticPotential(jnp.ones(3)).energy(T, jnp.ones(2)), r"strength has shape \(3,\), but the pos"),
        (lambda: hf.PendulumPotential(jnp.ones(3)).energy(T, jnp.ones((2, 3))), r"strength has shape \(3,\)"),
    ],
)
def test_values_and_shapes_that_do_not_fit(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: hf.KeplerPotential(jnp.ones(2)), "strength"),
        (lambda: hf.HenonHeilesPotential("weak"), "coupling"),
        (lambda: hf.FPUTPotential(spring=None), "spring"),
        (lambda: hf.MuellerBrownPotential([1.0]), "scale"),
        (lambda: hf.QuarticPotential(None), "strength"),
    ],
)
def test_types_that_do_not_fit(build, name):
    with pytest.raises((TypeError, TypeCheckError), match=name):
        build()
