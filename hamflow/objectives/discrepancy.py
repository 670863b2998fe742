"""The Hamiltonian score discrepancy: how far is a force from the score of the data, with an error bar."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, Float, PRNGKeyArray, checked
from ..domains import AbstractDomain, Euclidean
from ..integrators.base import AbstractIntegrator
from ..integrators.composition import Suzuki4
from ..kinetics import AbstractKinetic, GaussianKinetic
from ..potentials.base import AbstractForce
from . import ridge
from .boltzmann import ShortTime, Times, as_force, freeze, require_data, require_inside, require_motion
from .features import LinearFeatures, WaveFeatures, features_of
from .stability import fastest_swing, natural_time, require_stable

RADIANS = 0.4  # of the fastest swing, in a step, where no number of steps is given
FRACTIONS = (0.1, 0.2, 0.4)  # of the natural time, where no times are given


@dataclasses.dataclass(frozen=True)
class Discrepancy:
    """What `hamiltonian_score_discrepancy` measured: lower bounds, in expectation, of the discrepancy.

    Args:
        estimate: the mean over the times of D(t) / t^2, which reads as E|F - score|^2 (of M (F - score) with another
            kinetic energy, M = E[v v^T]).
        standard_error: of `estimate`.
        times: the times, of shape `(k,)`.
        values: D(t) at each.
        standard_errors: of `values`.
        fastest_swing: the largest angular frequency of the force about the data, in radians a unit of time. Where it
            times t is above pi / 2, D(t) / t^2 says little of E|F - score|^2.
    """

    estimate: float
    standard_error: float
    times: np.ndarray
    values: np.ndarray
    standard_errors: np.ndarray
    fastest_swing: float = 0.0

    def __str__(self) -> str:
        rows = [
            f"t = {t:<9.4g} D = {value:11.4e} +- {error:.1e}    D / t^2 = {value / t**2:11.4e} +- {error / t**2:.1e}"
            for t, value, error in zip(self.times, self.values, self.standard_errors, strict=True)
        ]
        longest = float(np.max(self.times)) * self.fastest_swing
        if longest > math.pi / 2:
            reading = (
                f"times reach {longest:.2g} radians of the fastest swing: beyond a quarter of it, pi / 2, D vanishes "
                "for wrong forces too, and D / t^2 does not read as an error of the score; take shorter times"
            )
        else:
            reading = f"E|F - score|^2 at least about {self.estimate:.4g} +- {self.standard_error:.2g}"
        return "\n".join([*rows, reading])


@checked
def hamiltonian_score_discrepancy(
    force: AbstractForce | Callable[..., Any],
    data: Float[Array | np.ndarray, "batch *event"],
    key: PRNGKeyArray,
    *,
    times: Times | None = None,
    features: Literal["linear", "waves"] | Callable[..., Any] | None = None,
    predictor: Callable[..., Any] | None = None,
    kinetic: AbstractKinetic = GaussianKinetic(),  # noqa: B008
    domain: AbstractDomain = Euclidean(),  # noqa: B008
    integrator: AbstractIntegrator = Suzuki4(),  # noqa: B008
    num_steps: int | None = None,
    num_groups: int = 20,
    train_steps: int = 2000,
    train_batch: int = 256,
    learning_rate: float = 1e-3,
) -> Discrepancy:
    """Measure how far a force is from the score of the data: D(t) = E| E[v_t | x_t] |^2 from Boltzmann-Gibbs starts.

    Data start with momenta from exp(-K) and follow the force for a time t; D(t) = max_V E[2 V(x_t) . v_t - |V(x_t)|^2]
    is zero for all t if and only if the force is the score, and t^2 E|F - score|^2 + O(t^4) otherwise (Holderrieth, Xu,
    Jaakkola 2024, theorem 1 and proposition 2). V is fitted on one half of the data and the value taken on the other
    half, and the other way round, so the result is a lower bound in expectation, whatever V can express. Pairs (p, -p),
    the division by t^2, several times and the error bars are ours.

    One large t does not order forces: D vanishes for wrong ones at a quarter of a swing. Keep to small times.

    The error bars are for thousands of data: with N(0, s^2) and linear features the truth lay beyond three of them in
    3% of data sets of 2,000 and in none of 40 sets of 20,000. Errors of a fine structure hide from "waves" where data
    are few: the estimate is below the truth then by more than its error. It runs many small factorisations; where
    other programs keep the cores busy, `OPENBLAS_NUM_THREADS=1` makes it up to a hundred times faster. Not for `jit`.

    Args:
        force: any score: a force, a potential, or a callable from one position to an array of its shape.
        data: floating, of shape `(batch, *event)`, at least two examples a group, drawn independently.
        key: a jax key, for momenta and the order of the data.
        times: one or several. Unless given, .1, .2 and .4 of the time in which neither a swing of this force nor a walk
            through the data is over; data with finer structure than that want shorter ones.
        features: V is a ridge regression on these ("waves" unless given): "linear" for (1, x); "waves" for (1, x, F(x))
            and random waves of many lengths (`WaveFeatures`); or a callable from one position to a vector.
        predictor: a network `predictor(t, x, condition=None, key=None) -> velocity` to train as V in place of features.
            `ShortTimeVelocity(network)` makes a good one. Needs optax.
        kinetic: K. It must be even, as all are.
        domain: where the data live.
        integrator: of the short motion, without a step size. Its own error shifts the force that has D = 0: by a
            relative h^2 curvature / 4 for leapfrog, and by 1e-3 of that for the default.
        num_steps: of the integrator, for each time. Unless given, so many that a step takes at most .4 radians of the
            fastest swing.
        num_groups: the standard error comes from refits without each of so many groups of data (a delete-a-group
            jackknife). Even, at least 4.
        train_steps: of Adam, for a predictor.
        train_batch: for a predictor.
        learning_rate: at its start; a cosine takes it to zero.

    Returns:
        A `Discrepancy`: `estimate` and `standard_error` of D / t^2, and D at every time. With a predictor the error is
        that of the held-out mean, the fit taken as it is.

    Raises:
        TypeError: arguments of another kind, by name; a score of another shape or dtype than the position.
        ValueError: too few data, data that are not finite, a time that is not positive or beyond the stability of the
            integrator.
        RuntimeError: a motion that becomes non-finite.
    """
    if num_groups < 4 or num_groups % 2:
        raise ValueError(f"num_groups must be even and at least 4, got {num_groups}")
    if predictor is not None and features is not None:
        raise ValueError("features and predictor are two ways to find V: give one of them")
    data = require_inside(domain, require_data(data, 2 * num_groups))
    score = freeze(as_force(force))
    keys = jr.split(key, 6)
    fastest = fastest_swing(score, kinetic, data, keys[1])
    if times is None:
        natural = natural_time(fastest, kinetic, data, keys[0])
        if not natural > 0.0:
            raise ValueError("no natural time: the data do not vary in some coordinate; give times")
        times = tuple(fraction * natural for fraction in FRACTIONS)
    short = ShortTime(times, kinetic, domain, integrator, 1 if num_steps is None else num_steps)
    if num_steps is None:
        steps = max(1, math.ceil(max(short.times) * fastest / RADIANS))
        short = ShortTime(times, kinetic, domain, integrator, steps)
    require_stable(short, fastest)
    data = jr.permutation(keys[2], data)
    size = data.shape[0] // num_groups
    groups = data[: size * num_groups].reshape(num_groups, size, *data.shape[1:])
    if predictor is not None:
        from .fitted_predictor import held_out_values

        per_datum = held_out_values(
            predictor, score, groups, short, keys[3], train_steps, train_batch, learning_rate
        )  # (times, data)
        scaled, errors = per_datum.mean(1), per_datum.std(1, ddof=1) / per_datum.shape[1] ** 0.5
        whole = per_datum.mean(0)
        return _discrepancy(short, scaled, errors, float(whole.std(ddof=1) / whole.size**0.5), fastest)
    phi = _features("waves" if features is None else features, score, data, keys[4])
    # Times are numbers of the data: as constants of the program they would compile it anew for each data set.
    anonymous = ShortTime((1.0,) * len(short.times), kinetic, domain, integrator, short.num_steps)
    estimates, refits = _ridge_values(phi, score, groups, anonymous, jnp.asarray(short.times, data.dtype), keys[3])
    estimates, refits = np.asarray(estimates, float), np.asarray(refits, float)  # (times,), (times, groups)
    return _discrepancy(short, estimates, _jackknife(refits), float(_jackknife(refits.mean(0))), fastest)


def _discrepancy(
    short: ShortTime, scaled: np.ndarray, errors: np.ndarray, standard_error: float, fastest: float
) -> Discrepancy:
    """From D / t^2 at every time."""
    times = np.asarray(short.times)
    return Discrepancy(float(scaled.mean()), standard_error, times, scaled * times**2, errors * times**2, fastest)


def _jackknife(refits: np.ndarray) -> np.ndarray:
    """The standard error from estimates that each leave out one group, along the last axis (Efron and Stein 1981)."""
    count = refits.shape[-1]
    return np.asarray(np.sqrt((count - 1) / count * ((refits - refits.mean(-1, keepdims=True)) ** 2).sum(-1)))


def _features(features: Any, force: AbstractForce, data: Array, key: PRNGKeyArray) -> Callable[..., Any]:
    if features == "linear":
        return LinearFeatures(jnp.mean(data, axis=0))
    if features == "waves":
        return WaveFeatures(data, force, key)
    if not callable(features):
        raise TypeError(f'features must be "linear", "waves" or a callable, got {features!r}')
    return features


@eqx.filter_jit
def _ridge_values(
    phi: Callable[..., Any],
    force: AbstractForce,
    groups: Array,
    short: ShortTime,
    times: Array,
    key: PRNGKeyArray,
) -> tuple[Array, Array]:
    """D / t^2 at every time, and the same without each group."""
    count, size = groups.shape[:2]
    num_plain = getattr(phi, "num_plain", 0)
    first = (jnp.arange(count) < count // 2).astype(groups.dtype)
    keys = jr.split(key, (times.size, count))

    def group_sums(t: Array, x: Array, key: PRNGKeyArray) -> ridge.Sums:
        pairs = require_motion(jax.vmap(lambda x, k: short.pair(force, x, k, t))(x, jr.split(key, size)))
        return ridge.sums_of(features_of(phi, pairs.position), pairs.momentum.reshape(size, 2, -1) / t)

    def at(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        t, keys = inputs
        sums = jax.lax.map(lambda g: group_sums(t, *g), (groups, keys))
        penalties = [ridge.choose_penalty(sums, half, num_plain) for half in (first, 1.0 - first)]

        def estimate(weights: Array) -> Array:
            """Fitted on each half of the groups that `weights` keeps, valued on the other."""
            masks = [weights * half for half in (first, 1.0 - first)]
            halves = [sums.total(mask) for mask in masks]
            fits = [ridge.solve(*one, num_plain) for one in zip(halves, penalties, strict=True)]
            return (ridge.value(halves[1], fits[0]) + ridge.value(halves[0], fits[1])) / 2.0

        without = jax.lax.map(lambda i: estimate((jnp.arange(count) != i).astype(groups.dtype)), jnp.arange(count))
        return estimate(jnp.ones(count, groups.dtype)), without

    return jax.lax.map(at, (times, keys))
