"""Strict settings for every test, and the fixtures they share."""

import jax
import pytest

# A silent promotion is how a float32 model becomes float64, or a per-example rule meets a batch axis.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Run one test in double precision: closed forms are compared at 1e-10."""
    with jax.enable_x64(True):
        yield
