"""A predictor and a corrector of several steps, with exact exponential weights (in the manner of Zhao et al. 2023).

Along a path of a linear flow x_t = a x_0 + b e, with l = log(a / b) and D = E[x_0 | x_t],

    x_s / b_s = x_t / b_t + int_{l_t}^{l_s} e^l D dl,

exactly. D is replaced by a polynomial in l through the times it is known at, and the moments
I_j = b_s int e^l (l - l_t)^j dl are closed: with h = l_s - l_t and A = a_t b_s / b_t,

    I_0 = a_s - A,   I_1 = h a_s - I_0,   I_2 = h^2 a_s - 2 I_1        (by parts; derived here).
"""

from typing import Literal, NamedTuple, final

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, Float, PRNGKeyArray, PyTree, checked
from ..conversions import data_and_noise
from ..flow import Flow
from .multistep import NO_DATA, log_ratio, plain_coefficients, require_plain
from .samplers import AbstractSampler, Walk


class _Past(NamedTuple):
    """The step before: where it started (corrected), and D there and at the start of the step before it."""

    t: Array
    x: Array
    denoised: Array
    denoised_before: Array
    h_before: Array  # of l, over the step before that; infinite where nothing is known of it


@final
class UniPC(AbstractSampler):
    """One evaluation a step, order 3: what a step has predicted is corrected once D is known at its end.

    The prediction takes D from the line through the last two times, the correction from the parabola through the last
    three, the end among them; the D that corrects a step is the one the next step needs, so that correcting costs no
    evaluation. Order 2 predicts with D held and corrects with the line.

    From where no data are left (a = 0, the horizon of an oscillation and of flow matching) D is nearly linear in
    a / b, and the first step is corrected with the mean of its two values. The last step, to b = 0, holds D: it is
    short on `rho_grid` and `log_snr_grid`, and on even times its error keeps the order at 2.

    Args:
        order: 2 or 3.

    Raises:
        ValueError: another order; in use, a flow that is not linear, or one with matrices.
    """

    order: int = eqx.field(static=True)

    @checked
    def __init__(self, order: Literal[2, 3] = 3):
        self.order = order

    def require_flow(self, flow: Flow) -> None:
        require_plain(flow, "UniPC")

    def init(self, x: Float[Array, "*event"]) -> PyTree:
        zero, never = jnp.zeros_like(x), jnp.full_like(x, jnp.inf)
        return _Past(jnp.full((), jnp.nan, x.dtype), x, zero, zero, never), jnp.zeros((), bool)

    def step(
        self, walk: Walk, t: Array, s: Array, x: Array, memory: PyTree, key: PRNGKeyArray, last: bool
    ) -> tuple[Array, PyTree]:
        past, begun = memory
        t = jnp.asarray(t, x.dtype)
        denoised, _ = data_and_noise(walk.flow, t, x, walk.velocity(t, x))
        if last:  # to b = 0, where x is a D, whatever x is now
            a, _ = plain_coefficients(walk.flow, s, x)
            return a * denoised, memory
        start = jnp.where(begun, past.t, t)
        step = _Step(walk.flow, start, t, x)
        corrected = step.corrected(past, denoised, self.order)
        x = jnp.where(begun, corrected, x)
        h_before = jnp.where(begun & step.has_data, step.h, jnp.full_like(x, jnp.inf))
        new = _Past(t, x, denoised, past.denoised, h_before)
        return _Step(walk.flow, t, s, x).predicted(new, self.order), (new, jnp.ones((), bool))


class _Step:
    """The exact integral over one interval, of polynomials in l - l_t."""

    def __init__(self, flow: Flow, t: Array, s: Array, x: Array):
        a_t, b_t = plain_coefficients(flow, t, x)
        a_s, b_s = plain_coefficients(flow, s, x)
        self.ratio = b_s / b_t
        self.has_data = a_t > NO_DATA * b_t
        self.h = log_ratio(a_s, b_s) - log_ratio(a_t, b_t)
        self.zeroth = a_s - a_t * self.ratio
        self.first = self.h * a_s - self.zeroth
        self.second = self.h**2 * a_s - 2.0 * self.first

    def predicted(self, past: _Past, order: int) -> Array:
        slope = jnp.zeros_like(past.x)
        if order == 3:
            slope = (past.denoised - past.denoised_before) / past.h_before
        slope = jnp.where(self.has_data, slope, jnp.zeros_like(slope))
        return self.ratio * past.x + self.zeroth * past.denoised + self.first * slope

    def corrected(self, past: _Past, end: Array, order: int) -> Array:
        """x_s from x_t, D at t and before (`past`), and D at s (`end`)."""
        h = jnp.where(self.h == 0.0, jnp.ones_like(self.h), self.h)  # of the first step there is nothing to correct
        slope = (end - past.denoised) / h
        bend = jnp.zeros_like(slope)
        if order == 3:
            before = (past.denoised - past.denoised_before) / past.h_before
            total = h + past.h_before
            # D = D_t + slope (l - l_t) + bend (l - l_t)(l - l_s); an infinite h_before bends nothing.
            bend = (slope - before) / total
        in_l = self.first * slope + (self.second - h * self.first) * bend
        in_ratio = self.zeroth * (end - past.denoised) / 2.0
        gained = jnp.where(self.has_data, in_l, in_ratio)
        return self.ratio * past.x + self.zeroth * past.denoised + gained
