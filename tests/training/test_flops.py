"""The count against numbers worked out by hand, and against what a gradient must cost."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from hamflow.training import count_flops

A, B = jnp.ones((3, 5)), jnp.ones((5, 7))
PRODUCT = 2 * 3 * 5 * 7


def flops(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments))


def conv(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
    return lax.conv_general_dilated(x, kernel, **options)


def test_products():
    assert flops(jnp.matmul, A, B) == PRODUCT
    assert flops(lambda a, b: jnp.einsum("nij,njk->nik", a, b), jnp.ones((4, 3, 5)), jnp.ones((4, 5, 7))) == 4 * PRODUCT
    assert flops(lambda a, b: jnp.tanh(a @ b) + 1.0, A, B) == PRODUCT  # all else is left out
    assert flops(jax.vmap(jnp.matmul, (0, None)), jnp.ones((4, 3, 5)), B) == 4 * PRODUCT


def test_a_gradient_of_a_product_costs_two_more():
    def loss(a, b):
        return jnp.sum(jnp.tanh(a @ b))

    assert flops(jax.grad(loss, (0, 1)), A, B) == 3 * PRODUCT
    assert flops(jax.grad(loss, 1), A, B) == 2 * PRODUCT


def test_what_is_inside_counts_as_often_as_it_is_run():
    def looped(a, b):
        return lax.scan(lambda carry, _: (carry, carry[0] @ carry[1]), (a, b), length=10)[1]

    assert flops(looped, A, B) == 10 * PRODUCT
    assert flops(jax.jit(looped), A, B) == 10 * PRODUCT
    assert flops(jax.checkpoint(looped), A, B) == 10 * PRODUCT
    assert flops(lambda a, b: lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) + (a @ b)), A, B) == 2 * PRODUCT
    custom = jax.custom_vjp(jnp.matmul)
    custom.defvjp(lambda a, b: (a @ b, (a, b)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
    assert flops(custom, A, B) == PRODUCT
    assert flops(jax.grad(lambda a, b: jnp.sum(custom(a, b)), (0, 1)), A, B) == 3 * PRODUCT


def test_convolutions_by_hand():
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    per_tap = 2 * 2 * 3 * 5  # two operations, batch, channels in, channels out
    # Of 3 taps at 8 places in a row, the two at the ends fall outside: 22 in each direction.
    assert flops(conv, x, kernel) == per_tap * 22**2
    assert flops(lambda x, k: conv(x, k, padding="VALID"), x, kernel) == per_tap * (3 * 6) ** 2
    # Every second place, SAME pads one at the far end: places 0, 2, 4 whole, place 6 lacks its last tap.
    assert flops(lambda x, k: conv(x, k, window_strides=(2, 2)), x, kernel) == per_tap * 11**2


@pytest.mark.parametrize("options", [{}, {"window_strides": (2, 2)}, {"padding": "VALID"}, {"rhs_dilation": (2, 2)}])
@pytest.mark.parametrize("groups", [1, 2])
def test_each_gradient_of_a_convolution_costs_what_it_does(options, groups):
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4 // groups, 6))

    def out(x, kernel):
        return conv(x, kernel, feature_group_count=groups, **options)

    def loss(x, kernel):
        return jnp.sum(out(x, kernel) ** 2)

    once = flops(out, x, kernel)
    assert flops(jax.grad(loss), x, kernel) == 2 * once
    assert flops(jax.grad(loss, (0, 1)), x, kernel) == 3 * once
