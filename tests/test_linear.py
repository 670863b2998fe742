"""Operators against the matrices that they stand for."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from systems import array

from hamflow import _linear as linear

KINDS = {
    "scaling": lambda: linear.Scaling(1.7),
    "scaling array": lambda: linear.Scaling(array(1.7)[0]),
    "diagonal": lambda: linear.Diagonal(array(0.5, 2.0)),
    "dense": lambda: linear.Dense(array([2.0, 0.6], [0.6, 0.9]), (2,)),
}


def matrix(operator):
    value = np.asarray(operator.value, float)
    return value if value.ndim == 2 else np.diag(np.broadcast_to(value, 2))


@pytest.mark.parametrize(("left", "right"), list(itertools.product(KINDS, KINDS)))
def test_products_and_sums(left, right, x64):
    left, right = KINDS[left](), KINDS[right]()
    np.testing.assert_allclose(matrix(linear.compose(left, right)), matrix(left) @ matrix(right), rtol=1e-14)
    np.testing.assert_allclose(matrix(linear.add(left, right)), matrix(left) + matrix(right), rtol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_functions_of_one_operator(kind, x64):
    operator = KINDS[kind]()
    full, x = matrix(operator), array(0.3, -1.2)
    np.testing.assert_allclose(linear.apply(operator, x), full @ np.asarray(x), rtol=1e-14)
    np.testing.assert_allclose(matrix(linear.inverse(operator)), np.linalg.inv(full), rtol=1e-13)
    np.testing.assert_allclose(matrix(linear.transpose(operator)), full.T)
    lower, root = matrix(linear.factor(operator)), matrix(linear.square_root(operator))
    np.testing.assert_allclose(lower @ lower.T, full, rtol=1e-14)
    np.testing.assert_allclose(root @ root, full, rtol=1e-14)
    np.testing.assert_allclose(root, root.T)
    assert float(linear.mean_square(operator)) == pytest.approx(np.trace(full @ full.T) / 2)
    assert float(linear.log_abs_det(operator, 2)) == pytest.approx(np.linalg.slogdet(full)[1])


def test_shapes_say_what_an_array_is():
    """A shape decides; without one, halves that agree make a matrix."""
    square = jnp.ones((2, 2))
    assert isinstance(linear.as_operator(2.0, (2,), float), linear.Scaling)
    assert isinstance(linear.as_operator(jnp.ones(2), (2,), float), linear.Diagonal)
    assert isinstance(linear.as_operator(square, (2,), float), linear.Dense)
    assert isinstance(linear.as_operator(square, (2, 2), float), linear.Diagonal)
    assert isinstance(linear.as_operator(square, None, float), linear.Dense)
    assert isinstance(linear.as_operator(jnp.ones((2, 3, 2, 3)), None, float), linear.Dense)
    assert isinstance(linear.as_operator(jnp.ones((2, 3)), None, float), linear.Diagonal)
    with pytest.raises(ValueError, match=r"mass has shape \(3,\), but the position has shape \(2,\): give a number"):
        linear.as_operator(jnp.ones(3), (2,), float, "mass")
