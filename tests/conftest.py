"""Strict settings for every test, and the fixtures they share."""

import os

# Two workers on two cores: threads of OpenBLAS that wait in a loop for each other take most of the time of both.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest
from hypothesis import settings

# A silent promotion is how a float32 model becomes float64, or a per-example rule meets a batch axis.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of the suite's time is XLA's compilation of small functions; without most of its optimisations it takes about
# four fifths. `HAMFLOW_OPTIMIZE=1 pytest` compiles as for users, and so do the docs and the examples in `.ci/run`.
if not os.environ.get("HAMFLOW_OPTIMIZE"):
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the processes that tests start: they compare bit for bit
    jax.config.update("jax_disable_most_optimizations", True)

# The same examples in every run, and nothing written beside the tests.
settings.register_profile("hamflow", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("hamflow")


@pytest.fixture
def x64():
    """Run one test in double precision: closed forms are compared at 1e-10."""
    with jax.enable_x64(True):
        yield
