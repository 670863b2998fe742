"""One rule for whole numbers, and errors that carry their argument."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hamflow._errors import ArgumentError, ArgumentTypeError
from hamflow._numbers import as_shape, as_whole
from hamflow._parameters import as_parameter, require


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3), jnp.array(3)])
def test_every_integer_becomes_a_python_int(value):
    assert as_whole(value, "n", 3, 3) == 3
    assert type(as_whole(value, "n")) is int


@pytest.mark.parametrize("value", [True, np.True_, jnp.array(True), 3.0, np.float32(3), "3", None, [3], jnp.ones(2)])
def test_what_is_no_whole_number_is_refused_by_name(value):
    with pytest.raises(ArgumentTypeError, match="num_steps must be a whole number") as caught:
        as_whole(value, "num_steps")
    assert caught.value.argument == "num_steps"


def test_a_traced_number_is_refused():
    with pytest.raises(ArgumentTypeError, match="n must be a whole number"):
        jax.jit(lambda n: as_whole(n, "n"))(3)


def test_the_ends_of_the_range_are_named():
    with pytest.raises(ArgumentError, match="depth must be at least 1, got 0"):
        as_whole(0, "depth", 1)
    with pytest.raises(ArgumentError, match="seed must be at most 7, got 8"):
        as_whole(8, "seed", 0, 7)


def test_shapes():
    assert as_shape(np.int64(3)) == (3,)
    assert as_shape([np.int64(3), 2]) == as_shape(np.array([3, 2])) == (3, 2)
    assert as_shape(()) == ()
    for wrong in ("32", (3, True), (3, 2.0), 2.0, [[1], [2]]):
        with pytest.raises(ArgumentTypeError, match="shape must be a whole number"):
            as_shape(wrong)
    with pytest.raises(ArgumentError, match="shape must be at least 0"):
        as_shape((3, -1))


@pytest.mark.parametrize("kind", [ArgumentError, ArgumentTypeError])
def test_an_error_keeps_its_argument_across_processes(kind):
    error = pickle.loads(pickle.dumps(kind("depth must be at least 1, got 0", argument="depth")))
    assert (type(error), str(error), error.argument) == (kind, "depth must be at least 1, got 0", "depth")


def test_parameters_carry_their_name():
    with pytest.raises(ArgumentError) as caught:
        as_parameter(float("nan"), "mass")
    assert caught.value.argument == "mass"
    with pytest.raises(ArgumentError) as caught:
        require(-1.0, lambda v: v > 0, "mass must be positive")
    assert caught.value.argument == "mass"
