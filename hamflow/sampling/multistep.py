"""Samplers for linear flows x_t = a x_0 + b e, which solve the linear part of dx/dt = V exactly.

With D = E[x_0 | x_t] and N = E[e | x_t], x = a D + b N, and along a path d(x / b) = D d(a / b): all that a method has
to guess is how D moves.
"""

from typing import final

import jax.numpy as jnp

from .. import _linear as linear
from .._types import Array, Float, PRNGKeyArray, PyTree
from ..conversions import data_and_noise
from ..flow import Flow
from .samplers import AbstractSampler, Walk

NO_DATA = 1e-5  # a below this share of b says nothing about the data: cos(pi / 2) is 4e-8 in single precision


@final
class DDIM(AbstractSampler):
    """x_s = a_s D + b_s N: D and N held over a step. Order 1, one evaluation a step (Song, Meng, Ermon 2021).

    The phase point (x, V) followed as if nothing were learned on the way: for an oscillation it turns,
    x_s = cos(w d) x - sin(w d) V / w with d = t - s.
    """

    def require_flow(self, flow: Flow) -> None:
        require_linear(flow, "DDIM")

    def init(self, x: Float[Array, "*event"]) -> PyTree:
        return None

    def step(
        self, walk: Walk, t: Array, s: Array, x: Array, memory: PyTree, key: PRNGKeyArray, last: bool
    ) -> tuple[Array, PyTree]:
        denoised, noise = data_and_noise(walk.flow, t, x, walk.velocity(t, x))
        a, b, _, _ = walk.flow.coefficient_operators(s, x.shape)
        return linear.apply(a, denoised) + linear.apply(b, noise), None


@final
class DPMSolver2M(AbstractSampler):
    """DPM-Solver++ (2M): D extrapolated in l = log(a / b) from two points. Order 2, one evaluation a step.

    x_s = (b_s / b_t) x + (a_s - a_t b_s / b_t) [(1 + 1 / 2r) D - D_previous / 2r], r = h_previous / h, h = l_s - l_t;
    of first order on the first step, where a = 0, just after it, and where b_s = 0 (Lu et al. 2022, algorithm 2). That
    last step is short on `rho_grid` and `log_snr_grid`, and counts on even times: order 1.5 there.
    """

    def require_flow(self, flow: Flow) -> None:
        require_plain(flow, "DPMSolver2M")

    def init(self, x: Float[Array, "*event"]) -> PyTree:
        return jnp.zeros_like(x), jnp.full_like(x, jnp.inf)  # D and h of the step before; an infinite h counts nothing

    def step(
        self, walk: Walk, t: Array, s: Array, x: Array, memory: PyTree, key: PRNGKeyArray, last: bool
    ) -> tuple[Array, PyTree]:
        before, h_before = memory
        denoised, _ = data_and_noise(walk.flow, t, x, walk.velocity(t, x))
        a_t, b_t = plain_coefficients(walk.flow, t, x)
        a_s, b_s = plain_coefficients(walk.flow, s, x)
        h = log_ratio(a_s, b_s) - log_ratio(a_t, b_t)
        weight = jnp.zeros_like(x) if last else h / (2.0 * h_before)  # 1 / 2r
        guess = denoised + weight * (denoised - before)
        ratio = b_s / b_t
        x = ratio * x + (a_s - a_t * ratio) * guess
        return x, (denoised, jnp.where(a_t > NO_DATA * b_t, h, jnp.full_like(h, jnp.inf)))


def require_linear(flow: Flow, name: str) -> None:
    """`ValueError` for a flow without a and b."""
    if not flow.is_linear:
        raise ValueError(
            f"{name} needs a linear flow x_t = a x_0 + b e in closed form, which this one is not: use hamflow.Heun() "
            "or a diffrax solver"
        )


def require_normal(flow: Flow, name: str) -> None:
    """`ValueError` for a linear flow whose noise is not normal, where a score or fresh normal noise is asked for."""
    if flow.is_linear and not flow.has_normal_noise:
        raise ValueError(
            f"{name} needs x_t = a x_0 + b e with a normal e, which that of {type(flow.coupling).__name__} is not: use "
            "hamflow.Heun(), hamflow.DDIM(), hamflow.DPMSolver2M() or a diffrax solver, without noise or scores"
        )


def require_plain(flow: Flow, name: str) -> None:
    """`ValueError` for a flow whose a and b are not numbers or one a coordinate."""
    require_linear(flow, name)
    operators = flow.coefficient_operators(jnp.asarray(flow.horizon, float) / 2.0, None)
    if any(linear.is_matrix(operator) for operator in operators):
        raise ValueError(
            f"{name} needs coefficients that are numbers or one a coordinate, and those of this flow are matrices: use "
            "hamflow.DDIM(), hamflow.Heun() or a diffrax solver"
        )


def plain_coefficients(flow: Flow, t: Array, x: Array) -> tuple[Array, Array]:
    """a and b at one time, of x's shape."""
    a, b, _, _ = flow.coefficient_operators(t, x.shape)
    return tuple(jnp.broadcast_to(jnp.asarray(o.value, x.dtype), x.shape) for o in (a, b))  # pyright: ignore


def log_ratio(a: Array, b: Array) -> Array:
    """log(a / b), finite."""
    tiny = float(jnp.finfo(a.dtype).tiny)
    return jnp.log(jnp.maximum(a, tiny)) - jnp.log(jnp.maximum(b, tiny))
