"""Samplers: their orders with an exact predictor, formulas by hand, the laws they keep, and where they do not hold."""

import itertools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from oracles import reflection_velocity
from scipy import integrate, special
from systems import array, spd

import hamflow as hf

KEY = jr.key(0)
MEANS, STDS, WEIGHTS = np.array([-2.0, 2.0]), np.array([1.0, 1.0]), np.array([0.4, 0.6])
FLOWS = {
    "oscillation": lambda: hf.oscillation(),
    "flow matching": hf.flow_matching,
    "diffusion": lambda: hf.diffusion(horizon=20.0, data_std=2.0),
}


def mixture():
    return hf.GaussianMixturePotential(jnp.asarray(MEANS, float), jnp.asarray(STDS, float), jnp.asarray(WEIGHTS, float))


def first(flow, key, n):
    return np.stack([np.asarray(flow.prior.sample(jr.fold_in(key, i), ())) for i in range(n)])


@pytest.fixture(scope="module")
def way():
    """A diffusion with its exact velocity, where 16 rows start and where diffrax takes them: data are left at its
    horizon, so no step is of lower order there; the last one, from sigma = .002, is worth 1e-6."""
    with jax.enable_x64(True):
        flow = FLOWS["diffusion"]()
        predictor = hf.MixtureVelocity(mixture(), flow)
        start = jnp.asarray(first(flow, KEY, 16))
        exact = hf.generate(predictor, flow, KEY, (16,), 400, diffrax.Dopri5(), start=start)
    return predictor, flow, start, exact


def error_of(way, sampler, n):
    predictor, flow, start, exact = way
    return float(jnp.sqrt(jnp.mean((hf.generate(predictor, flow, KEY, (16,), n, sampler, start=start) - exact) ** 2)))


ORDERS = [(hf.Euler(), 1), (hf.DDIM(), 1), (hf.Heun(), 2), (hf.DPMSolver2M(), 2), (hf.UniPC(2), 2), (hf.UniPC(), 3)]


@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=str)
def test_order(way, sampler, order, x64):
    errors = [error_of(way, sampler, n) for n in (40, 80, 160)]
    np.testing.assert_allclose(np.log2(errors[:-1]) - np.log2(errors[1:]), order, atol=0.3)


def test_dpm_solver_beats_heun_at_equal_evaluations(way, x64):
    """40 evaluations: 40 steps of the one, 20 and a half of the other."""
    error = [error_of(way, *case) for case in ((hf.DPMSolver2M(), 40), (hf.Heun(), 20), (hf.DDIM(), 40))]
    assert error[0] < error[1] < error[2]


def test_heun_is_what_generate_does_by_itself():
    flow = hf.oscillation(1.3)
    predictor = hf.MixtureVelocity(mixture(), flow)
    np.testing.assert_array_equal(
        hf.generate(predictor, flow, KEY, (5,), 7), hf.generate(predictor, flow, KEY, (5,), 7, hf.Heun())
    )


def curved(t, x, condition=None, key=None):
    return jnp.sin(3 * x) + t * x - 0.3


def test_ddim_turns_the_phase_point(x64):
    """x_s = cos(w d) x - sin(w d) V / w (THEORY 4), in numpy."""
    w, n = 1.7, 5
    flow = hf.oscillation(w)
    x, times = first(flow, KEY, 3), np.asarray(hf.rho_grid(flow, n))
    for t, s in itertools.pairwise(times):
        velocity = np.sin(3 * x) + t * x - 0.3
        x = np.cos(w * (t - s)) * x - np.sin(w * (t - s)) * velocity / w
    np.testing.assert_allclose(hf.generate(curved, flow, KEY, (3,), n, hf.DDIM()), x, rtol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_dpm_solver_by_hand(name, x64):
    """The formula of THEORY 4 in numpy, with a, b written out."""
    flow, n = FLOWS[name](), 6
    a_of, b_of = {
        "oscillation": (np.cos, np.sin),
        "flow matching": (lambda t: 1 - t, lambda t: t),
        "diffusion": (lambda t: 1.0 + 0 * t, lambda t: t),
    }[name]
    a_dot, b_dot = {
        "oscillation": (lambda t: -np.sin(t), np.cos),
        "flow matching": (lambda t: -1.0, lambda t: 1.0),
        "diffusion": (lambda t: 0.0, lambda t: 1.0),
    }[name]
    x, times, before, h_before = first(flow, KEY, 3), np.asarray(hf.rho_grid(flow, n)), None, None
    for t, s in itertools.pairwise(times):
        v = np.sin(3 * x) + t * x - 0.3
        w = a_of(t) * b_dot(t) - a_dot(t) * b_of(t)
        d = (b_dot(t) * x - b_of(t) * v) / w
        guess, empty = d, a_of(t) < 1e-9
        if s > 0 and not empty:
            h = np.log(a_of(s) / b_of(s)) - np.log(a_of(t) / b_of(t))
            if h_before is not None:
                guess = d + h / (2 * h_before) * (d - before)
            h_before = h
        ratio = b_of(s) / b_of(t)
        x = ratio * x + (a_of(s) - a_of(t) * ratio) * guess
        before = d
    np.testing.assert_allclose(hf.generate(curved, flow, KEY, (3,), n, hf.DPMSolver2M()), x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("order", [2, 3])
def test_unipc_by_quadrature(order, x64):
    """The integral of e^l times Lagrange's polynomial through the known D, by scipy; here l = -log t."""
    flow, n = FLOWS["diffusion"](), 5
    times = np.asarray(hf.rho_grid(flow, n))

    def denoised(t, x):
        return x - t * (np.sin(3 * x) + t * x - 0.3)

    def gained(l0, l1, nodes, values):
        """int e^l D dl, D through (nodes, values)."""
        polynomial = np.polyfit(np.array(nodes) - l0, values, len(nodes) - 1)
        return integrate.quad(lambda level: np.exp(level) * np.polyval(polynomial, level - l0), l0, l1, epsabs=1e-12)[0]

    def walk(x):
        levels, seen, corrected = [], [], x
        for t, s in itertools.pairwise(times):
            level, d = -np.log(t), denoised(t, x)
            if seen:
                known = order - 1  # earlier values that a correction uses
                nodes, values = ([*levels[-known:], level], [*seen[-known:], d])
                corrected = t * (corrected * np.exp(levels[-1]) + gained(levels[-1], level, nodes, values))
            levels, seen = [*levels, level], [*seen, d]
            if s == 0:
                return d
            nodes, values = levels[-(order - 1) :], seen[-(order - 1) :]
            x = s * (corrected / t + gained(level, -np.log(s), nodes, values))

    start = first(flow, KEY, 3)
    expected = [walk(x) for x in start]
    np.testing.assert_allclose(hf.generate(curved, flow, KEY, (3,), n, hf.UniPC(order)), expected, rtol=1e-7)


def test_unipc_starts_where_no_data_are_left(x64):
    """From a = 0 the error goes on falling, by more than 2^2.5 a doubling: no step of fixed length of first order."""
    flow = FLOWS["oscillation"]()
    predictor, start = hf.MixtureVelocity(mixture(), flow), jnp.asarray(first(flow, KEY, 16))
    exact = hf.generate(predictor, flow, KEY, (16,), start=start, tolerance=1e-10)
    errors = [
        jnp.sqrt(jnp.mean((hf.generate(predictor, flow, KEY, (16,), n, hf.UniPC(), start=start) - exact) ** 2))
        for n in (40, 80, 160)
    ]
    assert errors[0] > 5.6 * errors[1] > 5.6**2 * errors[2]


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_steps_chosen_by_a_tolerance(name, tolerance, x64):
    """Against 400 steps of order 8; the error of a path is a few errors of a step."""
    flow = FLOWS[name]()
    predictor, start = hf.MixtureVelocity(mixture(), flow), jnp.asarray(first(flow, KEY, 6))
    exact = hf.generate(predictor, flow, KEY, (6,), 400, diffrax.Dopri8(), start=start)
    for solver in (None, diffrax.Dopri5()):
        found = hf.generate(predictor, flow, KEY, (6,), solver=solver, start=start, tolerance=tolerance)
        np.testing.assert_allclose(found, exact, atol=30 * tolerance)


def test_a_tolerance_in_a_box():
    """All but rows from the ridge between the modes, where a path's error grows without bound."""
    law = hf.GaussianMixturePotential(array([0.5], [-0.4]), array(0.15, 0.1), array(0.4, 0.6))
    found = hf.generate(reflection_velocity(law), hf.reflection(), jr.key(1), (500, 1), tolerance=1e-4)
    grid = hf.generate(reflection_velocity(law), hf.reflection(), jr.key(1), (500, 1), 200)
    assert float(jnp.max(jnp.abs(found))) <= 1.0
    assert np.quantile(np.abs(found - grid), 0.95) < 30 * 1e-4


# -- noise on the way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler", [hf.ReverseSDE(), hf.ReverseSDE(0.4), hf.Churn(40.0), hf.Churn(20.0, 0.05, 5.0)], ids=str
)
@pytest.mark.parametrize("name", FLOWS)
def test_noise_keeps_the_law(name, sampler):
    """3,000 draws with the exact velocity: Kolmogorov-Smirnov below .0356 + .015 for the steps (alarm 1e-3)."""
    flow = FLOWS[name]()
    predictor, n = hf.MixtureVelocity(mixture(), flow), 3000
    steps = 120 if isinstance(sampler, hf.ReverseSDE) else 40
    found = np.asarray(hf.generate(predictor, flow, jr.key(1), (n,), steps, sampler), float)

    def law(x):
        return WEIGHTS @ special.ndtr((x[None] - MEANS[:, None]) / STDS[:, None])

    assert scipy.stats.kstest(found, law).statistic < 1.95 / n**0.5 + 0.015
    plain = np.asarray(hf.generate(predictor, flow, jr.key(1), (n,), steps), float)
    assert np.std(found - plain) > 0.1  # and the same noise at the horizon ends elsewhere


def test_the_reverse_sde_in_a_box():
    law = hf.GaussianMixturePotential(array([0.5], [-0.4]), array(0.15, 0.1), array(0.4, 0.6))
    found = hf.generate(reflection_velocity(law), hf.reflection(), jr.key(1), (3000, 1), 120, hf.ReverseSDE())
    exact = jax.vmap(lambda k: law.sample(k, (1,)))(jr.split(jr.key(2), 20_000))
    assert float(jnp.max(jnp.abs(found))) <= 1.0
    test = scipy.stats.ks_2samp(np.asarray(found)[:, 0], np.asarray(exact)[:, 0])
    assert test.statistic < 1.95 * (1 / 3000 + 1 / 20_000) ** 0.5 + 0.015


def test_without_noise_they_are_the_plain_methods():
    flow = hf.flow_matching()
    predictor = hf.MixtureVelocity(mixture(), flow)
    for sampler, plain in ((hf.ReverseSDE(0.0), hf.Euler()), (hf.Churn(0.0), hf.Heun())):
        np.testing.assert_allclose(
            hf.generate(predictor, flow, KEY, (5,), 9, sampler),
            hf.generate(predictor, flow, KEY, (5,), 9, plain),
            atol=1e-5,
        )


@pytest.mark.parametrize("sampler", [hf.ReverseSDE(), hf.Churn(), hf.DPMSolver2M(), hf.UniPC()], ids=type)
def test_rows_depend_on_their_keys_alone(sampler):
    flow = hf.oscillation()
    predictor = hf.MixtureVelocity(mixture(), flow)
    whole = hf.generate(predictor, flow, KEY, (6,), 6, sampler)
    np.testing.assert_allclose(hf.generate(predictor, flow, KEY, (2,), 6, sampler), whole[:2], rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.asarray(whole))) == 6


def test_one_value_a_coordinate_and_matrices(x64):
    """A whitened oscillation: DDIM turns every mode alike, with variances and with a matrix."""
    x = jr.normal(jr.key(3), (2, 2))
    for covariance in (array(0.5, 2.0), spd()):
        flow = hf.whitened_oscillation(covariance)
        found = hf.generate(lambda t, x, c, k: 0.3 * x, flow, KEY, (2, 2), 3, hf.DDIM(), start=x)
        expected, times = np.asarray(x), np.asarray(hf.rho_grid(flow, 3))
        for d in times[:-1] - times[1:]:
            expected = np.cos(d) * expected - np.sin(d) * 0.3 * expected
        np.testing.assert_allclose(found, expected, rtol=1e-8)


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_flows_that_do_not_fit_are_refused():
    for sampler in (hf.DDIM(), hf.DPMSolver2M(), hf.UniPC(), hf.Churn()):
        with pytest.raises(ValueError, match=rf"{type(sampler).__name__} needs a linear flow"):
            hf.generate(curved, hf.reflection(), KEY, (2,), 3, sampler)
    stepped = hf.Flow(
        hf.Hamiltonian(hf.QuarticPotential(1.0), hf.GaussianKinetic()),
        hf.IndependentCoupling(),
        1.0,
        hf.NormalPrior(),
        hf.Leapfrog(step_size=0.1),
    )
    with pytest.raises(ValueError, match="ReverseSDE needs a linear flow"):
        hf.generate(curved, stepped, KEY, (2,), 3, hf.ReverseSDE())
    free = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic(spd()))
    dense_diffusion = hf.Flow(free, hf.IndependentCoupling(), 1.0, hf.NormalPrior())
    with pytest.raises(ValueError, match="those of this flow are matrices"):
        hf.generate(curved, dense_diffusion, KEY, (2, 2), 3, hf.ReverseSDE())
    matrices = hf.whitened_oscillation(spd())
    for sampler in (hf.DPMSolver2M(), hf.UniPC(), hf.ReverseSDE(), hf.Churn()):
        with pytest.raises(ValueError, match="those of this flow are matrices"):
            hf.generate(curved, matrices, KEY, (2, 2), 3, sampler)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="strength must not be negative"):
        hf.ReverseSDE(-1.0)
    with pytest.raises(ValueError, match="amount must not be negative"):
        hf.Churn(-1.0)
    with pytest.raises(ValueError, match="split or stochastic"):
        hf.generate(curved, hf.oscillation(), KEY, (2,), 3, diffrax.SemiImplicitEuler())


def test_a_tolerance_that_does_not_fit_is_refused():
    flow = hf.oscillation()

    def generate(**arguments):
        return hf.generate(curved, flow, KEY, (2,), **arguments)

    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        generate(tolerance=0.0)
    with pytest.raises(ValueError, match="times are given and a tolerance"):
        generate(tolerance=1e-3, times=hf.uniform_grid(flow, 3))
    for solver in (hf.Heun(), diffrax.Euler()):
        with pytest.raises(ValueError, match=f"solver {type(solver).__name__} cannot choose its steps"):
            generate(tolerance=1e-3, solver=solver)
    with pytest.raises(eqx.EquinoxRuntimeError, match="or the predictor returns NaN"):
        hf.generate(lambda t, x, c, k: jnp.nan * x, flow, KEY, (2,), tolerance=1e-3)
    with pytest.raises(TypeError):
        hf.UniPC(4)
