"""Couplings that look at a batch, with conditions: x_T given the condition has the distribution of the prior."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_network import TinyNetwork

import hamflow as hf
from hamflow._errors import ArgumentError

FREE = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic())


def classes(n):
    """Classes 0 and 1 at -2 and 2, deviation .5."""
    labels = jnp.arange(n) % 2
    return labels, (4.0 * labels.astype(float) - 2.0)[:, None] + 0.5 * jr.normal(jr.key(1), (n, 1))


def ends(flow, data, labels):
    state = flow.sample_state(jr.key(2), data, jnp.full(len(data), flow.horizon), condition=labels)
    return np.asarray(state.position[:, 0])


@pytest.mark.parametrize(
    "coupling", [hf.MinibatchOTCoupling(), hf.MinibatchOTCoupling("entropic", 0.1)], ids=["exact", "entropic"]
)
def test_ends_of_a_class_are_the_prior(coupling):
    """Of N(0, 1): mean 0 and variance 1 within five standard errors. Paired over both classes the mean is -.80."""
    labels, data = classes(1024)
    flow = hf.Flow(FREE, coupling, 1.0, hf.NormalPrior())
    given, mixed = ends(flow, data, labels), ends(flow, data, None)
    assert mixed[labels == 0].mean() == pytest.approx(-np.sqrt(2 / np.pi), abs=0.15)
    for label in (0, 1):
        found = given[labels == label]
        assert found.mean() == pytest.approx(0.0, abs=5 / 512**0.5)
        assert found.var() == pytest.approx(1.0, abs=5 * (2 / 512) ** 0.5)
        # And it is still transport: larger data have larger ends.
        assert np.corrcoef(found, np.asarray(data[:, 0])[labels == label])[0, 1] > 0.6


def test_the_same_noise_is_only_reordered():
    labels, data = classes(256)
    flow = hf.Flow(FREE, hf.MinibatchOTCoupling(), 1.0, hf.NormalPrior())
    plain = hf.Flow(FREE, hf.CondOTCoupling(), 1.0, hf.NormalPrior())
    np.testing.assert_allclose(np.sort(ends(flow, data, labels)), np.sort(ends(plain, data, None)), rtol=1e-5)


def test_the_loss_tells_the_coupling_its_condition():
    """The target of a zero predictor is v itself, so its loss is the mean of v^2 over pairs within a class."""
    labels, data = classes(512)
    flow = hf.Flow(FREE, hf.MinibatchOTCoupling(), 1.0, hf.NormalPrior())

    def zero(t, x, condition, key):
        return jnp.zeros_like(x)

    def loss(condition):
        return float(hf.velocity_matching_loss(zero, flow, data, jr.key(3), condition=condition))

    # |x_T - x_0|^2 = 4 + (1 - .5)^2 for transport within a class at -2 or 2; (1 - ...)^2 for the mixture is smaller.
    # Five standard errors: v^2 has a deviation of about 2.
    assert loss(labels) == pytest.approx(4.25, abs=5 * 2 / 512**0.5)
    assert loss(None) < 0.7 * loss(labels)


def test_conditions_that_cannot_be_paired_are_refused():
    _, data = classes(8)
    flow = hf.Flow(FREE, hf.MinibatchOTCoupling(), 1.0, hf.NormalPrior())
    for condition in (jnp.ones((8, 3)), {"a": jnp.zeros(8, int), "b": jnp.zeros(8, int)}):
        with pytest.raises(ArgumentError, match=r"condition is .*pairs rows of one class label.*CondOTCoupling"):
            hf.velocity_matching_loss(TinyNetwork(1), flow, data, jr.key(0), condition=condition)


def test_reflow_asks_the_predictor_with_the_condition():
    """V = c x at all times carries x_0 to x_0 e^c."""
    trained = hf.flow_matching()
    coupling = hf.ReflowCoupling(lambda t, x, condition, key: condition * x, trained, num_steps=40)
    flow = hf.Flow(FREE, coupling, 1.0, trained.prior)
    data, condition = jnp.array([[1.0], [2.0]]), jnp.array([0.5, -1.0])
    state = flow.sample_state(jr.key(0), data, jnp.ones(2), condition=condition)
    np.testing.assert_allclose(state.position[:, 0], [np.exp(0.5), 2.0 * np.exp(-1.0)], rtol=1e-3)
