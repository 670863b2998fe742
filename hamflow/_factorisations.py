"""Factorisations of matrices that are safe under `vmap`: a batch is factored one matrix after the other.

XLA's CPU client runs a batched LAPACK call on the threads that run the program. Two such calls that do not depend on
each other wait for each other's threads and never end (jax 0.10.2 on two cores, matrices of 64 rows and more). So each
function here becomes a loop under `vmap`, of calls with one matrix each. Matrices that are the same for the whole batch
are factored once in any case.

The derivatives are those of Giles (2008), "An extended collection of matrix derivative results for forward and reverse
mode automatic differentiation". They are written out because the loop has no derivative of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg

from ._types import Array


def in_single(function: Callable[..., Any], *matrices: Array) -> Any:
    """Run a factorisation in at least single precision, because LAPACK has no half precision."""
    dtype = matrices[0].dtype
    if dtype not in (jnp.bfloat16, jnp.float16):
        return function(*matrices)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), function(*(m.astype(jnp.float32) for m in matrices)))


_inv = jax.custom_batching.sequential_vmap(jnp.linalg.inv)
_cholesky = jax.custom_batching.sequential_vmap(jnp.linalg.cholesky)
_eigh = jax.custom_batching.sequential_vmap(lambda matrix: tuple(jnp.linalg.eigh(matrix)))
_triangular = {
    trans: jax.custom_batching.sequential_vmap(
        partial(jax.scipy.linalg.solve_triangular, lower=True, trans=1 if trans else 0)
    )
    for trans in (False, True)
}


@jax.custom_jvp
def inv(matrix: Array) -> Array:
    """The inverse of one square matrix."""
    return _inv(matrix)


@inv.defjvp
def _inv_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverse = inv(*primals)
    return inverse, -inverse @ tangents[0] @ inverse


def solve_lower(lower: Array, right: Array, transposed: bool = False) -> Array:
    """L^-1 B, or L^-T B, of one lower triangular matrix and a vector or a matrix B."""
    lower = jnp.tril(lower)
    return jax.lax.custom_linear_solve(
        lambda x: (lower.T if transposed else lower) @ x,
        right,
        lambda _, b: _triangular[transposed](lower, b),
        lambda _, b: _triangular[not transposed](lower, b),
    )


@jax.custom_jvp
def cholesky(matrix: Array) -> Array:
    """L with L L^T = the symmetric part of one positive definite matrix."""
    return _cholesky(matrix)


@cholesky.defjvp
def _cholesky_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    lower = cholesky(*primals)
    d_matrix = (tangents[0] + tangents[0].T) / 2.0
    inner = solve_lower(lower, solve_lower(lower, d_matrix).T).T
    half = jnp.tril(inner) - jnp.diag(jnp.diagonal(inner)) / 2.0
    return lower, lower @ half


@jax.custom_jvp
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors of the symmetric part of one matrix.

    The derivative of the vectors is not finite where eigenvalues coincide.
    """
    return _eigh(matrix)


@eigh.defjvp
def _eigh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    values, vectors = eigh(*primals)
    d_matrix = (tangents[0] + tangents[0].T) / 2.0
    along = vectors.T @ d_matrix @ vectors
    gap = values[None, :] - values[:, None]
    same = jnp.eye(values.size, dtype=bool)
    turn = jnp.where(same, 0.0, along / jnp.where(same, jnp.ones_like(gap), gap))
    return (values, vectors), (jnp.diagonal(along), vectors @ turn)


@jax.custom_jvp
def log_abs_det(matrix: Array) -> Array:
    """log |det| of one square matrix."""
    return _log_abs_det(matrix)


_log_abs_det = jax.custom_batching.sequential_vmap(lambda matrix: jnp.linalg.slogdet(matrix)[1])


@log_abs_det.defjvp
def _log_abs_det_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return log_abs_det(*primals), jnp.sum(inv(*primals).T * tangents[0])
