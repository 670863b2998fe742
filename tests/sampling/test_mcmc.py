"""HMC and NUTS through blackjax: the laws they sample, and that they are blackjax's own.

Every chain starts far from the law and gives one draw, so draws are independent and a Kolmogorov-Smirnov test is exact.
Keys are fixed; each test raises a false alarm with a probability below 1e-4.
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import scipy.stats
from systems import array, spd

import hamflow as hf

blackjax = pytest.importorskip("blackjax")
FALSE_ALARM = 1e-4


@pytest.fixture(autouse=True)
def blackjax_promotes():
    """blackjax adds integers to floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def ends(algorithm, start, transitions, seed=0):
    """The last position of one chain a row of `start`, and the mean acceptance."""

    def chain(key, position):
        def step(state, key):
            state, info = algorithm.step(key, state)
            return state, info.acceptance_rate

        state, rates = jax.lax.scan(step, algorithm.init(position), jr.split(key, transitions))
        return state.position, jnp.mean(rates)

    positions, rates = jax.jit(jax.vmap(chain))(jr.split(jr.key(seed), len(start)), start)
    return np.asarray(positions, float).reshape(len(start), -1), float(jnp.mean(rates))


def directions(dimension, count=6):
    raw = np.random.default_rng(7).normal(size=(count, dimension))
    return np.concatenate([np.eye(dimension), raw / np.linalg.norm(raw, axis=1, keepdims=True)])


def gaussian_misfit(draws, covariance):
    """The smallest p-value of the projections, times their number."""
    along = directions(draws.shape[1])
    spread = np.sqrt(np.einsum("id,de,ie->i", along, covariance, along))
    p_values = [scipy.stats.kstest(draws @ a / s, "norm").pvalue for a, s in zip(along, spread, strict=True)]
    return min(p_values) * len(p_values)


def two_sample_misfit(draws, exact):
    along = directions(draws.shape[1])
    return min(scipy.stats.ks_2samp(draws @ a, exact @ a).pvalue for a in along) * len(along)


def correlated(dimension=5):
    """U = |F x|^2 / 2, whose law is N(0, (F^T F)^-1)."""
    factor = np.eye(dimension) + 0.4 * np.random.default_rng(3).normal(size=(dimension, dimension))
    return hf.HarmonicPotential(jnp.asarray(factor, float)), np.linalg.inv(factor.T @ factor)


def overlapping():
    return hf.GaussianMixturePotential(array([-1.0, 0.3], [1.2, -0.4]), array(0.7, 1.0), array(0.4, 0.6))


MASSES = {
    "number": lambda: hf.GaussianKinetic(2.0),
    "diagonal": lambda: hf.GaussianKinetic(jnp.linspace(0.5, 2.0, 5)),
    "matrix": lambda: hf.GaussianKinetic(jnp.linalg.inv(jnp.asarray(correlated()[1], float))),
    "relativistic": lambda: hf.RelativisticKinetic(1.0, 3.0),
    "student-t": lambda: hf.StudentTKinetic(12.0, 1.5),  # |p| < 6.1: a step that leaves is rejected
}


@pytest.mark.parametrize("name", MASSES)
def test_hmc_samples_a_correlated_gaussian(name):
    potential, covariance = correlated()
    start = jnp.full((2000, 5), 3.0)
    # A path of fixed length must not be half a period of any direction, or that one never forgets its start: with a
    # number for a mass and these steps, a transition keeps .14 to .89 of it (by the leapfrog's angle, arccos(1 -
    # (h w)^2 / 2) a step, for w = 2.27, 1.79, 1.28, .84 and .32).
    step_size, num_steps = (0.2 * 2.0**0.5, 10) if name == "number" else (0.2, 9)
    algorithm = hf.to_blackjax(potential, MASSES[name]()).hmc(step_size, num_steps)
    draws, rate = ends(algorithm, start, 60)
    assert 0.6 < rate <= 1.0
    assert gaussian_misfit(draws, covariance) > FALSE_ALARM


@pytest.mark.parametrize("name", ["number", "matrix", "relativistic", "student-t"])
def test_nuts_samples_a_correlated_gaussian(name):
    potential, covariance = correlated()
    algorithm = hf.to_blackjax(potential, MASSES[name]()).nuts(0.3, max_num_doublings=5)
    draws, rate = ends(algorithm, jnp.full((500, 5), 2.0), 20)
    assert 0.6 < rate <= 1.0
    assert gaussian_misfit(draws, covariance) > FALSE_ALARM


@pytest.mark.parametrize("sampler", ["hmc", "nuts"])
def test_a_mixture_against_exact_samples(sampler):
    mixture = overlapping()
    target = hf.to_blackjax(mixture)
    algorithm = target.hmc(0.3, 7) if sampler == "hmc" else target.nuts(0.3, max_num_doublings=5)
    draws, _ = ends(algorithm, jnp.full((2000, 2), -2.0), 40 if sampler == "hmc" else 20)
    exact = np.asarray(jax.vmap(lambda k: mixture.sample(k, (2,)))(jr.split(jr.key(11), 20000)), float)
    assert two_sample_misfit(draws, exact) > FALSE_ALARM
    # It can fail: a few transitions from the start are not enough, and one component is not the mixture.
    assert two_sample_misfit(ends(target.hmc(0.1, 1), jnp.full((2000, 2), -2.0), 3)[0], exact) < FALSE_ALARM


class Bumps(hf.AbstractPotential):
    """U = |x|^2 / 2 - w . features: an energy that grows far out, whatever was learned."""

    weights: jax.Array
    centres: jax.Array

    def energy(self, t, position):
        squares = jnp.sum((position[None] - jax.lax.stop_gradient(self.centres)) ** 2, axis=1)
        return 0.5 * jnp.sum(position**2) - self.weights @ jnp.exp(-0.5 * squares)


@pytest.fixture(scope="module")
def learned():
    """An energy learned by Hamiltonian score matching from 20,000 draws of the mixture, and the draws."""
    mixture = overlapping()
    data = jax.vmap(lambda k: mixture.sample(k, (2,)))(jr.split(jr.key(21), 20_000))
    side = jnp.linspace(-3.5, 3.5, 8)
    start = Bumps(jnp.zeros(64), jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2))
    adam = optax.adam(optax.cosine_decay_schedule(5e-2, 1500))

    def step(carry, key):
        weights, state = carry
        rows, momenta = jr.split(key)
        x = data[jr.randint(rows, (256,), 0, len(data))]

        def loss(weights):
            force = eqx.tree_at(lambda p: p.weights, start, weights)
            return hf.hamiltonian_score_matching_loss(force, x, momenta, times=0.1)

        updates, state = adam.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    carry = (start.weights, adam.init(start.weights))
    with jax.numpy_dtype_promotion("standard"):  # optax counts in whole numbers
        (weights, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, jr.split(jr.key(22), 1500)))(carry)
    return start, eqx.tree_at(lambda p: p.weights, start, weights), np.asarray(data, float)


def test_hmc_with_a_learned_energy_draws_the_data(learned):
    """Chains that start in a corner end as the data are, and do not where nothing was learned."""
    start, energy, data = learned
    corner = jnp.full((1000, 2), -2.0)
    draws, rate = ends(hf.to_blackjax(energy).hmc(0.3, 7), corner, 40)
    assert 0.6 < rate <= 1.0
    assert two_sample_misfit(draws, data) > FALSE_ALARM
    unlearned, _ = ends(hf.to_blackjax(start).hmc(0.3, 7), corner, 40)
    assert two_sample_misfit(unlearned, data) < FALSE_ALARM


@pytest.mark.parametrize("sampler", ["hmc", "nuts"])
def test_pictures_with_a_matrix_for_a_mass(sampler):
    """Positions keep their shape, whatever blackjax flattens inside."""
    shape = (2, 1, 2)
    covariance = np.diag([0.5, 1.0, 1.5, 2.0]) + 0.3
    # Of (2, 1, 2), the potential and the mass read the same matrix.
    precision = jnp.asarray(np.linalg.inv(covariance), float).reshape(shape + shape)
    root = jnp.linalg.cholesky(precision.reshape(4, 4)).T.reshape(shape + shape)
    target = hf.to_blackjax(hf.HarmonicPotential(root), hf.GaussianKinetic(precision))
    algorithm = target.hmc(0.3, 5) if sampler == "hmc" else target.nuts(0.5, max_num_doublings=4)
    state, _ = algorithm.step(jr.key(0), algorithm.init(jnp.ones(shape)))
    assert state.position.shape == shape
    draws, _ = ends(algorithm, jnp.ones((600, *shape)), 15)
    assert gaussian_misfit(draws, covariance) > FALSE_ALARM


@pytest.mark.parametrize("mass", [1.7, (0.5, 2.0)])
def test_the_same_chain_as_a_log_density_by_hand(mass, x64):
    """State for state and acceptance for acceptance: the momenta take the same noise, so this is no statistics."""

    def by_hand(x):
        means, stds = array([-1.0, 0.3], [1.2, -0.4]), array(0.7, 1.0)
        squares = jnp.sum((x[None] - means) ** 2, axis=1) / stds**2
        return jax.nn.logsumexp(jnp.log(array(0.4, 0.6)) - 0.5 * squares - 2 * jnp.log(stds))

    kinetic = hf.GaussianKinetic(mass if isinstance(mass, float) else array(*mass))
    target = hf.to_blackjax(overlapping(), kinetic)
    inverse = 1.0 / np.broadcast_to(mass, 2)
    for ours, theirs in (
        (target.hmc(0.6, 4), blackjax.hmc(by_hand, 0.6, jnp.asarray(inverse), 4)),
        (target.nuts(0.6), blackjax.nuts(by_hand, 0.6, jnp.asarray(inverse))),
    ):
        states = [algorithm.init(array(0.4, -0.2)) for algorithm in (ours, theirs)]
        steps = [jax.jit(algorithm.step) for algorithm in (ours, theirs)]
        for i in range(20):
            (mine, my_info), (other, info) = (
                step(jr.fold_in(jr.key(1), i), state) for step, state in zip(steps, states, strict=True)
            )
            np.testing.assert_allclose(mine.position, other.position, atol=1e-10)
            assert float(my_info.acceptance_rate) == pytest.approx(float(info.acceptance_rate), abs=1e-10)
            states = [mine, other]
        assert float(jnp.max(jnp.abs(states[0].position - array(0.4, -0.2)))) > 0.1


def test_the_metric_is_the_kinetic_energy(x64):
    """Energy, its gradient, turning with flattened momenta, and the scale of the mass, by hand."""
    kinetic, p, x = hf.GaussianKinetic(spd()), array(0.7, -1.3), jnp.zeros(2)
    metric = hf.to_blackjax(overlapping(), kinetic).metric
    inverse = np.linalg.inv(spd())
    assert float(metric.kinetic_energy(p)) == pytest.approx(0.5 * np.asarray(p) @ inverse @ np.asarray(p), rel=1e-13)
    np.testing.assert_allclose(jax.grad(metric.kinetic_energy)(p), inverse @ np.asarray(p), rtol=1e-12)
    forth, back = array(1.0, 0.0), array(-1.0, 0.0)
    assert not metric.check_turning(forth, forth, 3.0 * forth)
    assert metric.check_turning(forth, back, 0.5 * forth)
    root = np.linalg.cholesky(spd())
    for inv, trans in ((False, False), (True, False), (False, True), (True, True)):
        expected = np.linalg.inv(root) if inv else root
        expected = (expected.T if trans else expected) @ np.asarray(p)
        np.testing.assert_allclose(metric.scale(x, p, inv=inv, trans=trans), expected, rtol=1e-12)
    with pytest.raises(NotImplementedError, match="use GaussianKinetic"):
        hf.to_blackjax(overlapping(), hf.RelativisticKinetic()).metric.scale(x, p, inv=True, trans=False)


def test_the_time_of_the_potential(x64):
    from own_systems import Driven  # U = -s sin(t) sum(x)

    logdensity = hf.to_blackjax(Driven(0.7), t=0.9).logdensity_fn
    assert float(logdensity(array(0.4, -0.9))) == pytest.approx(0.7 * np.sin(0.9) * -0.5)


# -- what does not fit -----------------------------------------------------------------------------------------------


class Bare(hf.AbstractForce):
    def force(self, t, position):
        return -position


def test_a_bare_force_is_refused():
    for call in (lambda: hf.to_blackjax(Bare()), lambda: hf.to_blackjax(potential=Bare())):
        with pytest.raises(TypeError, match=r"accept or reject by an energy.*hamflow\.langevin.*ForcedSystem"):
            call()
    with pytest.raises(TypeError, match="potential"):
        hf.to_blackjax(lambda x: 0.0)


def test_a_mass_of_another_shape_is_refused():
    algorithm = hf.to_blackjax(overlapping(), hf.GaussianKinetic(jnp.ones(3))).hmc(0.1, 2)
    with pytest.raises(ValueError, match="mass has shape"):
        algorithm.step(jr.key(0), algorithm.init(jnp.zeros(2)))


def test_without_blackjax_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(ImportError, match=r"pip install blackjax, or hamflow\[mcmc\]"):
        hf.to_blackjax(overlapping())
