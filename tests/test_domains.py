"""Domains, against a particle that is followed from wall to wall in exact arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from systems import array

import hamflow as hf

LOWER, UPPER = -0.75, 1.5  # exact in binary


def bounce(position, displacement, lower=LOWER, upper=UPPER):
    """Where the particle ends, and by which sign its momentum is turned: wall after wall, no modulus."""
    x, left, sign = Fraction(position), abs(Fraction(displacement)), 1 if displacement >= 0 else -1
    lower, upper = Fraction(lower), Fraction(upper)
    turned = 1
    while True:
        room = upper - x if sign > 0 else x - lower
        if left <= room:
            return float(x + sign * left), turned
        x, left = (upper if sign > 0 else lower), left - room
        sign, turned = -sign, -turned


inside = st.one_of(st.floats(LOWER, UPPER), st.sampled_from([LOWER, UPPER, 0.0]))
far = st.one_of(st.floats(-3.0, 3.0), st.floats(-2000.0, 2000.0), st.sampled_from([0.0, 2.25, -2.25, 4.5, -4.5]))


@given(position=inside, displacement=far)
def test_a_box_is_a_particle_between_walls(position, displacement):
    with jax.enable_x64(True):
        x, p = hf.Box(LOWER, UPPER).step(array(position), array(1.3), array(displacement))
    expected, turned = bounce(position, displacement)
    tolerance = 1e-13 * (1.0 + abs(displacement))
    assert abs(float(x[0]) - expected) < tolerance
    assert LOWER <= float(x[0]) <= UPPER
    if min(expected - LOWER, UPPER - expected) > tolerance:  # on the wall itself both signs are right
        assert float(p[0]) == turned * 1.3


@given(position=inside, displacement=far)
def test_a_torus_is_a_particle_on_a_circle(position, displacement):
    with jax.enable_x64(True):
        x, p = hf.Torus(LOWER, UPPER).step(array(position), array(1.3), array(displacement))
    length = Fraction(UPPER) - Fraction(LOWER)
    expected = float(Fraction(LOWER) + (Fraction(position) + Fraction(displacement) - Fraction(LOWER)) % length)
    distance = abs(float(x[0]) - expected)
    assert min(distance, float(length) - distance) < 1e-13 * (1.0 + abs(displacement))
    assert LOWER <= float(x[0]) <= UPPER
    assert float(p[0]) == 1.3


@pytest.mark.parametrize("domain", [hf.Euclidean(), hf.Box(LOWER, UPPER), hf.Torus(LOWER, UPPER)])
@given(position=st.floats(-40.0, 40.0), velocity=st.floats(-3.0, 3.0))
def test_extend_undoes_fold_on_vectors(domain, position, velocity):
    """A vector carried to the folded point and back is itself; the fold is what the derivative of the point says."""
    with jax.enable_x64(True):
        x, v = array(position), array(velocity)
        folded, carried = domain.fold(x, v)
        assert float(domain.extend(x, carried)[0]) == velocity
        _, along = jax.jvp(lambda x: domain.fold(x, v)[0], (x,), (v,))
        np.testing.assert_array_equal(along, carried)
        np.testing.assert_array_equal(domain.fold(folded, carried), (folded, carried))  # inside, nothing happens
        assert bool(domain.contains(folded))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
@pytest.mark.parametrize("domain", [hf.Box(-0.1, 0.3), hf.Torus(-0.1, 0.3)])
def test_huge_steps_stay_inside(domain, dtype):
    """Rounding leaves no point outside, and no NaN, however far the straight line went."""
    start = jnp.asarray([-0.1, 0.0, 0.3], dtype)
    for displacement in (1e-30, -1e-30, 1e-7, -1e-7, 1e3, -1e3, 6e4, 1e20, -3e38):
        if abs(displacement) < float(jnp.finfo(dtype).max):
            x, p = domain.step(start, jnp.ones_like(start), jnp.full_like(start, displacement))
            assert bool(domain.contains(x))
            assert np.all(np.abs(np.asarray(p, float)) == 1.0)
            assert x.dtype == p.dtype == dtype


def test_an_infinite_step_is_not_repaired():
    for domain in (hf.Box(0.0, 1.0), hf.Torus(0.0, 1.0)):
        x, _ = domain.step(jnp.array([0.5]), jnp.ones(1), jnp.array([jnp.inf]))
        assert np.isnan(x[0])


def test_walls_a_coordinate_and_several_at_once(x64):
    domain = hf.Box(array(-1.0, 0.0), array(1.0, 0.5))
    x, p = domain.step(array(0.5, 0.4), array(2.0, -3.0), array(3.0, 0.85))
    # 3.5 on [-1, 1]: to the upper wall .5, to the lower 2, and .5 more; 1.25 on [0, .5]: .1 and .5, then .25
    np.testing.assert_allclose(x, [-0.5, 0.25], atol=1e-15)
    np.testing.assert_array_equal(p, [2.0, -3.0])


@pytest.mark.parametrize("at", [LOWER, UPPER, LOWER - 4.5, UPPER + 4.5, 0.3, 2.0, -20.3])
def test_gradients_on_the_wall_and_off_it(at, x64):
    """d x/d(position) is +1 or -1, never 0, 1/2 or NaN; in the bounds, by central differences (off the wall)."""
    for domain in (hf.Box, hf.Torus):

        def folded(x, lower, upper, domain=domain):
            return domain(lower, upper).fold(x, jnp.ones(()))[0]

        gradient = jax.jit(jax.grad(folded, argnums=(0, 1, 2)))(*array(at, LOWER, UPPER))
        assert float(gradient[0]) in (1.0, -1.0)
        assert np.all(np.isfinite(gradient))
        if (at - LOWER) % (UPPER - LOWER) != 0.0:
            for i in range(3):
                step = 1e-6 * np.eye(3)[i]
                ends = [float(folded(*array(*(np.array([at, LOWER, UPPER]) + s * step)))) for s in (1, -1)]
                assert float(gradient[i]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)


def test_contains_its_boundary_and_no_nan():
    for domain in (hf.Box(0.0, jnp.array([1.0, 2.0])), hf.Torus(0.0, jnp.array([1.0, 2.0]))):
        for point, answer in (
            ([0.0, 0.0], True),
            ([1.0, 2.0], True),
            ([0.5, 2.0001], False),
            ([-1e-6, 1.0], False),
            ([np.nan, 1.0], False),
            ([np.inf, 1.0], False),
        ):
            assert bool(domain.contains(jnp.array(point))) is answer
    assert bool(hf.Euclidean().contains(jnp.array([1e30, -1e30])))


def test_only_a_box_turns_momenta_round():
    assert hf.Box.flips_momentum
    assert not hf.Torus.flips_momentum
    assert not hf.Euclidean.flips_momentum
