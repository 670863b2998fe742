"""The best velocity predictor in closed form: a ridge regression of v / t on features, from sums over groups of data.

With U = W phi(x), E[2 U . v/t - |U|^2] = 2 tr(W^T C) - tr(W^T G W), where G = E[phi phi^T] and C = E[phi (v/t)^T]. The
sums of a group of data are all that a fit, its value on other data, and a refit without a group ask for.

The noise of v/t grows as 1/t, but over a pair (p, -p) a feature sees only its slope: its row of C has a noise of about
|grad phi|. So each feature is penalised by the noise of its own row (ours): waves that are too short for the data to
tell are put out first. Features that are few and smooth (1, x, the force) can be left out of the penalty altogether.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._factorisations import cholesky, solve_lower
from .._types import Array, Float

# Of a feature whose row of C is as noisy as the mean of them, in units of its mean square.
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
_ROUNDING = 1e-6  # of G's diagonal: what single precision can tell from nothing


class Sums(eqx.Module):
    """G, C and the mean square of a datum's part of C, as means over a group or more."""

    gram: Float[Array, "*groups m m"]
    cross: Float[Array, "*groups m d"]
    square: Float[Array, "*groups m"]

    def total(self, weights: Float[Array, "groups"]) -> "Sums":
        """The weighted mean over groups."""
        weights = weights / jnp.sum(weights)
        return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), self)


def sums_of(features: Float[Array, "n 2 m"], targets: Float[Array, "n 2 d"]) -> Sums:
    """Those of a group of pairs."""
    n = features.shape[0]
    flat = features.reshape(2 * n, -1)
    # |sum over the pair of phi (v/t)^T|^2, summed over the coordinates: no array of n m d numbers is made.
    inner = jnp.sum(targets[:, :, None, :] * targets[:, None, :, :], axis=-1)
    square = jnp.einsum("nim,nij,njm->m", features, inner, features) / (4.0 * n * targets.shape[-1])
    return Sums(flat.T @ flat / (2 * n), flat.T @ targets.reshape(2 * n, -1) / (2 * n), square)


def solve(sums: Sums, penalty: Array, num_plain: int = 0) -> Float[Array, "m d"]:
    """W of least |W phi - v/t|^2 + penalty sum_j (relative noise of row j of C) (mean square of feature j) |W_j|^2.

    The first `num_plain` features are not penalised.
    """
    diagonal = jnp.diagonal(sums.gram)
    scale = jnp.where(diagonal > 0, 1.0 / jnp.sqrt(diagonal), jnp.ones_like(diagonal))  # features come in any unit
    noise = sums.square * scale**2
    plain = jnp.arange(noise.size) < num_plain
    ridge = jnp.diag(jnp.where(plain, 0.0, penalty * noise / jnp.mean(noise)) + _ROUNDING)
    lower = cholesky(sums.gram * scale[:, None] * scale[None, :] + ridge)
    halfway = solve_lower(lower, scale[:, None] * sums.cross)
    return scale[:, None] * solve_lower(lower, halfway, transposed=True)


def value(sums: Sums, w: Float[Array, "m d"]) -> Array:
    """E[2 U . v/t - |U|^2] of these weights on these data."""
    return 2.0 * jnp.sum(w * sums.cross) - jnp.sum(w * (sums.gram @ w))


def choose_penalty(sums: Sums, mask: Float[Array, "groups"], num_plain: int = 0) -> Array:
    """The penalty that does best in the groups of `mask`: fitted on half of them, tried on the rest."""
    inside = jnp.cumsum(mask) * mask
    even = jnp.where((inside % 2 == 0) & (mask > 0), mask, jnp.zeros_like(mask))
    first, second = (sums.total(part) for part in (even, mask - even))
    penalties = jnp.asarray(PENALTIES, sums.gram.dtype)

    def gain(penalty: Array) -> Array:
        return value(second, solve(first, penalty, num_plain)) + value(first, solve(second, penalty, num_plain))

    return penalties[jnp.nanargmax(jax.lax.map(gain, penalties))]
