"""Hamiltonian score matching: learn the score as the force that keeps the Boltzmann-Gibbs law.

    min over F, max over V, of  E[2 V(t, x_t) . v_t - |V(t, x_t)|^2] / t^2,

the data starting with momenta from exp(-K) and following F for a short time t (Holderrieth, Xu, Jaakkola 2024). At the
best V this is the discrepancy D(t) / t^2, about E|F - score|^2. Three ways to the inner maximum:

- a network V trained along (`inner="network"`): the gradient in V's parameters stops at the state, that in F's goes
  through the trajectory with V held fixed (the envelope theorem);
- a ridge regression on features (`inner="ridge"`), fitted on one half of the batch and used on the other;
- tied to the force (`inner="tied"`, ours). Write V = t (F' - S) with F' a frozen copy of F. The maximum over S is
  S = F' - E[v_t | x_t] / t, and the minimum over F makes F = S. Let one network be both: then V = 0 at every step, the
  outer gradient vanishes with it, and what is left is the inner one, that of E[2 S(x_t) . v_t] / t. It moves F against
  the mean velocity, F -> F - E[v_t | x_t] / t, and rests where that is zero, at the score (theorem 1).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, Float, PRNGKeyArray, Scalar, checked
from ..domains import AbstractDomain, Euclidean
from ..integrators.base import AbstractIntegrator
from ..integrators.composition import Leapfrog
from ..kinetics import AbstractKinetic, GaussianKinetic
from ..potentials.base import AbstractForce
from ..state import PhaseState
from . import ridge
from .boltzmann import (
    Momenta,
    ShortTime,
    Times,
    as_force,
    freeze,
    gain,
    require_data,
    require_inside,
    require_motion,
    require_short,
)
from .features import features_of

Inner = Literal["tied", "network", "ridge"]


@checked
def hamiltonian_score_matching_loss(
    force: AbstractForce | Callable[..., Any],
    data: Float[Array | np.ndarray, "batch *event"],
    key: PRNGKeyArray,
    *,
    times: Times,
    inner: Inner = "tied",
    predictor: Callable[..., Any] | None = None,
    features: Callable[..., Any] | None = None,
    penalty: float = 1e-3,
    kinetic: AbstractKinetic = GaussianKinetic(),  # noqa: B008
    domain: AbstractDomain = Euclidean(),  # noqa: B008
    integrator: AbstractIntegrator = Leapfrog(),  # noqa: B008
    num_steps: int = 1,
    momenta: Momenta = "kinetic",
) -> Scalar:
    """The loss whose gradient, in the parameters of `force` and of `predictor` together, is one step of the game.

    Differentiate it in both at once: the gradient in the force's parameters is that of the discrepancy at fixed V, the
    gradient in the predictor's is minus that of the maximum. Its value is meant to be read:

    - "network", "ridge": E[2 V . v_t - |V|^2] / t^2, the discrepancy that V sees, near E|F - score|^2 where V is good;
    - "tied": E[2 F(x_t) . v_t / t - |F(x_t)|^2], near E|F - score|^2 - E|score|^2, the loss of implicit score matching.

    With another mass or kinetic energy M = E[v v^T] stands in all of them: |M (F - score)|^2 in the first two, and
    (F - score) . M (F - score) - score . M score in the third.

    Args:
        force: the score to learn: a force, a potential (a conservative score), or a callable from one position to an
            array of its shape.
        data: floating, of shape `(batch, *event)`.
        key: a jax key.
        times: one short time or several (a list or a one-dimensional array), used equally often. A tenth to a fifth of
            the finest structure of the data is a good time, for unit mass; beyond a quarter of the fastest swing the
            gradient points the wrong way.
        inner: how the maximum over V is found.
        predictor: for "network": V, as `predictor(t, x, condition=None, key=None) -> velocity`;
            `ShortTimeVelocity(network)` has the right scale in t.
        features: for "ridge": a callable from one position to a vector, such as `WaveFeatures`; its gradients stop.
        penalty: for "ridge": of the regression, in units of a feature's mean square and of its relative noise.
        kinetic: K, which must be even, as all are.
        domain: where the data live.
        integrator: of the short motion. What it is off by moves the force that is learned, with leapfrog by a relative
            h^2 curvature / 4.
        num_steps: of the integrator, for every time.
        momenta: "kinetic" draws them from exp(-K), the law that a score keeps for all times. "signs" are random signs
            of the same covariance (times the root of the mass): less noise, as in sliced score matching, and the
            score is what is learned for t -> 0 only, off by a relative t^2 curvature at a time t (ours). With
            `integrator=Splitting((0, 1), (1,), order=1)`, which drifts first, a "tied" step costs least.

    Returns:
        A scalar in the data's dtype.

    Raises:
        TypeError: arguments of another kind, by name; a score of another shape or dtype than the position.
        ValueError: an empty batch, data that are not finite, a time that is not positive, a predictor or features that
            `inner` does not ask for, or that are missing.
        RuntimeError: a time far beyond a quarter of the swing that most data see; a motion that becomes non-finite; a
            datum outside the domain.
    """
    data = require_data(data, 2 if inner == "ridge" else 1)
    if inner == "ridge":  # its halves are stretches of the batch: an order of the data must not decide them
        data = jr.permutation(jr.fold_in(key, 1), data)
    _check_inner(inner, predictor, features)
    short, score = ShortTime(times, kinetic, domain, integrator, num_steps, momenta), as_force(force)
    t = short.pick(data.shape[0], data.dtype)
    keys = jr.split(key, data.shape[0])
    data = require_short(short, score, require_inside(domain, data), keys, t)

    def pairs_of(score: AbstractForce) -> PhaseState:
        return require_motion(jax.vmap(lambda x, k, t: short.pair(score, x, k, t))(data, keys, t))

    if inner == "ridge" and not penalty >= 0.0:
        raise ValueError(f"penalty must not be negative, got {penalty}")
    if inner == "tied":
        return _tied(*short.ends_and_forces(score, data, keys, t), jnp.concatenate([t, t]), kinetic)
    pairs = pairs_of(score)
    if inner == "network":
        return _played(predictor, pairs, t)
    return _ridged(features, penalty, pairs, t)


def _tied(ends: PhaseState, forces: Array, t: Array, kinetic: AbstractKinetic) -> Array:
    """The gradient of 2 F(x_t) . v_t / t, with the value of 2 F . v_t / t - F . M F."""
    if isinstance(kinetic, GaussianKinetic):
        square = jnp.sum(forces * jax.vmap(kinetic.velocity)(forces)) / forces.shape[0]
    else:  # M is known through its draws alone
        square = jnp.sum(jnp.sum((forces * ends.momentum).reshape(t.shape[0], -1), axis=1) ** 2) / forces.shape[0]
    ends, number = require_motion(ends), t.shape[0]
    velocity, forces = ends.momentum.reshape(number, -1), forces.reshape(number, -1)
    push = jnp.mean(jnp.sum(forces * velocity, axis=1) * 2.0 / t)
    return push - jax.lax.stop_gradient(square)


def _played(predictor: Any, pairs: PhaseState, t: Array) -> Array:
    """The value of the game at this V, with the gradients of both players."""

    def value(predictor: Any, pairs: PhaseState) -> Array:
        def one(t: Array, x: Array) -> Array:
            return predictor(t, x, None, None)

        velocity = jax.vmap(jax.vmap(one, (None, 0)))(t, pairs.position)
        if velocity.shape != pairs.position.shape:
            raise ValueError(
                f"predictor returned shape {velocity.shape[2:]} for one example of shape {pairs.position.shape[2:]}: "
                "it must return one velocity, without a batch axis"
            )
        return jnp.mean(gain(velocity, pairs) / t[:, None] ** 2)

    outer = value(freeze(predictor), pairs)  # through the trajectory, V held fixed
    inner = -value(predictor, jax.lax.stop_gradient(pairs))  # the state held fixed
    return outer + inner - jax.lax.stop_gradient(inner)


def _ridged(features: Any, penalty: float, pairs: PhaseState, t: Array) -> Array:
    """V fitted in closed form on one half of the batch and valued on the other, and the other way round."""
    size = pairs.position.shape[0] // 2 * 2
    values = features_of(freeze(features), pairs.position[:size])
    targets = (pairs.momentum / t.reshape(-1, *[1] * (pairs.momentum.ndim - 1)))[:size]
    targets = targets.reshape(*targets.shape[:2], -1)
    # Times take turns from row to row, so a half is a stretch: every other row would fit one time and value another.
    parts = (slice(None, size // 2), slice(size // 2, None))
    halves = [ridge.sums_of(values[part], targets[part]) for part in parts]
    weight = jnp.asarray(penalty, t.dtype)
    num_plain = getattr(features, "num_plain", 0)
    fits = [freeze(ridge.solve(half, weight, num_plain)) for half in halves]
    return (ridge.value(halves[1], fits[0]) + ridge.value(halves[0], fits[1])) / 2.0


def _check_inner(inner: str, predictor: Any, features: Any) -> None:
    wanted = {"network": "predictor", "ridge": "features"}.get(inner)
    for name, given in (("predictor", predictor), ("features", features)):
        if given is not None and name != wanted:
            raise ValueError(f'inner="{inner}" uses no {name}: leave it out, or choose another inner')
        if given is None and name == wanted:
            raise ValueError(f'inner="{inner}" needs {name}=...')
