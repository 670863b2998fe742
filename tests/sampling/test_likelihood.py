"""Likelihood: densities that are known, the volume they enclose, the law of Hutchinson's estimate, and its refusals."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
from oracles import reflection_velocity
from systems import array

import hamflow as hf
from hamflow.sampling.velocity_field import solve_on_grid
from hamflow.sampling.volume_change import change_on_grid, with_divergence


def centred_mixture():
    """In the plane, of mean zero, correlated across coordinates."""
    means = array([1.0, 0.5], [-0.6, -0.3])
    return hf.GaussianMixturePotential(means, array(0.3, 0.5), array(0.375, 0.625))


FLOWS = {
    "diffusion": lambda: hf.diffusion(data_std=1.0),
    "flow matching": hf.flow_matching,
    "oscillation": lambda: hf.oscillation(1.3),
    "whitened oscillation": lambda: hf.whitened_oscillation(array(0.6, 0.3)),
}


@pytest.fixture(scope="module")
def points():
    mixture = centred_mixture()
    return jax.vmap(lambda k: mixture.sample(k, (2,)))(jr.split(jr.key(1), 12))


@pytest.mark.parametrize("name", FLOWS)
def test_the_density_of_a_mixture(name, points):
    """Within 1e-3 nats for every recipe, in single precision."""
    mixture, flow = centred_mixture(), FLOWS[name]()
    found = hf.log_likelihood(hf.MixtureVelocity(mixture, flow), flow, points)
    assert found.dtype == points.dtype
    np.testing.assert_allclose(found, jax.vmap(mixture.log_prob)(points), atol=1e-3)


def test_the_density_in_a_box():
    """The prior is uniform to 1.5e-5 (THEORY 4, mode 1 at T = 3, L = 2); the velocity is that with mirror images."""
    mixture = hf.GaussianMixturePotential(array([0.5, -0.2], [-0.4, 0.3]), array(0.15, 0.1), array(0.5, 0.5))
    x = jax.vmap(lambda k: mixture.sample(k, (2,)))(jr.split(jr.key(2), 6))
    found = hf.log_likelihood(reflection_velocity(mixture), hf.reflection(), x)
    np.testing.assert_allclose(found, jax.vmap(mixture.log_prob)(x), atol=1e-3)


@pytest.mark.parametrize(("solver", "order"), [(None, 2), (diffrax.Midpoint(), 2), (diffrax.Bosh3(), 3)])
def test_order_on_a_grid(solver, order, x64):
    mixture, flow = centred_mixture(), hf.oscillation()
    x = array([0.9, 0.3], [-0.2, -0.8])
    predictor, exact = hf.MixtureVelocity(mixture, flow), jax.vmap(mixture.log_prob)(x)
    errors = [
        float(jnp.max(jnp.abs(hf.log_likelihood(predictor, flow, x, num_steps=n, solver=solver) - exact)))
        for n in (60, 120)
    ]
    assert errors[1] < 1e-2
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4)


class Linear(eqx.Module):
    """V = A x: log-density changes by tr A, whatever the path; a network with dropout would do no less."""

    matrix: jax.Array

    def __call__(self, t, x, condition=None, key=None):
        x_flat = self.matrix.astype(x.dtype) @ x.ravel()
        return x_flat.reshape(x.shape) * (1.0 if condition is None else condition)


MATRIX = np.array([[0.3, 0.8, -0.2], [0.1, -0.4, 0.5], [0.6, 0.2, 0.2]])


def log_prob_of_linear(x, factor=1.0):
    """log N(e^(A T) x; 0, 1) + T tr A at T = 1."""
    end = x @ scipy.linalg.expm(factor * MATRIX).T
    return -0.5 * (end**2).sum(1) - 1.5 * math.log(2 * math.pi) + factor * np.trace(MATRIX)


@pytest.mark.parametrize("solver", [diffrax.Midpoint(), diffrax.Heun(), diffrax.Bosh3(), diffrax.Tsit5()], ids=type)
def test_stages_are_those_of_diffrax(solver, x64):
    """Path and volume by our steps, with divergences only where they count, and by diffrax's of both at once."""
    grid, x = jnp.array([0.0, 0.1, 0.35, 0.9]), array(0.4, -0.7)

    def field(t, x):
        return jnp.sin(2.0 * x) * jnp.cos(t) + x[::-1] ** 2 - t * x

    def both(t, y, args):
        return with_divergence(lambda x: field(t, x), y[0], None)

    found = change_on_grid(field, x, None, grid, solver)
    expected = solve_on_grid(both, (x, jnp.zeros(1)), grid, solver, None)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)


def test_the_midpoint_rule_takes_one_divergence_a_step():
    taken = []

    def field(t, x):
        taken.append(isinstance(x, jax.core.Tracer) and "Linearize" in type(x._trace).__name__)
        return -x

    jax.make_jaxpr(lambda x: change_on_grid(field, x, None, jnp.linspace(0.0, 1.0, 3), diffrax.Midpoint()))(jnp.ones(2))
    assert taken.count(True) * 2 == len(taken) > 0


def test_a_linear_field_and_its_conditions(x64):
    x, condition = jr.normal(jr.key(0), (4, 3)), array(1.0, -0.5, 0.3, 2.0)
    flow, predictor = hf.flow_matching(), Linear(jnp.asarray(MATRIX))
    found = hf.log_likelihood(predictor, flow, x, tolerance=1e-9)
    np.testing.assert_allclose(found, log_prob_of_linear(np.asarray(x)), atol=1e-6)
    found = hf.log_likelihood(predictor, flow, x, tolerance=1e-9, condition=condition)
    expected = [log_prob_of_linear(np.asarray(x[i : i + 1]), float(c))[0] for i, c in enumerate(condition)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    end = hf.encode(predictor, flow, x.reshape(4, 3, 1), tolerance=1e-9)
    np.testing.assert_allclose(end.reshape(4, 3), np.asarray(x) @ scipy.linalg.expm(MATRIX).T, atol=1e-6)


@pytest.mark.parametrize("probes", ["signs", "normal"])
def test_hutchinsons_law(probes, x64):
    """Right on average for any number of probes; the variance is 2 (|S|^2 - sum S_ii^2) with signs and 2 |S|^2 with
    normal probes (THEORY 4, S the symmetric part), and the standard error says so."""
    n, flow, predictor = 3000, hf.flow_matching(), Linear(jnp.asarray(MATRIX))
    x = jnp.broadcast_to(array(0.3, -0.2, 0.5), (n, 3))
    exact = log_prob_of_linear(np.asarray(x[:1]))[0]
    symmetric = (MATRIX + MATRIX.T) / 2
    variance = 2 * (np.sum(symmetric**2) - (np.sum(np.diag(symmetric) ** 2) if probes == "signs" else 0.0))
    for k in (1, 4):
        found = np.asarray(hf.log_likelihood(predictor, flow, x, jr.key(k), num_probes=k, probes=probes, num_steps=20))
        assert found.std() ** 2 == pytest.approx(variance / k, rel=0.15)
        assert found.mean() == pytest.approx(exact, abs=4.5 * (variance / k / n) ** 0.5 + 2e-3)  # steps: 2e-3
    estimate = hf.log_likelihood_and_error(predictor, flow, x, jr.key(5), num_probes=4, probes=probes, num_steps=20)
    np.testing.assert_allclose(np.mean(np.asarray(estimate.standard_error) ** 2), variance / 4, rtol=0.15)


def test_a_row_depends_on_its_key_alone():
    x, flow, predictor = jr.normal(jr.key(0), (5, 3)), hf.flow_matching(), Linear(jnp.asarray(MATRIX))
    whole = hf.log_likelihood(predictor, flow, x, jr.key(1), num_steps=4)
    np.testing.assert_allclose(hf.log_likelihood(predictor, flow, x[:2], jr.key(1), num_steps=4), whole[:2], rtol=1e-5)
    keys = jnp.stack([jr.fold_in(jr.key(1), i) for i in (3, 1)])  # one a row, in any order
    some = hf.log_likelihood(predictor, flow, x[jnp.array([3, 1])], keys, num_steps=4)
    np.testing.assert_allclose(some, whole[jnp.array([3, 1])], rtol=1e-5)


def test_the_integral_over_the_plane_is_one():
    """Of any network's density, trained or not: the change of volume is exact."""
    network = hf.networks.MLP((2,), width=16, depth=1, key=jr.key(0))
    network = eqx.tree_at(lambda n: n.layer_out.weight, network, 0.3 * jr.normal(jr.key(1), (16, 2)))
    flow = hf.oscillation()
    model = hf.Preconditioned(network, flow, data_std=1.0)
    side, step = np.linspace(-6.0, 6.0, 61, retstep=True)
    grid = jnp.asarray(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2), float)
    density = np.exp(np.asarray(hf.log_likelihood(model, flow, grid, num_steps=20), float))
    assert density.sum() * step**2 == pytest.approx(1.0, abs=1e-2)
    assert np.abs(density - np.exp(-0.5 * (np.asarray(grid) ** 2).sum(1)) / 2 / np.pi).max() > 0.01  # not the prior


def test_gradients_in_data_and_parameters(x64):
    """The score is the gradient in x; in the matrix, against finite differences."""
    mixture, flow = centred_mixture(), hf.oscillation()
    x = array([0.9, 0.3], [-0.2, -0.8])
    predictor = hf.MixtureVelocity(mixture, flow)
    options = {"num_steps": 40, "solver": diffrax.Bosh3()}
    found = jax.grad(lambda x: jnp.sum(hf.log_likelihood(predictor, flow, x, **options)))(x)
    np.testing.assert_allclose(found, jax.vmap(lambda x: mixture.force(0.0, x))(x), atol=1e-3)

    point = array([0.4, -0.3, 0.8])

    def value(matrix):
        return hf.log_likelihood(Linear(matrix), hf.flow_matching(), point, num_steps=8)[0]

    gradient, h = jax.grad(value)(jnp.asarray(MATRIX)), 1e-5
    change = np.zeros((3, 3))
    change[1, 2] = h
    differences = (float(value(jnp.asarray(MATRIX + change))) - float(value(jnp.asarray(MATRIX - change)))) / (2 * h)
    assert float(gradient[1, 2]) == pytest.approx(differences, rel=1e-6)


def test_pictures_take_their_divergence_in_parts():
    """66 coordinates, more than one part: V = c x elementwise has divergence sum(c)."""
    rates = jnp.linspace(-0.5, 0.7, 66).reshape(1, 6, 11)
    x = jr.normal(jr.key(0), (2, 1, 6, 11))
    found = hf.log_likelihood(lambda t, x, c, k: rates * x, hf.flow_matching(), x)
    end = np.asarray(x) * np.exp(np.asarray(rates))
    expected = -0.5 * (end**2).sum((1, 2, 3)) - 33 * math.log(2 * math.pi) + float(rates.sum())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_encoding_is_undone_by_generation(points):
    mixture, flow = centred_mixture(), hf.oscillation()
    predictor = hf.MixtureVelocity(mixture, flow)
    encoded = hf.encode(predictor, flow, points)
    assert float(jnp.max(jnp.abs(encoded - points))) > 0.1
    back = hf.generate(predictor, flow, jr.key(0), points.shape, 200, start=encoded)
    np.testing.assert_allclose(back, points, atol=2e-3)


def test_bits_per_dimension():
    """A law uniform on the 256 values has 8 bits: its density on [-1, 1 + 1/127.5) is 127.5 / 256 a coordinate."""
    size = 12
    uniform = np.full(3, size * math.log(127.5 / 256))
    np.testing.assert_allclose(hf.bits_per_dimension(uniform, size), 8.0, rtol=1e-6)
    assert hf.bits_per_dimension(np.zeros(1), 1)[0] == pytest.approx(6.9944, abs=1e-4)
    pixels = np.array([[0, 255], [7, 128]], np.uint8)
    x = hf.dequantize(pixels, jr.key(0))
    np.testing.assert_array_equal(np.floor((np.asarray(x) + 1.0) * 127.5 + 1e-4), pixels)
    assert not np.array_equal(x, hf.dequantize(pixels, jr.key(1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": jnp.zeros((0, 2))}, "at least one row"),
        ({"x": jnp.full((2, 2), jnp.nan)}, "x must be finite"),
        ({"num_probes": 3}, "needs a key"),
        ({"key": jr.key(0), "num_probes": 0}, "num_probes must be at least 1"),
        ({"condition": jnp.zeros(3)}, "one condition a row"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"solver": diffrax.Euler()}, "cannot choose its steps: give num_steps"),
        ({"solver": diffrax.SemiImplicitEuler(), "num_steps": 3}, "split or stochastic"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"predictor": lambda t, x, c, k: x[:1]}, r"predictor returned shape \(1,\)"),
    ],
)
def test_bad_input(options, message):
    arguments = {"predictor": lambda t, x, c, k: -x, "x": jnp.ones((2, 2)), **options}
    predictor, x = arguments.pop("predictor"), arguments.pop("x")
    with pytest.raises(ValueError, match=message):
        hf.log_likelihood(predictor, hf.oscillation(), x, **arguments)


def test_more_bad_input():
    x = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="num_probes must be at least 2"):
        hf.log_likelihood_and_error(lambda t, x, c, k: -x, hf.oscillation(), x, jr.key(0), num_probes=1)
    with pytest.raises(TypeError, match="key"):  # three keys for two rows
        hf.log_likelihood(lambda t, x, c, k: -x, hf.oscillation(), x, jr.split(jr.key(0), 3))
    with pytest.raises(TypeError, match="pixels must be uint8"):
        hf.dequantize(jnp.ones(3), jr.key(0))
    with pytest.raises(ValueError, match="size must be at least 1"):
        hf.bits_per_dimension(jnp.ones(3), 0)
    with pytest.raises(ValueError, match=r"start has shape \(1, 2\)"):
        hf.generate(lambda t, x, c, k: -x, hf.oscillation(), jr.key(0), (2, 2), start=x[:1])
    for call in (hf.log_likelihood, hf.encode):
        with pytest.raises(eqx.EquinoxRuntimeError, match="outside the Box of this flow"):
            call(lambda t, x, c, k: 0.0 * x, hf.reflection(), 2.0 * x, num_steps=2)


def test_a_prior_without_a_density_is_refused():
    class Bare(eqx.Module):
        def sample(self, key, shape):
            return jr.normal(key, shape)

    with pytest.raises(TypeError, match="prior is a Bare, which has no log_prob"):
        hf.Flow(hf.oscillation().system, hf.IndependentCoupling(), 1.0, Bare())
