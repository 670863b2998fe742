"""Guidance: predictors made of predictors, that steer where samples go. Each is used wherever a predictor is.

In a linear flow with normal noise, and in a box or on a torus with free normal motion, V is the score times a number
(and a part that does not depend on the condition), so guiding the velocity is guiding the score exactly (derived here):
V_c - V_u = -(W b / a)(score_c - score_u), W = a b' - a' b. For other forces and other noise it is a heuristic.
"""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._factorisations import cholesky, in_single, solve_lower
from .._parameters import as_parameter, require
from .._types import Array, Float, ScalarLike, checked
from ..conversions import data_and_noise
from ..flow import Flow
from ..potentials import AbstractPotential
from .multistep import plain_coefficients, require_plain


@final
class Guided(eqx.Module):
    """V_u + scale (V_c - V_u): away from a weaker predictor, towards a better one.

    Without `weaker`, classifier-free guidance (Ho and Salimans 2022): V_u is the same network without its condition,
    which it must have met in training: there, `drop_labels` writes the null condition over one label in ten. With
    `weaker`, autoguidance (Karras et al. 2024): a smaller or less trained network with the same condition.

    Args:
        predictor: `predictor(t, x, condition, key) -> velocity` on one example.
        scale: 1 for no guidance, 0 for the weaker predictor alone; usually 1 to 3.
        weaker: another predictor, or None.

    Raises:
        ValueError: in use, without `weaker`: a call without a condition. A network without classes refuses one itself.
    """

    predictor: Callable[..., Any]
    scale: float | Array
    weaker: Callable[..., Any] | None

    @checked
    def __init__(self, predictor: Callable[..., Any], scale: ScalarLike, weaker: Callable[..., Any] | None = None):
        self.predictor, self.scale, self.weaker = predictor, as_parameter(scale, "scale"), weaker

    def __call__(self, t: ScalarLike, x: Float[Array, "*event"], condition: Any = None, key: Any = None) -> Array:
        if self.weaker is None and condition is None:
            raise ValueError(
                "guidance without a weaker predictor steers towards a condition, and there is none: give "
                "condition=... (one a row), or Guided(..., weaker=...)"
            )
        strong = self.predictor(t, x, condition, key)
        weak = self.predictor(t, x, None, key) if self.weaker is None else self.weaker(t, x, condition, key)
        return weak + jnp.asarray(self.scale, x.dtype) * (strong - weak)


_LEFT = 3e-3  # of the data: below, single precision cannot divide by a


@final
class EnergyGuided(eqx.Module):
    """A potential added while sampling: data are drawn from about p(x_0) exp(-E(x_0)), without training for E.

    The score of x_t gains -grad E(D(x_t)), D the denoiser, so V gains (W b / a) grad E(D(x)), the gradient taken
    through the predictor. It is exact where E is linear in x_0 and x_0 Gaussian given x_t with a spread that does not
    depend on x_t, and else a guess that is good late on the way (Chung et al. 2023). With `data_std` the energy is told
    how far x_0 may be from D, and can be as soft as that (Song et al. 2023): `painted` is then exact for Gaussian data
    with independent coordinates of that deviation, whatever is measured linearly of them.

    Args:
        predictor: `predictor(t, x, condition, key) -> velocity` on one example.
        flow: linear with normal noise, with coefficients that are numbers or one a coordinate.
        energy: E, a callable from one x_0 to a scalar, such as `painted(known, mask)`, or a potential of hamflow (at
            t = 0); in units of k T.
        data_std: of the data, such as `model.data_std`, or None. Given, the energy is called as
            `energy(x_0, variance)`, variance = b^2 s^2 / (a^2 s^2 + b^2) that of x_0 given x_t, of x_0's shape.

    Raises:
        ValueError: a flow that is not linear, has matrices, or noise that is not normal; in use, an energy that is no
            scalar.
    """

    predictor: Callable[..., Any]
    flow: Flow
    energy: Callable[..., Any] | AbstractPotential
    data_std: float | Array | None

    @checked
    def __init__(
        self,
        predictor: Callable[..., Any],
        flow: Flow,
        energy: Callable[..., Any] | AbstractPotential,
        data_std: ScalarLike | Float[Array, "*event"] | None = None,
    ):
        if flow.is_linear and not flow.has_normal_noise:
            raise ValueError(
                f"EnergyGuided needs normal noise, and that of {type(flow.coupling).__name__} is not: its velocity "
                "does not tell the score, which an energy is added to"
            )
        require_plain(flow, "EnergyGuided")
        self.predictor, self.flow, self.energy = predictor, flow, energy
        self.data_std = None if data_std is None else as_parameter(data_std, "data_std")
        if self.data_std is not None:
            require(self.data_std, lambda s: jnp.asarray(s) > 0, f"data_std must be positive, got {self.data_std}")

    def __call__(self, t: ScalarLike, x: Float[Array, "*event"], condition: Any = None, key: Any = None) -> Array:
        t = jnp.asarray(t, x.dtype)
        a_dot = jnp.asarray(self.flow.coefficient_operators(t, x.shape)[2].value, x.dtype)
        a, _ = plain_coefficients(self.flow, t, x)
        # Where no data are left (a = 0) both W b / a and the gradient through the denoiser have a limit as a product
        # only. It is smooth in time, so it is taken a moment earlier, at the same x, where a is _LEFT again.
        gone = jnp.any(jnp.abs(a) < _LEFT)
        moment = jnp.max(_LEFT / jnp.where(a_dot == 0.0, jnp.ones_like(a_dot), jnp.abs(a_dot)))

        def earlier() -> tuple[Array, Array]:
            return self.predictor(t, x, condition, key), self._pull(t - jnp.minimum(moment, t), x, condition, key)[1]

        velocity, pull = jax.lax.cond(gone, earlier, lambda: self._pull(t, x, condition, key))
        return velocity + pull

    def _pull(self, t: Array, x: Array, condition: Any, key: Any) -> tuple[Array, Array]:
        """V and (W b / a) grad E(D(x)) at a time where data are left."""
        a, b = plain_coefficients(self.flow, t, x)
        spread = ()
        if self.data_std is not None:
            s = jnp.asarray(self.data_std, x.dtype)
            spread = ((b * s) ** 2 / ((a * s) ** 2 + b**2),)

        def energy(x: Array) -> tuple[Array, Array]:
            velocity = self.predictor(t, x, condition, key)
            denoised = data_and_noise(self.flow, t, x, velocity)[0]
            if isinstance(self.energy, AbstractPotential):
                value = self.energy.energy(jnp.zeros_like(t), denoised)
            else:
                value = self.energy(denoised, *spread)
            if jnp.shape(value) != ():
                raise ValueError(f"energy must return one number, got shape {jnp.shape(value)}")
            return value, velocity

        slope, velocity = jax.grad(energy, has_aux=True)(x)
        _, _, a_dot, b_dot = self.flow.coefficient_operators(t, x.shape)
        w = a * jnp.asarray(b_dot.value, x.dtype) - jnp.asarray(a_dot.value, x.dtype) * b
        return velocity, w * b / jnp.where(a == 0.0, jnp.ones_like(a), a) * slope


@checked
def painted(
    known: Float[Array | np.ndarray, "*event"],
    mask: Any,
    *,
    std: float = 0.05,
    measure: Callable[..., Any] | None = None,
) -> Callable[..., Array]:
    """The energy of a picture that is known in part: |mask (A x - known)|^2 / (2 std^2), for `EnergyGuided`.

    Told a variance of x, as `EnergyGuided(..., data_std=...)` does, it is r^T (std^2 + M A diag(variance) A^T M)^-1 r
    over 2, with r = M (A x - known) and M the mask: the rows of A may overlap. A is the derivative of `measure` at 0.
    Beyond 1,024 measured numbers the rows count as if they did not overlap, which is exact only where they do not.

    With A the identity it fills in what the mask leaves out; with A a mean over blocks it makes a picture larger.

    Args:
        known: what was measured, of the shape of A x; where the mask is 0 anything, NaN too.
        mask: 1 where it is known and 0 where not, of known's shape, or of a shape that broadcasts to it; between them
            for what counts in part.
        std: how far off a value may be, in the unit of the data.
        measure: A, a callable from one x_0, linear or nearly so; the identity if None.

    Raises:
        TypeError: a mask of something else than numbers.
        ValueError: a mask of another shape or outside [0, 1], a known value that is not finite, a std that is not
            positive; in use, an A x of another shape.
    """
    known = jnp.asarray(known)
    mask = jnp.asarray(as_parameter(jnp.asarray(mask, float) if _is_boolean(mask) else mask, "mask"), known.dtype)
    try:
        fits = jnp.broadcast_shapes(mask.shape, known.shape) == known.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"mask has shape {mask.shape}, and known {known.shape}: they must agree")
    if not std > 0.0:
        raise ValueError(f"std must be positive, got {std}")
    mask = jnp.broadcast_to(mask, known.shape)
    require(mask, lambda m: (m >= 0) & (m <= 1), "mask must lie in [0, 1]: 1 where known, 0 where not")
    known = jnp.where(mask > 0, known, jnp.zeros_like(known))
    require(known, jnp.isfinite, "known is not finite where the mask says that it is known")

    def energy(x: Array, variance: Array | None = None) -> Array:
        seen = x if measure is None else measure(x)
        if jnp.shape(seen) != known.shape:
            raise ValueError(f"known has shape {known.shape}, but what is measured of an example has {jnp.shape(seen)}")
        residual = mask * (seen - known)
        if measure is None or variance is None or known.size > _MOST_ROWS:
            spread = std**2
            if variance is not None:
                spread = spread + (variance if measure is None else _measured_variance(measure, x, variance))
            return jnp.sum(residual**2 / (2.0 * spread))
        rows = mask.reshape(-1, 1) * _rows_of(measure, x)
        covariance = (rows * jnp.broadcast_to(variance, x.shape).reshape(1, -1)) @ rows.T
        lower = in_single(cholesky, covariance + std**2 * jnp.eye(known.size, dtype=covariance.dtype))
        return 0.5 * jnp.sum(in_single(solve_lower, lower, residual.reshape(-1)) ** 2)

    return energy


_MOST_ROWS = 1024  # of A, whose covariance is factored


def _rows_of(measure: Callable[..., Any], like: Array) -> Array:
    """A of a linear measure, `(measured, size)`: a constant, so a batch shares what is made of it."""
    zero = jnp.zeros(like.shape, like.dtype)
    seen, pull = jax.vjp(measure, zero)

    def one(i: Array) -> Array:
        (row,) = pull(jax.nn.one_hot(i, seen.size, dtype=seen.dtype).reshape(seen.shape))
        return row.reshape(-1)

    return jax.lax.map(one, jnp.arange(seen.size), batch_size=64)


def _is_boolean(mask: Any) -> bool:
    return getattr(mask, "dtype", type(mask)) in (bool, np.dtype(bool))


def _measured_variance(measure: Callable[..., Any], x: Array, variance: Array) -> Array:
    """sum_j A_ij^2 variance_j for each i, A the derivative of `measure` at x; a few of its rows at a time."""
    seen, pull = jax.vjp(measure, jax.lax.stop_gradient(x))

    def one(i: Array) -> Array:
        (row,) = pull(jax.nn.one_hot(i, seen.size, dtype=seen.dtype).reshape(seen.shape))
        return jnp.sum(row**2 * variance)

    return jax.lax.map(one, jnp.arange(seen.size), batch_size=64).reshape(seen.shape)
