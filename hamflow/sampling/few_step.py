"""A solver of few steps in which every step has numbers of its own (Shaul et al. 2024, non-stationary solvers).

    x_{i+1} = alpha_i x_T + sum_{j <= i} beta_ij V(t_j, x_j),    i = 0 .. n - 1,    t_0 = T, x_n the sample.

All explicit solvers with n evaluations are of this form, whatever their order, their grid and the flow. Fitted to a
predictor by `fit_few_step`.
"""

from typing import final

import jax.numpy as jnp
import numpy as np

from .._parameters import require
from .._types import Array, Float, PRNGKeyArray, PyTree, checked
from ..flow import Flow
from .samplers import AbstractSampler, Walk


@final
class FewStep(AbstractSampler):
    """n steps of n evaluations, on times of its own. `fit_few_step` finds the numbers.

    Args:
        times: of shape `(n + 1,)`, falling from the horizon to 0.
        alpha: of shape `(n,)`.
        beta: of shape `(n, n)`; what is above the diagonal is not used.

    Raises:
        ValueError: shapes that do not fit, times that do not fall to 0; in use, a flow with another horizon.
    """

    times: Float[Array, "times"]
    alpha: Float[Array, "steps"]
    beta: Float[Array, "steps steps"]

    @checked
    def __init__(
        self,
        times: Float[Array | np.ndarray, "times"],
        alpha: Float[Array | np.ndarray, "steps"],
        beta: Float[Array | np.ndarray, "steps steps"],
    ):
        if times.shape[0] != alpha.shape[0] + 1:
            raise ValueError(
                f"times has {times.shape[0]} entries and alpha {alpha.shape[0]}: n steps have n + 1 times and n alphas"
            )
        self.times, self.alpha, self.beta = jnp.asarray(times), jnp.asarray(alpha), jnp.tril(jnp.asarray(beta))
        falls = jnp.diff(self.times) < 0
        require((falls, self.times[-1]), lambda v: jnp.all(v[0]) & (v[1] == 0.0), f"times must fall to 0, got {times}")

    def require_flow(self, flow: Flow) -> None:
        first, horizon = self.times[0], jnp.asarray(flow.horizon, self.times.dtype)
        require(
            (first, horizon),
            lambda ends: jnp.abs(ends[0] - ends[1]) <= 1e-5 * ends[1],
            f"this FewStep starts at time {first}, and the flow's horizon is {flow.horizon}: fit one for this flow",
        )

    def init(self, x: Float[Array, "*event"]) -> PyTree:
        return jnp.zeros((), int), x, jnp.zeros((self.alpha.shape[0], *x.shape), x.dtype)

    def step(
        self, walk: Walk, t: Array, s: Array, x: Array, memory: PyTree, key: PRNGKeyArray, last: bool
    ) -> tuple[Array, PyTree]:
        i, first, slopes = memory
        slopes = slopes.at[i].set(walk.velocity(t, x))
        x = self.alpha[i].astype(x.dtype) * first + jnp.tensordot(self.beta[i].astype(x.dtype), slopes, 1)
        return x, (i + 1, first, slopes)
