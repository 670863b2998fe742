"""Reflow: the pairs that a trained flow makes of data and noise, for a flow with straighter paths."""

from collections.abc import Callable
from typing import Any, final

import diffrax
import equinox as eqx
import jax
import numpy as np

from .._parameters import is_concrete
from .._types import Array, Float, PRNGKeyArray, checked
from ..couplings import AbstractConditionalCoupling, require_every_velocity, start_towards
from ..domains import Euclidean
from ..flow import Flow
from ..priors import Prior
from ..propagators import FreeMotion, LinearFreeMotion
from ..state import PhaseState
from ..system import AbstractSystem
from .encode import encode
from .likelihood import steps_of


@final
class ReflowCoupling(AbstractConditionalCoupling):
    """v_0 = (x_T - x_0) / horizon, with x_T where the probability flow of a trained predictor carries x_0.

    Rectified flow (Liu et al. 2022): paths of one velocity field never cross, so neither do these pairs as a map, and
    the straight lines between them cross less than those of random pairs. A predictor trained on them has straighter
    paths, which few steps follow. Where the trained flow joins its own pairs by straight lines, no cost E c(x_T - x_0)
    with a convex c grows (their Theorem 3.5). The pairs are deterministic: the key is not used.

    - The new flow ends in the law of x_T, which is the trained flow's prior: give it `prior=flow.prior`. It can have
      any horizon, the trained flow any system: diffusion, oscillation, or another reflow.
    - x_T has the law of that prior as far as the data have the law that the predictor generates. Where it does not fit
      its data well, train on its own samples, whose x_T is a draw of the prior to solver error:
      `data = hf.generate(predictor, flow, key, shape)` with many steps (`generate(..., start=...)` where the x_T are
      to be known). `encode` finds those x_T again.
    - With conditions (`velocity_matching_loss(condition=...)`) the predictor is called with that of the row, so that
      x_T given the condition has the distribution of the prior; without them it is called with none.
    - The trained predictor is a part of the new flow, saved with it. No gradient reaches it, but an optimiser that is
      given all arrays would let them decay: `Preconditioned.trainable` leaves them out.

    Args:
        predictor: the trained one, `predictor(t, x, condition, None) -> velocity` on one example.
        flow: the flow it was trained on.
        num_steps: None for steps chosen by `tolerance`; else so many on the trained flow's own grid (`rho_grid`).
        solver: a diffrax solver; Tsit5 with a tolerance and Heun on a grid unless given.
        tolerance: relative and absolute, of a step.

    Raises:
        ValueError: a solver or steps that do not fit; in a `Flow`, a system that does not go in straight lines
            (a force, walls), or a kinetic energy that does not reach every velocity; when it draws, a prior that is
            not the trained flow's.

    ```python
    free = hf.Hamiltonian(hf.ZeroPotential(), hf.GaussianKinetic())
    straighter = hf.Flow(free, hf.ReflowCoupling(predictor, flow, num_steps=32), 1.0, flow.prior)
    ```
    """

    predictor: Callable[..., Any]
    flow: Flow
    num_steps: int | None = eqx.field(static=True)
    solver: diffrax.AbstractSolver | None
    tolerance: float = eqx.field(static=True)

    @checked
    def __init__(
        self,
        predictor: Callable[..., Any],
        flow: Flow,
        *,
        num_steps: int | None = None,
        solver: diffrax.AbstractSolver | None = None,
        tolerance: float = 1e-5,
    ):
        steps_of(flow, num_steps, solver, tolerance)  # refuses what does not fit
        self.predictor, self.flow = predictor, flow
        self.num_steps, self.solver, self.tolerance = num_steps, solver, tolerance

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
        self._require_prior(prior)
        arrays, rest = eqx.partition((self.predictor, self.flow, data), eqx.is_inexact_array)
        predictor, flow, start = eqx.combine(jax.lax.stop_gradient(arrays), rest)
        options: dict[str, Any] = {"num_steps": self.num_steps, "solver": self.solver, "tolerance": self.tolerance}
        return start_towards(encode(predictor, flow, start, condition=condition, **options), data, system, horizon)

    def require_system(self, system: AbstractSystem) -> None:
        require_every_velocity(system, type(self).__name__)
        domain = getattr(system, "domain", None)
        if not isinstance(domain, Euclidean):
            raise ValueError(
                f"ReflowCoupling leads to the trained flow's prior in straight lines, which {type(domain).__name__} "
                "may fold: use Euclidean(), whatever the domain of the trained flow (lines between points of a box "
                "stay in it)"
            )
        if not isinstance(system.propagator(), (FreeMotion, LinearFreeMotion)):
            raise ValueError(
                "ReflowCoupling leads to the trained flow's prior in straight lines, which a force bends: use "
                "ZeroPotential(), whatever the force of the trained flow"
            )

    def _require_prior(self, prior: Prior) -> None:
        """A prior of another kind, or of other numbers where they are known, is not what x_T is drawn from."""
        trained = self.flow.prior
        new, old = jax.tree.leaves(prior), jax.tree.leaves(trained)
        same = type(prior) is type(trained) and len(new) == len(old)
        if same and is_concrete(new, old):
            same = all(
                np.shape(a) == np.shape(b) and np.allclose(np.asarray(a, float), np.asarray(b, float))
                for a, b in zip(new, old, strict=True)
                if eqx.is_inexact_array_like(a)
            )
        if not same:
            raise ValueError(
                f"the new flow's prior is {prior!r}, but ReflowCoupling leads to that of the trained flow, "
                f"{trained!r}: give the new flow prior=flow.prior of the trained one"
            )
