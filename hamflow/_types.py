"""The type vocabulary, and the check at the public edge.

jaxtyping's import hook would check every function, but only where a user asks for it. The public edge is checked for
everybody: `checked` wraps constructors, losses and samplers, costs nothing inside `jit` (it runs at trace time), and
the error names the argument. The inside is checked in pytest only (`--jaxtyping-packages` in `pyproject.toml`).
"""

import numpy as np
from beartype import BeartypeConf, beartype
from jaxtyping import Array, Float, Int, Integer, Key, PRNGKeyArray, PyTree, Scalar, ScalarLike, jaxtyped

# An int is a fine float (PEP 484), as everywhere else in Python.
checked = jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))
"""Check the annotated arguments of a public function at trace time; an error names the argument and its type."""

WholeNumber = int | np.integer
"""The type of a whole number in a signature. The function calls `_numbers.as_whole` on it, which refuses a bool."""

__all__ = [
    "Array",
    "Float",
    "Int",
    "Integer",
    "Key",
    "PRNGKeyArray",
    "PyTree",
    "Scalar",
    "ScalarLike",
    "WholeNumber",
    "checked",
]
