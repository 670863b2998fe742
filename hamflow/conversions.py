"""Velocity, denoiser, score and noise: four ways to say what a network has learned, each turned into each.

In a linear flow x_t = a x_0 + b e and v_t = a' x_0 + b' e with e white, so of

- the velocity V = E[v_t | x_t],
- the denoiser D = E[x_0 | x_t],
- the noise N = E[e | x_t],
- the score S = grad log q_t = -N / b, where e is normal

one gives all others: x = a D + b N and V = a' D + b' N. With W = a b' - a' b, D = (b' x - b V) / W and
N = (a V - a' x) / W, which nothing at either end makes singular; a score is so at t = 0 (b = 0), and a network that
predicts the noise says nothing about the data where a = 0.

Where nothing pushes and momenta are independent and normal (diffusion, a reflection in a box, a torus), q_t solves the
heat equation, so V = -t M^-1 S with walls too. Both are derived here, and not in the paper.
"""

from collections.abc import Callable
from typing import Any, Literal, final

import equinox as eqx
import jax.numpy as jnp

from . import _linear as linear
from ._factorisations import in_single, inv
from ._modes import Modal, solve_modes
from ._types import Array, Float, ScalarLike, checked
from .couplings import GibbsCoupling, IndependentCoupling
from .flow import Flow
from .kinetics import GaussianKinetic
from .propagators import FreeMotion, LinearFreeMotion
from .system import AbstractSeparableSystem

Quantity = Literal["velocity", "denoiser", "score", "noise"]


@final
class Converted(eqx.Module):
    """A predictor of one quantity made of a predictor of another: `predictor(t, x, condition=None, key=None)`.

    `convert` makes it.
    """

    predictor: Callable[..., Any]
    flow: Flow
    given: Quantity = eqx.field(static=True)
    wanted: Quantity = eqx.field(static=True)

    def __call__(self, t: ScalarLike, x: Float[Array, "*event"], condition: Any = None, key: Any = None) -> Array:
        """The wanted quantity at time `t` and position `x` of one example, of x's shape and dtype."""
        value = self.predictor(t, x, condition, key)
        if jnp.shape(value) != x.shape:
            raise ValueError(f"predictor returned shape {jnp.shape(value)} for one example of shape {x.shape}")
        if self.given == self.wanted:
            return value
        t = self.flow.steady_time(jnp.asarray(t, x.dtype))
        if not self.flow.is_linear:
            return _by_heat(self.flow, t, value, self.given == "velocity")
        a, b, a_dot, b_dot = self.flow.coefficient_operators(t, x.shape)
        denoised, noise = _parts(self.given, a, b, a_dot, b_dot, x, value)
        match self.wanted:
            case "denoiser":
                return denoised
            case "noise":
                return noise
            case "score":
                return -linear.apply(linear.inverse(linear.transpose(b)), noise)
            case _:
                return linear.apply(a_dot, denoised) + linear.apply(b_dot, noise)


@checked
def convert(predictor: Callable[..., Any], flow: Flow, given: Quantity, wanted: Quantity) -> Converted:
    """A predictor of `wanted` from one of `given`, at every time of a flow.

    Args:
        predictor: `predictor(t, x, condition, key)` on one example, returning the given quantity.
        flow: linear, for velocity, denoiser and noise, and for the score too where the noise is normal; or free normal
            motion in a domain, for velocity and score.
        given: what the predictor predicts: "velocity", "denoiser", "score" or "noise".
        wanted: what it shall predict.

    Returns:
        A predictor. Not finite where the quantities do not tell each other: a score at t = 0, and at t = 0 a velocity
        from a denoiser; where a = 0 (the horizon of flow matching, of an oscillation) anything from a noise or a score,
        and near it an error of theirs is multiplied by b / a: to generate, learn a velocity or a denoiser there.

    Raises:
        ValueError: a flow in which one quantity does not give the other.

    Example:
        ```python
        score = hf.convert(model, flow, "velocity", "score")
        jax.vmap(score)(t, x)
        ```
    """
    heat = {given, wanted} == {"velocity", "score"} and heat_kinetic(flow) is not None
    if given != wanted and not flow.is_linear and not heat:
        raise ValueError(
            f"in this flow the {given} does not give the {wanted}: that takes a linear flow, or, for velocity and "
            "score, free motion with normal momenta that are independent of the data (and convert before "
            "hamflow.reschedule, not after)"
        )
    if given != wanted and "score" in (given, wanted) and not (flow.has_normal_noise or heat):
        raise ValueError(
            f"in this flow the {given} does not give the {wanted}: x_t = a x_0 + b e with an e that is not normal "
            f"({type(flow.coupling).__name__}), and only for a normal one is the score -E[e | x_t] / b; velocity, "
            "denoiser and noise give each other"
        )
    return Converted(predictor, flow, given, wanted)


def data_and_noise(flow: Flow, t: Array, x: Array, velocity: Array) -> tuple[Array, Array]:
    """D = E[x_0 | x_t = x] and N = E[e | x_t = x] from the velocity there, in a linear flow: finite at both ends."""
    a, b, a_dot, b_dot = flow.coefficient_operators(t, x.shape)
    return _parts("velocity", a, b, a_dot, b_dot, x, velocity)


def _parts(
    given: str,
    a: linear.Operator,
    b: linear.Operator,
    a_dot: linear.Operator,
    b_dot: linear.Operator,
    x: Array,
    value: Array,
) -> tuple[Array, Array]:
    """(denoiser, noise) from one quantity."""
    if given == "denoiser":
        return value, linear.apply(linear.inverse(b), x - linear.apply(a, value))
    if given in ("noise", "score"):
        noise = value if given == "noise" else -linear.apply(linear.transpose(b), value)
        return linear.apply(linear.inverse(a), x - linear.apply(b, noise)), noise
    if isinstance(a, Modal) and isinstance(b, Modal) and isinstance(a_dot, Modal) and isinstance(b_dot, Modal):
        return solve_modes(a, b, a_dot, b_dot, x, value)
    if any(linear.is_matrix(o) for o in (a, b, a_dot, b_dot)):  # matrices need not commute
        rows = [[linear.matrix_of(o, x.shape, x.dtype) for o in row] for row in ((a, b), (a_dot, b_dot))]
        both = in_single(inv, jnp.block(rows)) @ jnp.concatenate([x.ravel(), value.ravel()])
        return both[: x.size].reshape(x.shape), both[x.size :].reshape(x.shape)
    w = linear.add(linear.compose(a, b_dot), linear.compose(linear.Scaling(-1.0), linear.compose(a_dot, b)))
    unscaled = (
        linear.apply(b_dot, x) - linear.apply(b, value),
        linear.apply(a, value) - linear.apply(a_dot, x),
    )
    return linear.apply(linear.inverse(w), unscaled[0]), linear.apply(linear.inverse(w), unscaled[1])


def heat_kinetic(flow: Flow) -> GaussianKinetic | None:
    """The kinetic energy of a flow that diffuses as heat does, or None."""
    system = flow.system
    free = isinstance(system.propagator(), (FreeMotion, LinearFreeMotion)) and flow.integrator is None
    independent = isinstance(flow.coupling, (IndependentCoupling, GibbsCoupling))
    if not (free and independent and isinstance(system, AbstractSeparableSystem)):
        return None
    return system.kinetic if isinstance(system.kinetic, GaussianKinetic) else None


def _by_heat(flow: Flow, t: Array, value: Array, to_score: bool) -> Array:
    """V = -t Var(v) S, Var(v) = M^-1."""
    kinetic = heat_kinetic(flow)
    assert kinetic is not None  # refused when it was built
    return -kinetic.momentum(value) / t if to_score else -t * kinetic.velocity(value)
