"""The discrepancy against its closed form for N(0, s^2) and F = -a x, and what it says of scores in general."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import hamflow as hf
from hamflow.objectives.stability import stability_limit

S = 0.5


def exact(a, t, s=S, mass=1.0):
    """D = c^2 / var (THEORY 3), from x_t = A x_0 + B p_0 and v_t = C x_0 + E p_0 with p_0 ~ N(0, mass)."""
    w = math.sqrt(a / mass)
    position = (math.cos(w * t), (math.sin(w * t) / w if w else t) / mass)
    velocity = (-w * math.sin(w * t), math.cos(w * t) / mass)
    c = position[0] * velocity[0] * s**2 + position[1] * velocity[1] * mass
    return c**2 / (position[0] ** 2 * s**2 + position[1] ** 2 * mass)


def pull(a):
    """F = -a x, its frequency an array, so that forces share what is compiled."""
    return hf.HarmonicPotential(jnp.array(math.sqrt(a), float)) if a else hf.ZeroPotential()


TABLE = {(0, 0.1): 0.038462, (0, 0.5): 0.5, (1, 0.5): 0.235739, (4, 0.3): 0.0, (9, 0.1): 0.058173, (9, 0.5): 0.007731}


def test_the_closed_form_is_that_of_the_table():
    for (a, t), value in TABLE.items():
        assert exact(a, t) == pytest.approx(value, abs=6e-7)
    assert [exact(a, 1e-3) / 1e-6 for a in (0, 1, 9)] == pytest.approx([4.0, 2.25, 6.25], rel=1e-4)


@pytest.mark.parametrize(("a", "t"), [*TABLE, (4, 0.05), (4, 1.0), (2, 0.3), (6.5, 0.2), (0.3, 0.7)])
def test_linear_features_find_the_exact_value(a, t):
    """Within three of its own standard errors (alarm 3e-3 a case, over seventeen fixed draws)."""
    data = S * jr.normal(jr.key(0), (20_000, 1))
    found = hf.hamiltonian_score_discrepancy(pull(a), data, jr.key(1), times=t, features="linear")
    assert abs(found.values[0] - exact(a, t)) < 3 * found.standard_errors[0]
    assert found.estimate == pytest.approx(found.values[0] / t**2)
    assert found.standard_error == pytest.approx(found.standard_errors[0] / t**2)


def test_the_standard_error_is_that_of_other_data():
    """Of 60 sets of 1,000 data, the deviation of the estimates against the mean error that each states."""
    found = [
        hf.hamiltonian_score_discrepancy(
            pull(1), S * jr.normal(jr.key(i), (1000, 1)), jr.key(100 + i), times=(0.1, 0.4), features="linear"
        )
        for i in range(60)
    ]
    estimates, errors = np.array([f.estimate for f in found]), np.array([f.standard_error for f in found])
    assert 0.75 < errors.mean() / estimates.std(ddof=1) < 1.35
    mean = np.mean([exact(1, t) / t**2 for t in (0.1, 0.4)])
    assert abs(estimates.mean() - mean) < 4 * estimates.std(ddof=1) / 60**0.5


def test_a_mass():
    """D = t^2 E|M (F - score)|^2 for small t, M = 1 / m, and exactly its closed form."""
    data = S * jr.normal(jr.key(0), (20_000, 1))
    found = hf.hamiltonian_score_discrepancy(
        pull(1), data, jr.key(1), times=(0.05, 0.4), features="linear", kinetic=hf.GaussianKinetic(0.25)
    )
    assert all(
        abs(v - exact(1, t, mass=0.25)) < 3 * e
        for v, t, e in zip(found.values, (0.05, 0.4), found.standard_errors, strict=True)
    )
    assert exact(1, 1e-3, mass=0.25) / 1e-6 == pytest.approx(16 * 2.25, rel=1e-4)


def test_one_large_time_does_not_order_forces():
    """At t = .5 the force with a = 9 looks thirty times better than a = 1, and is nearly three times worse."""
    data = S * jr.normal(jr.key(0), (20_000, 1))

    def measured(a, t):
        return hf.hamiltonian_score_discrepancy(pull(a), data, jr.key(1), times=t, features="linear").estimate

    errors = {a: (a - 1 / S**2) ** 2 * S**2 for a in (1, 9)}
    assert errors[9] > 2.5 * errors[1]
    assert measured(9, 0.5) < 0.1 * measured(1, 0.5)
    assert measured(9, 0.05) > 2.0 * measured(1, 0.05)


MIXTURE = hf.GaussianMixturePotential(
    jnp.array([[1.0, 0.0], [-1.0, 0.5]]), jnp.array([0.5, 0.7]), jnp.array([0.4, 0.6])
)


def ripple(x):
    """The score of the mixture, and an error of mean square .87 that no linear feature sees."""
    return MIXTURE.force(0.0, x) + 1.2 * jnp.sin(2.0 * x[::-1])


def drawn(n):
    return jax.jit(jax.vmap(lambda k: MIXTURE.sample(k, (2,))))(jr.split(jr.key(7), n))


@pytest.mark.parametrize("how", ["waves", "network"])
def test_a_score_that_is_wrong_in_waves(how):
    """A lower bound of t^2 E|F - score|^2 that finds most of it; and next to nothing for the score itself."""
    data = drawn(8000)
    network = eqx.nn.MLP(2, 2, 64, 2, jax.nn.silu, key=jr.key(3))
    options = {"times": (0.05, 0.1)}
    if how == "network":
        options |= {"predictor": hf.ShortTimeVelocity(network), "train_steps": 1000}
    truth = float(jnp.mean(jnp.sum((1.2 * jnp.sin(2.0 * data[:, ::-1])) ** 2, axis=1)))
    wrong = hf.hamiltonian_score_discrepancy(ripple, data, jr.key(1), **options)
    right = hf.hamiltonian_score_discrepancy(MIXTURE, data, jr.key(1), **options)
    assert 0.6 * truth < wrong.estimate < truth + 3 * wrong.standard_error
    assert wrong.estimate > 5 * wrong.standard_error
    assert abs(right.estimate) < 0.1 * truth


def test_a_score_that_is_wrong_by_a_factor():
    """1.5 times the score: the force is among the features, and no penalty on the waves may shrink it."""
    data = drawn(8000)
    truth = 0.25 * float(jnp.mean(jax.vmap(lambda x: jnp.sum(MIXTURE.force(0.0, x) ** 2))(data)))
    found = hf.hamiltonian_score_discrepancy(1.5 * MIXTURE, data, jr.key(1), times=(0.05, 0.1))
    assert 0.6 * truth < found.estimate < truth + 3 * found.standard_error


def test_features_of_ones_own_and_pictures():
    data = jr.normal(jr.key(0), (2000, 1, 2, 2))
    found = hf.hamiltonian_score_discrepancy(
        hf.HarmonicPotential(2.0), data, jr.key(1), times=0.05, features=lambda x: jnp.tanh(x).ravel()
    )
    assert 0.7 * 36 < found.estimate < 36 + 3 * found.standard_error  # |F - score|^2 = 9 |x|^2, seen through tanh
    assert "E|F - score|^2 at least about" in str(found)


def test_times_of_its_own():
    """Below a quarter of the fastest swing, and in the unit of the data."""
    for unit in (1e-2, 1e2):
        data = unit * S * jr.normal(jr.key(0), (2000, 1))
        found = hf.hamiltonian_score_discrepancy(pull(9 / unit**2), data, jr.key(1), features="linear")
        assert np.all(found.times * 3 / unit < math.pi / 2)
        assert found.estimate * unit**2 == pytest.approx(6.25, rel=0.15)


@pytest.mark.parametrize("method", [hf.SymplecticEuler, hf.Leapfrog, hf.Yoshida4, hf.Suzuki4])
def test_stability_limit(method, x64):
    """Below it a thousand steps of an oscillator stay bounded; above it they grow."""
    limit = stability_limit(method())
    start = hf.PhaseState(jnp.array([1.0]), jnp.array([0.0]))

    def reached(h):
        end = hf.integrate(hf.Hamiltonian(pull(1), hf.GaussianKinetic()), start, 0.0, 400 * h, 400, method())
        return float(jnp.abs(end.position[0]) + jnp.abs(end.momentum[0]))

    assert reached(0.99 * limit) < 50
    assert reached(1.03 * limit) > 1e3
    if method is hf.Leapfrog:
        assert limit == pytest.approx(2.0, abs=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": jnp.zeros((0, 1))}, "data must hold at least 40 examples, got 0"),
        ({"data": jnp.full((100, 1), jnp.nan)}, "data must be finite"),
        ({"times": 0.0}, "times must be positive and finite, got 0.0: at t = 0 every force looks right"),
        ({"times": (0.1, -0.2)}, "times must be positive and finite, got -0.2"),
        ({"times": ()}, "times is empty"),
        ({"times": 0.9, "num_steps": 1, "integrator": hf.Leapfrog()}, "beyond the stability of Leapfrog"),
        ({"integrator": hf.Leapfrog(0.1)}, "is for a Flow; here num_steps counts its steps"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"num_groups": 5}, "num_groups must be even"),
        ({"force": lambda x: x / 0.0, "times": 0.1}, "the score is not finite"),
        ({"force": lambda x: jnp.zeros(3), "times": 0.1}, "a force has the position's shape"),
        ({"features": lambda x: jnp.zeros((2, 2)), "times": 0.1}, "they must be one vector"),
        ({"data": jnp.ones((100, 1)), "force": pull(0)}, "the data do not vary in some coordinate; give times"),
    ],
)
def test_bad_input(options, message):
    arguments = {"force": pull(9), "data": S * jr.normal(jr.key(0), (100, 1)), **options}
    force, data = arguments.pop("force"), arguments.pop("data")
    with pytest.raises(ValueError, match=message):
        hf.hamiltonian_score_discrepancy(force, data, jr.key(0), **arguments)


def test_features_must_be_known():
    with pytest.raises(TypeError, match="features"):
        hf.hamiltonian_score_discrepancy(pull(1), jnp.ones((100, 1)), jr.key(0), times=0.1, features=3)


def test_two_ways_to_find_the_predictor_are_refused():
    with pytest.raises(ValueError, match="features and predictor are two ways"):
        hf.hamiltonian_score_discrepancy(
            pull(1), jnp.ones((40, 1)), jr.key(0), features="linear", predictor=hf.ShortTimeVelocity(jnp.tanh)
        )


def test_data_outside_the_domain_are_refused():
    data = jr.uniform(jr.key(0), (400, 1), minval=-2.0, maxval=2.0)
    with pytest.raises(eqx.EquinoxRuntimeError, match="outside the Box that is their domain"):
        hf.hamiltonian_score_discrepancy(hf.ZeroPotential(), data, jr.key(1), times=0.05, domain=hf.Box(-1.0, 1.0))


def test_far_data_keep_their_digits():
    """N(100, s^2) and F = -(x - 100), in single precision: the same as around zero."""
    data = 100.0 + S * jr.normal(jr.key(0), (20_000, 1))
    found = hf.hamiltonian_score_discrepancy(lambda x: 100.0 - x, data, jr.key(1), times=0.1, features="linear")
    assert found.estimate == pytest.approx(exact(1, 0.1) / 0.01, abs=3 * found.standard_error)
    assert found.standard_error < 0.1


def test_what_is_printed_is_a_bound_and_says_where_it_is_none():
    data = S * jr.normal(jr.key(0), (2000, 1))
    near, far = (
        str(hf.hamiltonian_score_discrepancy(pull(1), data, jr.key(1), times=t, features="linear")) for t in (0.1, 1.7)
    )
    assert "E|F - score|^2 at least about" in near
    assert "E|F - score|^2" not in far
    assert "times reach 1.7 radians of the fastest swing" in far


def test_new_data_and_times_compile_nothing():
    from hamflow.objectives import discrepancy

    def run(seed, t):
        data = S * jr.normal(jr.key(seed), (400, 1))
        return hf.hamiltonian_score_discrepancy(pull(1), data, jr.key(1), times=t, features="linear")

    run(0, 0.1)
    before = discrepancy._ridge_values._cached._cache_size()
    assert run(1, 0.12).times[0] == 0.12
    assert discrepancy._ridge_values._cached._cache_size() == before
