"""Minibatch optimal transport: pair the draws of the prior in a batch with the data that they have the shortest way to.

Straight lines between random pairs cross, and where they cross the velocity predictor can only be their average, so the
paths that it generates are bent. Pairs of least cost hardly cross. Both marginals stay what they are, data and prior,
so the flow still generates the data (Pooladian et al. 2023; Tong et al. 2023).
"""

import warnings
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from ._errors import ArgumentError
from ._types import Array, Float, PRNGKeyArray, checked
from .couplings import AbstractConditionalCoupling, draw_ends, require_every_velocity, start_towards
from .priors import Prior
from .state import PhaseState
from .system import AbstractSystem


@final
class MinibatchOTCoupling(AbstractConditionalCoupling):
    """v_0 = (x_T - x_0) / horizon, with each x_T ~ prior given to a datum of its batch by the cost |x_0 - x_T|^2.

    `CondOTCoupling` with the noise of the batch in another order; the data stay where they are. x_T depends on x_0, so
    the flow is not linear: its scalings come from `Preconditioned.from_data`, and its noise scale is affine in time,
    which spreads training and sampling evenly over straight paths. No gradient passes through the matching. Needs
    ott-jax (`hamflow[ot]`).

    - `exact`: the assignment of least total cost, by the Hungarian algorithm. The noise is a permutation of what
      `CondOTCoupling` draws with the same key. Time grows faster than the square of the batch: about .02 s for 256 rows
      on one core, .08 s for 512.
    - `entropic`: the plan P of least sum P_ij c_ij + epsilon sum P_ij (log P_ij - 1) with uniform marginals, by
      Sinkhorn's iterations; each datum draws its noise from its own row of the plan, with replacement, so the noise has
      the law of the prior on average and not batch by batch. The key is split in two, one for the draws of the prior
      (as in `CondOTCoupling`) and one for the rows. Small epsilon is `exact`, large epsilon `CondOTCoupling`;
      iterations grow as 1 / epsilon.

    With class labels (`velocity_matching_loss(condition=...)`) only rows of one label are paired, since x_T given the
    label must have the distribution of the prior, from which generation starts. A condition of another kind is refused.

    The larger the batch, the straighter the paths. In many dimensions all pairs cost about the same: little is won
    there, and `entropic` wins anything only where epsilon is as small as costs differ, about 1 / sqrt(size).

    Args:
        method: "exact" or "entropic".
        epsilon: of "entropic": in units of the mean cost over all pairs of the batch, after data and noise are centred
            (the sum of their variances), so it is a number without units. .05 unless given.
        block_size: a batch of more rows is matched in parts of at most so many, as equal as possible, for otherwise
            `from_data`, which draws thousands of states at once, would hardly come to an end.

    Raises:
        ValueError: an unknown method, an epsilon that is not positive or that is given to "exact", a block of no rows.
        ImportError: when it first draws, if ott-jax is not installed.
        RuntimeError: when it draws, if Sinkhorn's iterations do not converge.

    ```python
    free = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic())
    flow = hf.Flow(free, hf.MinibatchOTCoupling(), 1.0, hf.NormalPrior())
    ```
    """

    method: str = eqx.field(static=True)
    epsilon: float | None = eqx.field(static=True)
    block_size: int = eqx.field(static=True)

    @checked
    def __init__(self, method: str = "exact", epsilon: float | None = None, *, block_size: int = 512):
        if method not in ("exact", "entropic"):
            raise ValueError(f"method must be 'exact' or 'entropic', got {method!r}")
        if method == "exact" and epsilon is not None:
            raise ValueError(f"epsilon is of method='entropic' and 'exact' has none, got {epsilon}: leave one out")
        if epsilon is not None and not 0.0 < epsilon < float("inf"):
            raise ValueError(f"epsilon must be positive, got {epsilon}: method='exact' is its limit at 0")
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.method, self.block_size = method, block_size
        self.epsilon = (0.05 if epsilon is None else float(epsilon)) if method == "entropic" else None

    def sample(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "batch *event"],
        system: AbstractSystem,
        prior: Prior,
        horizon: float | Array,
    ) -> PhaseState:
        return self.sample_given(None, key, data, system, prior, horizon)

    def sample_given(
        self,
        condition: Any,
        key: PRNGKeyArray,
        data: Float[Array, "batch *event"],
        system: AbstractSystem,
        prior: Prior,
        horizon: float | Array,
    ) -> PhaseState:
        labels = None if condition is None else _as_labels(condition)
        key_draws, key_pairs = (key, key) if self.epsilon is None else jr.split(key)
        ends = draw_ends(key_draws, data, prior)
        return start_towards(ends[self._matched(key_pairs, data, ends, labels)], data, system, horizon)

    def require_system(self, system: AbstractSystem) -> None:
        require_every_velocity(system, type(self).__name__)

    def _matched(self, key: PRNGKeyArray, data: Array, ends: Array, labels: Array | None) -> Array:
        """For each row of data the row of `ends` that it is paired with."""
        batch = data.shape[0]
        if batch < 2:
            return jnp.arange(batch)
        # Half precision cannot tell costs apart, and optax wants jax's default float.
        x, y = (jax.lax.stop_gradient(rows).reshape(batch, -1).astype(float) for rows in (data, ends))
        labels = jnp.zeros(batch, jnp.int32) if labels is None else labels
        number = -(-batch // self.block_size)
        size, larger = divmod(batch, number)  # the first blocks have one row more
        keys, found, start = jr.split(key, number), [], 0
        for count, rows in ((larger, size + 1), (number - larger, size)):
            if count == 0:
                continue
            stop = start + count * rows
            blocks = (part[start:stop].reshape(count, rows, -1) for part in (x, y))
            order = jax.lax.map(self._match, (keys[:count], *blocks, labels[start:stop].reshape(count, rows)))
            found.append((start + rows * jnp.arange(count)[:, None] + order).reshape(-1))
            keys, start = keys[count:], stop
        return jnp.concatenate(found)

    def _match(self, block: tuple[PRNGKeyArray, Array, Array, Array]) -> Array:
        """The same for one block: a key, `(rows, size)` each of data and ends, and the labels of the rows.

        An end belongs to the class of the row that it was drawn for. A pair of two classes costs more than all pairs of
        one class can, so there is none.
        """
        key, x, y, labels = block
        cost = _relative_cost(x, y)
        apart = labels[:, None] != labels[None, :]
        cost = jnp.where(apart, len(cost) * (1.0 + jnp.max(cost) - jnp.min(cost)), cost)
        if self.epsilon is None:
            return _assignment(cost)
        return jr.categorical(key, jnp.where(apart, -jnp.inf, _log_plan(cost, self.epsilon)), axis=1)


def _as_labels(condition: Any) -> Array:
    """Class labels, one a row; what cannot be paired is refused."""
    leaves = jax.tree.leaves(condition)
    if len(leaves) != 1 or jnp.ndim(leaves[0]) != 1 or not jnp.issubdtype(jnp.asarray(leaves[0]).dtype, jnp.integer):
        kinds = ", ".join(f"{jnp.asarray(leaf).dtype}{list(jnp.shape(leaf))}" for leaf in leaves)
        raise ArgumentError(
            f"condition is {kinds}, and MinibatchOTCoupling pairs rows of one class label, an integer a row: rows with "
            "conditions of their own cannot be paired without changing what a condition generates. Use CondOTCoupling "
            "for them, or labels",
            argument="condition",
        )
    return jnp.asarray(leaves[0])


def _relative_cost(x: Array, y: Array) -> Array:
    """|x_i - y_j|^2 of the centred rows, over their mean.

    A shift of all x or all y adds a number a row and a number a column, which no plan depends on; without it, single
    precision has digits left for what tells pairs apart.
    """
    x, y = (rows - jnp.mean(rows, axis=0, keepdims=True) for rows in (x, y))
    squares = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None, :]
    cost = squares - 2.0 * jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    mean = jnp.mean(cost)
    cost = cost / jnp.where(mean > 0.0, mean, 1.0)
    # The matching has to end for data that are not finite too; the states still show them.
    return jnp.where(jnp.isfinite(cost), cost, 0.0)


def _assignment(cost: Array) -> Array:
    """The column of each row in the assignment of least total cost."""
    ott = _ott()
    pairs = ott.tools.unreg.hungarian(ott.geometry.geometry.Geometry(cost_matrix=cost))[1].paired_indices
    rows, columns = pairs
    return jnp.zeros_like(columns).at[rows].set(columns)


def _log_plan(cost: Array, epsilon: float) -> Array:
    """log P up to a number a row."""
    ott = _ott()
    # ott promotes dtypes and ranks, whatever the user asks of his own code.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        geometry = ott.geometry.geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
        plan = ott.solvers.linear.solve(geometry, threshold=1e-3, max_iterations=20_000)
    logits = (plan.f[:, None] + plan.g[None, :] - cost) / epsilon
    return eqx.error_if(
        logits,
        ~plan.converged,
        f"MinibatchOTCoupling: 20,000 iterations do not converge at epsilon={epsilon}: take a larger epsilon, or "
        "method='exact'",
    )


def _ott() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of its own import of jaxopt
            import ott
    except ImportError as error:
        raise ImportError("MinibatchOTCoupling solves by ott-jax: pip install ott-jax, or hamflow[ot]") from error
    return ott
