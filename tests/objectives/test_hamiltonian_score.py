"""Hamiltonian score matching: the gradients of both players, where it rests, and that it learns scores."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import hamflow as hf
from hamflow.objectives.boltzmann import ShortTime

S, N = 0.5, 400_000
compiled_loss = eqx.filter_jit(hf.hamiltonian_score_matching_loss)  # where it is the value that is tested


class Pull(hf.AbstractForce):
    """F = -a x."""

    a: jax.Array

    def force(self, t, position):
        return -self.a.astype(position.dtype) * position


class Slope(eqx.Module):
    """V = k x."""

    k: jax.Array

    def __call__(self, t, x, condition=None, key=None):
        return self.k * x


def moments(a, t):
    """E[x_t v_t] and E[x_t^2] for N(0, S^2) and F = -a x (THEORY 3)."""
    w = math.sqrt(a)
    cross = math.sin(w * t) * math.cos(w * t) * (1 / w - w * S**2)
    return cross, S**2 * math.cos(w * t) ** 2 + math.sin(w * t) ** 2 / a


@pytest.fixture(scope="module")
def played():
    """Value and both gradients at a = 1, t = .5, V at its maximum, from forty parts of the data."""
    a, t = 1.0, 0.5
    cross, var = moments(a, t)
    players = (Pull(jnp.array(a)), Slope(jnp.array(cross / var)))

    def loss(players, data, key):
        return hf.hamiltonian_score_matching_loss(
            players[0], data, key, times=t, inner="network", predictor=players[1], integrator=hf.Suzuki4(), num_steps=2
        )

    data, keys = S * jr.normal(jr.key(0), (40, N // 40, 1)), jr.split(jr.key(1), 40)
    step = jax.jit(lambda g: eqx.filter_value_and_grad(loss)(players, *g))
    values, gradients = jax.lax.map(step, (data, keys))
    return tuple(np.asarray(v, float) for v in (values, gradients[0].a, gradients[1].k))


def within(parts, expected):
    """Four standard errors (alarm 6e-5)."""
    return abs(parts.mean() - expected) < 4 * parts.std(ddof=1) / len(parts) ** 0.5


def test_the_value_is_the_discrepancy(played):
    assert within(played[0], 0.235739 / 0.25)


def test_the_gradient_in_the_force_is_the_envelope_gradient(played):
    """-.201307 / t^2, by differences of the closed form too; |V|^2 alone would give -.040225 / t^2."""

    def closed(a):
        cross, var = moments(a, 0.5)
        return cross**2 / var

    assert (closed(1 + 1e-5) - closed(1 - 1e-5)) / 2e-5 == pytest.approx(-0.201307, abs=1e-6)
    assert within(played[1], -0.201307 / 0.25)
    assert not within(played[1], -0.040225 / 0.25)


def test_the_gradient_in_the_predictor_vanishes_at_the_maximum(played):
    assert within(played[2], 0.0)


def test_the_predictor_climbs_while_the_force_descends():
    """d/dk of -(2 k E[x v] - k^2 E[x^2]) / t^2, and no part of the force's gradient in it."""
    a, t, k = 1.0, 0.5, 0.9
    cross, var = moments(a, t)
    parts, keys = S * jr.normal(jr.key(0), (40, N // 40, 1)), jr.split(jr.key(1), 40)

    def loss(predictor, data, key):
        return hf.hamiltonian_score_matching_loss(
            Pull(jnp.array(a)), data, key, times=t, inner="network", predictor=predictor, integrator=hf.Suzuki4()
        )

    step = jax.jit(lambda g: eqx.filter_value_and_grad(loss)(Slope(jnp.array(k)), *g))
    values, gradients = jax.lax.map(step, (parts, keys))
    assert within(np.asarray(gradients.k, float), -(2 * cross - 2 * k * var) / t**2)
    assert within(np.asarray(values, float), (2 * k * cross - k**2 * var) / t**2)


DRIFT_FIRST = hf.Splitting((0.0, 1.0), (1.0,), 1)


@pytest.mark.parametrize(
    ("method", "rest"),
    [(hf.Leapfrog(), 4.0408), (hf.Suzuki4(), 4.0), (hf.Yoshida4(), 3.9995), (DRIFT_FIRST, 1 / 0.26)],
    ids=["leapfrog", "Suzuki4", "Yoshida4", "drift first"],
)
def test_where_it_rests(method, rest, x64):
    """The tied gradient, E[2 dF/da . v_t] / t, is zero at the fixed point of the steps: a (1 - a h^2/4) = 1/s^2 for
    leapfrog (THEORY 3: +.0102 at h = .1, Yoshida-4 -1.25e-4, Suzuki-4 -1.15e-5); E[(x + h p)(p - h a (x + h p))] = 0 at
    a = 1 / (s^2 + h^2) where the drift comes first. A linear force sees the second moments of the momenta alone."""
    data = S * np.random.default_rng(0).choice([-1.0, 1.0], (4, 1))  # the second moment of N(0, s^2) exactly
    data = jnp.asarray(data)

    @jax.jit
    def gradient(a):
        return eqx.filter_grad(
            lambda f: hf.hamiltonian_score_matching_loss(
                f, data, jr.key(0), times=0.1, inner="tied", momenta="signs", integrator=method
            )
        )(Pull(jnp.asarray(a, float))).a

    low, high = 3.7, 4.2
    assert gradient(low) < 0 < gradient(high)  # descent leads to the rest from both sides
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if gradient(middle) < 0 else (low, middle)
    assert low == pytest.approx(rest, abs=6e-5)


@pytest.mark.parametrize("mass", [1.0, 2.5, np.array([0.5, 2.0]), np.array([[1.0, 0.3], [0.3, 0.6]])])
def test_signs_have_the_covariance_of_the_momenta(mass):
    """Every draw is a corner of M^1/2 {-1, 1}^2, so p^T M^-1 p = 2 for all, and the mean of p p^T is M."""
    short = ShortTime(0.1, hf.GaussianKinetic(mass), hf.Euclidean(), hf.Leapfrog(), 1, "signs")
    pairs = np.asarray(jax.vmap(lambda k: short.momenta(jnp.zeros(2), k))(jr.split(jr.key(0), 4000)))
    np.testing.assert_array_equal(pairs[:, 0], -pairs[:, 1])
    p, matrix = pairs[:, 0], np.asarray(mass) * np.eye(2) if np.ndim(mass) < 2 else np.asarray(mass)
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", p, np.linalg.inv(matrix), p), 2.0, rtol=1e-5)
    # The only noise is in the cross term, a mean of 4000 signs: five standard errors.
    np.testing.assert_allclose(p.T @ p / len(p), matrix, atol=5 * 2.5 / len(p) ** 0.5)


def test_signs_take_the_noise_of_the_slices_out(x64):
    """A separable force has a diagonal Jacobian, which signs meet without noise: any key gives the same gradient, and
    normal momenta do not."""
    data = jnp.array([[0.3, -0.7]])

    def gradient(momenta, key):
        return eqx.filter_grad(lambda f: hf.hamiltonian_score_matching_loss(f, data, key, times=0.01, momenta=momenta))(
            Pull(jnp.array(2.0))
        ).a

    keys = jr.split(jr.key(0), 20)
    signs, normal = (np.asarray(jax.jit(jax.vmap(lambda k, m=m: gradient(m, k)))(keys)) for m in ("signs", "kinetic"))
    # d/da of E[|F|^2 + 2 div F] = 2 a |x|^2 - 4, at t -> 0; terms of order a t^2 (2 + |x|^2) remain
    np.testing.assert_allclose(signs, 2 * 2.0 * 0.58 - 4.0, atol=2e-3)
    assert normal.std() > 1.0


def test_what_signs_leave_over_vanishes_as_t_squared(x64):
    """At the true score of two humps, the gradient along another force is O(t^2), where exact momenta have zero."""
    humps = hf.GaussianMixturePotential(jnp.array([[-1.0], [1.0]]), jnp.array([0.5, 0.7]), jnp.array([0.4, 0.6]))
    grid = np.linspace(-6.0, 6.0, 4001)
    weight = np.exp([-float(u) for u in jax.vmap(lambda x: humps.energy(0.0, x[None]))(jnp.asarray(grid))])
    weight = weight / weight.sum()

    class Beside(hf.AbstractForce):
        size: jax.Array

        def force(self, t, position):
            return humps.force(t, position) + self.size * jnp.tanh(3.0 * position)

    def gradient(t):
        one = jax.vmap(  # each point alone, so that the law's weights can be given
            lambda x: (
                eqx.filter_grad(
                    lambda f: hf.hamiltonian_score_matching_loss(
                        f, x[None, None], jr.key(0), times=t, momenta="signs", integrator=hf.Suzuki4()
                    )
                )(Beside(jnp.array(0.0))).size
            )
        )
        return float(weight @ np.asarray(jax.jit(one)(jnp.asarray(grid))))

    left = [gradient(t) for t in (0.2, 0.1, 0.05)]
    assert abs(left[0]) > 1e-4  # there is something to vanish
    np.testing.assert_allclose([left[0] / left[1], left[1] / left[2]], 4.0, rtol=0.1)


COVARIANCE = np.array([[1.0, 0.5], [0.5, 0.6]])


def trained(loss, start, steps=400, lr=5e-2):
    root = jnp.asarray(np.linalg.cholesky(COVARIANCE), jnp.float32)
    optimizer = optax.adam(optax.cosine_decay_schedule(lr, steps))
    parameters, rest = eqx.partition(start, eqx.is_inexact_array)

    def step(carry, key):
        parameters, state = carry
        keys = jr.split(key)
        data = jr.normal(keys[0], (512, 2)) @ root.T
        gradient = jax.grad(lambda p: loss(eqx.combine(p, rest), data, keys[1]))(parameters)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(parameters, updates), state), None

    carry = (parameters, optimizer.init(parameters))
    with jax.numpy_dtype_promotion("standard"):  # optax counts in whole numbers
        carry, _ = jax.jit(lambda c: jax.lax.scan(step, c, jr.split(jr.key(2), steps)))(carry)
    return eqx.combine(carry[0], rest)


def linear(key):
    return eqx.nn.Linear(2, 2, use_bias=False, key=jr.key(key))


class Bowl(hf.AbstractPotential):
    """U = x^T A x / 2: a conservative score."""

    matrix: jax.Array

    def energy(self, t, position):
        return 0.5 * position @ (self.matrix @ position)


WAYS = {
    "tied": (lambda f, x, k: hf.hamiltonian_score_matching_loss(f, x, k, times=(0.05, 0.1)), lambda: linear(0)),
    "tied, an energy": (
        lambda f, x, k: hf.hamiltonian_score_matching_loss(f, x, k, times=0.1),
        lambda: Bowl(jnp.eye(2)),
    ),
    "network": (
        lambda m, x, k: hf.hamiltonian_score_matching_loss(
            m[0], x, k, times=0.1, inner="network", predictor=hf.ShortTimeVelocity(m[1])
        ),
        lambda: (linear(0), linear(1)),
    ),
    "gap": (
        lambda m, x, k: hf.hamiltonian_score_matching_loss(
            m[0], x, k, times=0.1, inner="network", predictor=hf.GapVelocity(m[0], m[1])
        ),
        lambda: (linear(0), linear(1)),
    ),
    "ridge": (
        lambda f, x, k: hf.hamiltonian_score_matching_loss(
            f, x, k, times=0.1, inner="ridge", features=hf.LinearFeatures()
        ),
        lambda: linear(0),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_learns_the_score_of_a_normal_law(way):
    """F = -C^-1 x, whatever way the maximum is found; leapfrog's own error is below one percent here."""
    loss, start = WAYS[way]
    model = trained(loss, start(), 2000 if way == "network" else 400)  # a game takes longer than a descent
    model = model[0] if isinstance(model, tuple) else model
    force = model.force if isinstance(model, hf.AbstractForce) else lambda t, x: model(x)
    found = jax.jacfwd(lambda x: force(0.0, x))(jnp.zeros(2))
    precision = np.linalg.inv(COVARIANCE)
    np.testing.assert_allclose(found, -precision, atol=0.08 * np.abs(precision).max())


def test_values_are_readable():
    """Tied: near E|F - score|^2 - E|score|^2; ridge: near E|F - score|^2."""
    data = S * jr.normal(jr.key(0), (100_000, 1))
    force = Pull(jnp.array(1.0))
    tied = compiled_loss(force, data, jr.key(1), times=0.02)
    assert tied == pytest.approx(2.25 - 4.0, rel=0.03)
    ridge = compiled_loss(force, data, jr.key(1), times=0.02, inner="ridge", features=hf.LinearFeatures())
    assert ridge == pytest.approx(2.25, rel=0.03)


def test_a_ridge_over_several_times():
    """One slope k for all times: the best is E[c/t] / E[var], worth E[c/t]^2 / E[var], the means over the times."""
    data, times, a = S * jr.normal(jr.key(0), (200_000, 1)), (0.02, 0.7), 1.0
    cross, var = np.mean([(moments(a, t)[0] / t, moments(a, t)[1]) for t in times], axis=0)
    found = compiled_loss(
        Pull(jnp.array(a)),
        data,
        jr.key(1),
        times=times,
        inner="ridge",
        features=hf.LinearFeatures(),
        penalty=0.0,
        integrator=hf.Suzuki4(),
    )
    assert found == pytest.approx(cross**2 / var, rel=0.02)


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize(
    "integrator",
    [hf.Leapfrog(), hf.SymplecticEuler(), hf.Yoshida4(), hf.Splitting((0.0, 1.0, 0.0), (0.5, 0.5), 2)],
    ids=["leapfrog", "Euler", "Yoshida4", "positions first"],
)
def test_forces_computed_once_are_those_of_the_motion(integrator, num_steps, x64):
    """The tied loss against the pairs that the other ways follow, with a mass and walls."""
    short = ShortTime((0.2, 0.5), hf.GaussianKinetic(0.7), hf.Box(-2.0, 2.0), integrator, num_steps)
    force = hf.QuarticPotential(1.3)
    data, keys = jr.uniform(jr.key(0), (6, 2), minval=-2.0, maxval=2.0), jr.split(jr.key(1), 6)
    t = short.pick(6, data.dtype)
    pairs = jax.vmap(lambda x, k, t: short.pair(force, x, k, t))(data, keys, t)
    ends, forces = short.ends_and_forces(force, data, keys, t)
    for found, expected in ((ends.position, pairs.position), (ends.momentum, pairs.momentum)):
        np.testing.assert_allclose(found.reshape(2, 6, 2), jnp.moveaxis(expected, 1, 0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(forces, -1.3 * ends.position**3, rtol=1e-12)


def test_pairs_take_the_noise_out():
    """The gain of a pair has the deviation |d| sqrt(8 + 2 (a s^2 + 1)^2), of a single momentum about 2 |d| s / t: for
    s = 1, a = 0, t = .01, 3.16 against 200 (THEORY 3). V = (F - score) t = t x is at its maximum."""
    data, t = jr.normal(jr.key(0), (20_000, 1)), 0.01

    def gain(x, key):
        return hf.hamiltonian_score_matching_loss(
            hf.ZeroPotential(), x[None], key, times=t, inner="network", predictor=hf.ShortTimeVelocity(lambda x: x)
        )

    gains = np.asarray(jax.jit(jax.vmap(gain))(data, jr.split(jr.key(1), len(data))))
    assert gains.std() == pytest.approx(math.sqrt(10.0), rel=0.1)
    assert gains.mean() == pytest.approx(1.0, abs=4 * float(gains.std()) / len(data) ** 0.5)


def test_pictures_in_any_precision(x64):
    for dtype in (jnp.float32, jnp.float64):
        data = jr.normal(jr.key(0), (6, 1, 2, 2), dtype)
        for options in (
            {},
            {"inner": "ridge", "features": hf.LinearFeatures()},
            {"inner": "network", "predictor": hf.ShortTimeVelocity(jnp.tanh)},
        ):
            loss = compiled_loss(hf.HarmonicPotential(1.2), data, jr.key(1), times=0.1, **options)
            assert loss.dtype == dtype
            assert jnp.isfinite(loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": jnp.zeros((0, 2))}, "data must hold at least 1 example, got 0"),
        ({"data": jnp.full((4, 2), jnp.inf)}, "data must be finite"),
        ({"times": 0.0}, "at t = 0 every force looks right"),
        ({"inner": "network"}, 'inner="network" needs predictor='),
        ({"inner": "ridge"}, 'inner="ridge" needs features='),
        ({"predictor": lambda t, x, c, k: x}, 'inner="tied" uses no predictor'),
        ({"inner": "network", "predictor": lambda t, x, c, k: x[:1]}, "must return one velocity"),
        ({"inner": "ridge", "features": hf.LinearFeatures(), "penalty": -1.0}, "penalty must not be negative"),
        ({"inner": "ridge", "features": hf.LinearFeatures(), "penalty": math.nan}, "penalty must not be negative"),
        ({"force": lambda x: x[:1]}, "a force has the position's shape"),
    ],
)
def test_bad_input(options, message):
    arguments = {"force": hf.HarmonicPotential(1.0), "data": jnp.ones((4, 2)), "times": 0.1, **options}
    force, data = arguments.pop("force"), arguments.pop("data")
    with pytest.raises(ValueError, match=message):
        hf.hamiltonian_score_matching_loss(force, data, jr.key(0), **arguments)


def test_a_time_beyond_the_stability_of_the_step_is_reported():
    with pytest.raises(eqx.EquinoxRuntimeError, match="times are beyond a quarter of a swing"):
        hf.hamiltonian_score_matching_loss(
            hf.QuarticPotential(1e6), jnp.full((4, 2), 3.0), jr.key(0), times=5.0, num_steps=20
        )


def test_signs_need_a_quadratic_kinetic_energy():
    with pytest.raises(TypeError, match='momenta="signs" have the covariance of a GaussianKinetic'):
        hf.hamiltonian_score_matching_loss(
            hf.HarmonicPotential(1.0),
            jnp.ones((4, 2)),
            jr.key(0),
            times=0.1,
            momenta="signs",
            kinetic=hf.RelativisticKinetic(),
        )


def test_a_score_that_is_no_score():
    for score, message in ((hf.HarmonicPotential, "is the class HarmonicPotential"), (3.0, "parameter 'force'")):
        with pytest.raises(TypeError, match=message):
            hf.hamiltonian_score_matching_loss(score, jnp.ones((4, 2)), jr.key(0), times=0.1)


@pytest.mark.parametrize("inner", ["tied", "ridge", "network"])
def test_long_times_and_data_outside_are_reported(inner):
    """F = -4 x at t = 3 stays finite under one step of leapfrog, h w = 6, and yet nothing of it is right."""
    ways = {"ridge": {"features": hf.LinearFeatures()}, "network": {"predictor": hf.ShortTimeVelocity(jnp.tanh)}}
    options = {"inner": inner, **ways.get(inner, {})}
    with pytest.raises(eqx.EquinoxRuntimeError, match="times are beyond a quarter of a swing"):
        hf.hamiltonian_score_matching_loss(pull(4.0), jnp.ones((9, 2)), jr.key(0), times=3.0, **options)
    for domain in (hf.Box(-1.0, 1.0), hf.Torus(-1.0, 1.0)):
        with pytest.raises(eqx.EquinoxRuntimeError, match=f"outside the {type(domain).__name__} that is their domain"):
            hf.hamiltonian_score_matching_loss(
                pull(1.0), jnp.full((4, 2), 1.5), jr.key(0), times=0.1, domain=domain, **options
            )


def pull(a):
    return Pull(jnp.array(a))


def test_several_times_as_an_array():
    data = jr.normal(jr.key(0), (6, 2))
    losses = [
        hf.hamiltonian_score_matching_loss(pull(1.0), data, jr.key(1), times=times)
        for times in ([0.1, 0.2], (0.1, 0.2), np.array([0.1, 0.2]), jnp.array([0.1, 0.2]))
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("kinetic", "matrix"),
    [
        (hf.GaussianKinetic(4.0), np.eye(2) / 4),
        (hf.GaussianKinetic(np.array([[1.0, 0.3], [0.3, 0.6]])), np.linalg.inv([[1.0, 0.3], [0.3, 0.6]])),
        (hf.RelativisticKinetic(1.0, 2.0), None),
    ],
    ids=["number", "matrix", "relativistic"],
)
def test_the_tied_value_with_a_mass(kinetic, matrix):
    """(F - s) . M (F - s) - s . M s on average, M = E[v v^T]: least at the score, s = -4 x for N(0, 1/4)."""
    data = S * jr.normal(jr.key(0), (100_000, 2))
    if matrix is None:
        momenta = jax.vmap(lambda k: kinetic.sample(k, (2,)))(jr.split(jr.key(5), 100_000))
        velocities = np.asarray(jax.vmap(kinetic.velocity)(momenta), float)
        matrix = velocities.T @ velocities / len(velocities)
    found = [float(compiled_loss(pull(a), data, jr.key(1), times=0.02, kinetic=kinetic)) for a in (2.0, 4.0, 8.0)]
    expected = [((a - 4.0) ** 2 - 16.0) * S**2 * np.trace(matrix) for a in (2.0, 4.0, 8.0)]
    # Six data sets had a deviation of .018 of expected[1] at a = 8: four of them (alarm 6e-5).
    np.testing.assert_allclose(found, expected, atol=0.072 * abs(expected[1]))


def test_the_order_of_a_batch_does_not_matter():
    """Sorted data: the ridge is fitted on one half and valued on the other, which must not be left and right."""
    data = jnp.sort(S * jr.normal(jr.key(0), (100_000, 1)), axis=0)
    ridge = compiled_loss(pull(1.0), data, jr.key(1), times=0.02, inner="ridge", features=hf.LinearFeatures())
    assert ridge == pytest.approx(2.25, rel=0.03)
