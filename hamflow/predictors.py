"""Velocity predictors: V(t, x) = E[v_t | x_t = x], the one thing that is learned.

A predictor is any callable `eqx.Module` `predictor(t, x, condition=None, key=None) -> velocity` on one example; the key
is for dropout, and None means inference. `Preconditioned` makes one of a plain network, for every flow;
`MixtureVelocity` is the exact one where the data are a mixture of Gaussians and the flow is linear with normal noise.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from . import _linear as linear
from ._matrix_scalings import matrix_scalings
from ._parameters import as_floating, as_parameter, cast, is_concrete, require
from ._types import Array, Float, PRNGKeyArray, PyTree, ScalarLike, checked
from .flow import Flow
from .potentials.mixture import GaussianMixturePotential


class Scalings(eqx.Module):
    """What `Preconditioned` puts around its network at one time (THEORY of the docs, "Preconditioning").

    V = mean_velocity + c_skip (x - mean_position) + c_out network(c_noise, c_in (x - mean_position)).
    """

    c_in: linear.Operator
    c_skip: linear.Operator
    c_out: linear.Operator
    c_noise: Array
    mean_position: Any
    mean_velocity: Any


class Moments(eqx.Module):
    """Means and covariances of (x_t, v_t) on a grid of times, for flows without formulas.

    Each is of shape `(times,)`, averaged over the coordinates, or `(times, *event)`, one a coordinate.
    """

    times: Float[Array, "times"]
    mean_position: Float[Array, "times ..."]
    mean_velocity: Float[Array, "times ..."]
    variance: Float[Array, "times ..."]
    covariance: Float[Array, "times ..."]
    velocity_variance: Float[Array, "times ..."]

    def at(self, t: Array) -> tuple[Array, ...]:
        """The five moments at `t`, linear between grid points and constant beyond them."""
        times = self.times.astype(t.dtype)
        i = jnp.clip(jnp.searchsorted(times, t, side="right") - 1, 0, times.size - 2)
        s = jnp.clip((t - times[i]) / (times[i + 1] - times[i]), 0.0, 1.0)
        tables = (self.mean_position, self.mean_velocity, self.variance, self.covariance, self.velocity_variance)
        return tuple((1.0 - s) * cast(table[i], t.dtype) + s * cast(table[i + 1], t.dtype) for table in tables)


class Preconditioned(eqx.Module):
    """A network between scalings that give it inputs and targets of unit variance, uncorrelated with each other.

    For a linear flow, S = a^2 s_d^2 + b^2 and W = a b' - a' b:

        c_in = S^-1/2,  c_skip = (a a' s_d^2 + b b') / S,  c_out = |W| s_d S^-1/2,  c_noise = ln(sigma / u) / 4,

    u = 1 for data whose deviation is between 1/64 and 16, else the power of 1,024 next to 2 s_d: EDM's c_noise, in a
    range that a network can take in. Matrices stand where the flow or `data_std` has them. The formulas ask for second
    moments only, so the noise need not be normal. For diffusion this is EDM's denoiser scaling (Karras et al. 2022,
    table 1) written for the velocity; an oscillation of frequency 1 / s_d needs none.
    For every other flow use `Preconditioned.from_data`.

    Args:
        network: called as `network(c_noise, x, condition, key)` on one example; returns an array of x's shape.
        flow: the flow to predict velocities of.
        data_std: s_d, a positive number, an array of one example's shape, or a matrix R of `shape + shape` with R R^T
            the covariance of the data. The one place that knows it.
        data_mean: a number or an array of one example's shape.
        moments: measured moments in place of the formulas (`from_data` makes them).
        noise_unit: the deviation of the data that c_noise, the default training times of `velocity_matching_loss` and
            the grids of sampling count in, one number; that of `data_std` (its root mean square) if None.
        train_flow: let gradients reach the flow's parameters and these constants. Off, so that an optimiser does not
            train the frequency by accident.

    Raises:
        ValueError: a flow that is not linear, without moments; a standard deviation that is not positive.
    """

    network: Callable[..., Array]
    flow: Flow
    data_std: float | Float[Array, "..."]
    data_mean: float | Float[Array, "..."]
    moments: Moments | None
    noise_unit: float | Float[Array, ""] | None
    train_flow: bool = eqx.field(static=True)

    @checked
    def __init__(
        self,
        network: Callable[..., Any],
        flow: Flow,
        data_std: ScalarLike | Float[Array | np.ndarray, "..."],
        data_mean: ScalarLike | Float[Array | np.ndarray, "..."] = 0.0,
        *,
        moments: Moments | None = None,
        noise_unit: ScalarLike | None = None,
        train_flow: bool = False,
    ):
        self.network, self.flow, self.moments, self.train_flow = network, flow, moments, train_flow
        self.noise_unit = None if noise_unit is None else as_parameter(noise_unit, "noise_unit")
        if noise_unit is not None:
            require(self.noise_unit, lambda s: s > 0, f"noise_unit must be positive, got {noise_unit}")
        self.data_std = as_parameter(data_std, "data_std")
        self.data_mean = as_parameter(data_mean, "data_mean")
        if linear.is_square(jnp.shape(self.data_std)):
            linear.require_matrix_or_positive(jnp.asarray(self.data_std), "data_std")
        else:
            require(self.data_std, lambda s: jnp.asarray(s) > 0, f"data_std must be positive, got {self.data_std}")
        if moments is None and not flow.is_linear:
            raise ValueError(
                "this flow is not linear, so its scalings have no formula: "
                "use Preconditioned.from_data(network, flow, data, key), which measures them"
            )

    @classmethod
    @checked
    def from_data(
        cls,
        network: Callable[..., Any],
        flow: Flow,
        data: Float[Array | np.ndarray, "batch *event"],
        key: PRNGKeyArray,
        *,
        per_coordinate: bool = False,
        num_times: int = 64,
        num_draws: int | None = None,
        noise_unit: ScalarLike | None = None,
        train_flow: bool = False,
    ) -> "Preconditioned":
        """Measure what the scalings need, on data: mean and deviation for a linear flow, moments over time for others.

        Args:
            network: as in the constructor.
            flow: any flow, linear or not.
            data: floating, of shape `(batch, *event)`, at least two examples; as many as fit.
            key: a jax key, for the draws of the flow.
            per_coordinate: one moment a coordinate instead of their average. Not for data in which a coordinate is
                constant.
            num_times: points of the time grid, at T (i / (num_times - 1))^2.
            num_draws: states, each followed through all times; enough for an error of about 1% unless given.
            noise_unit: as in the constructor.
            train_flow: as in the constructor.

        Raises:
            ValueError: fewer than two examples, times or draws, data that are not finite, or that do not vary.
            RuntimeError: data outside the domain.
        """
        data = jnp.asarray(data)
        if data.shape[0] < 2:
            raise ValueError(f"data must hold at least two examples to measure a deviation, got {data.shape[0]}")
        if num_times < 2 or (num_draws is not None and num_draws < 2):
            raise ValueError(f"num_times and num_draws must be at least 2, got {num_times} and {num_draws}")
        require(data, jnp.isfinite, "data must be finite: look for NaN or infinity in them")
        axes = 0 if per_coordinate else tuple(range(data.ndim))
        mean, std = jnp.mean(data, axes), jnp.std(data, axes)
        require(std, lambda s: s > 0, "data do not vary (in some coordinate): their standard deviation is 0")
        if not per_coordinate and is_concrete(mean, std):
            mean, std = float(mean), float(std)
        moments = None if flow.is_linear else _measure(flow, data, key, per_coordinate, num_times, num_draws)
        return cls(network, flow, std, mean, moments=moments, noise_unit=noise_unit, train_flow=train_flow)

    def __call__(self, t: ScalarLike, x: Float[Array, "*event"], condition: Any = None, key: Any = None) -> Array:
        """The velocity at time `t` and position `x` of one example, of x's shape and dtype."""
        x = as_floating(x)
        s, centred, output = self._evaluate(t, x, condition, key)
        return s.mean_velocity + linear.apply(s.c_skip, centred) + linear.apply(s.c_out, output)

    @property
    def deviation(self) -> float | Array:
        """The deviation of the data as one number: `noise_unit`, or the root mean square of `data_std`."""
        if self.noise_unit is not None:
            return self.noise_unit
        std, dtype = self.data_std, jnp.result_type(self.data_std)
        return std if jnp.shape(std) == () else linear.root_mean_square(linear.as_operator(std, None, dtype), dtype)

    @classmethod
    def _from_saved(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of a file. The first releases had c_noise = ln(sigma) / 4 for all data."""
        return {"noise_unit": 0.5, **fields}

    def unit_error(
        self,
        t: ScalarLike,
        x: Float[Array, "*event"],
        velocity: Float[Array, "*event"],
        condition: Any = None,
        key: Any = None,
    ) -> Float[Array, "*event"]:
        """c_out^-1 (V - v): the network's output less its target of unit variance.

        The same number as `normalise_error(t, V - v)`, but the network's output does not pass through c_out and back.
        """
        s, centred, output = self._evaluate(t, x, condition, key)
        target = velocity - s.mean_velocity - linear.apply(s.c_skip, centred)
        return output - linear.apply(linear.inverse(s.c_out), target)

    def _evaluate(self, t: ScalarLike, x: Array, condition: Any, key: Any) -> tuple[Scalings, Array, Array]:
        """The scalings, x less its mean, and what the network makes of it."""
        if jnp.ndim(t) != 0:
            raise ValueError(f"t must be one time for one example, got shape {jnp.shape(t)}: use jax.vmap for a batch")
        s = self.scalings(t, x)
        centred = x - s.mean_position
        output = self.network(s.c_noise, linear.apply(s.c_in, centred), condition, key)
        if output.shape != x.shape or output.dtype != x.dtype:
            raise ValueError(
                f"the network returned {output.dtype}{list(output.shape)} for an example of {x.dtype}{list(x.shape)}; "
                "it must return one array of its input's shape and dtype"
            )
        return s, centred, output

    def weight(self, t: ScalarLike, x: Float[Array, "*event"]) -> Any:
        """1 / c_out^2, the weight of a squared velocity error at `t`: the loss of the network's own unit target.

        Raises:
            ValueError: a matrix c_out, which mixes coordinates and is no weight: `normalise_error` is the general form.
        """
        c_out = self.scalings(t, x).c_out
        if linear.is_matrix(c_out):
            raise ValueError("c_out is a matrix here, so there is no weight a coordinate: use normalise_error")
        return linear.apply(linear.inverse(c_out), jnp.ones_like(x)) ** 2

    def normalise_error(self, t: ScalarLike, error: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """c_out^-1 (V - v), the error of the network's own output."""
        return linear.apply(linear.inverse(self.scalings(t, error).c_out), error)

    def trainable(self) -> PyTree:
        """A tree of booleans, true for what an optimiser should train: the network, and the flow if asked."""
        spec = jax.tree.map(lambda _: False, self)
        spec = eqx.tree_at(lambda p: p.network, spec, jax.tree.map(eqx.is_inexact_array, self.network))
        if self.train_flow:
            spec = eqx.tree_at(lambda p: p.flow, spec, jax.tree.map(eqx.is_inexact_array, self.flow))
        return spec

    def scalings(self, t: ScalarLike, x: Float[Array, "*event"]) -> Scalings:
        """The scalings at time `t` for one example like `x` (of which only shape and dtype matter)."""
        frozen = (self.flow, self.data_std, self.data_mean, self.moments, self.deviation)
        flow, data_std, data_mean, moments, unit = frozen if self.train_flow else _stop_gradient(frozen)
        time = flow.steady_time(jnp.asarray(t, x.dtype))
        flow.require_event(x.shape)
        scale = flow.noise_scale.for_data(unit)
        c_noise = (scale.log_sigma(time) - _order(scale.log_unit(time.dtype))) / 4.0
        if moments is not None:
            mean_x, mean_v, var, cov, var_v = moments.at(time)
            residual = jnp.maximum(var_v - cov**2 / var, 1e-6 * var_v)  # sampling noise must not turn it negative
            c_in, c_skip, c_out = (_by_rank(v) for v in (1.0 / jnp.sqrt(var), cov / var, jnp.sqrt(residual)))
            return Scalings(c_in, c_skip, c_out, c_noise, mean_x, mean_v)
        a, b, a_dot, b_dot = flow.coefficient_operators(time, x.shape)
        deviation = linear.as_operator(data_std, x.shape, x.dtype, "data_std")
        linear.require_invertible(deviation, "data_std")
        operators = (a, b, a_dot, b_dot, deviation)
        if any(linear.is_matrix(operator) for operator in operators):
            scaled = matrix_scalings(*operators, x.shape, differentiable=self.train_flow)
        else:
            scaled = _plain_scale(*operators)
        c_in, c_skip, c_out = scaled
        mean = cast(data_mean, x.dtype)
        if isinstance(mean, float) and mean == 0.0:
            return Scalings(c_in, c_skip, c_out, c_noise, 0.0, 0.0)
        if jnp.shape(mean) not in ((), x.shape):
            raise ValueError(f"data_mean has shape {jnp.shape(mean)}, but the position has shape {x.shape}")
        mean = jnp.broadcast_to(jnp.asarray(mean, x.dtype), x.shape)
        return Scalings(c_in, c_skip, c_out, c_noise, linear.apply(a, mean), linear.apply(a_dot, mean))


def deviation_of(predictor: Any) -> float | Array | None:
    """The deviation of the data that a predictor, or the one inside it, knows; None if none does."""
    while predictor is not None:
        if isinstance(predictor, Preconditioned):
            return predictor.deviation
        predictor = getattr(predictor, "predictor", None)
    return None


class MixtureVelocity(eqx.Module):
    """The exact velocity predictor for data from a Gaussian mixture, in a linear flow with normal noise.

    Component k stays Gaussian, N(a m_k, S_k) with S_k = a^2 s_k^2 + b^2, and E[v_t | x_t] is the average over
    components, by their posterior weights, of a' m_k + (a a' s_k^2 + b b') / S_k (x - a m_k).

    Args:
        mixture: the law of the data.
        flow: a linear flow whose coefficients are numbers or diagonals.

    Raises:
        ValueError: a flow that is not linear, or one whose noise is not normal.
    """

    mixture: GaussianMixturePotential
    flow: Flow

    @checked
    def __init__(self, mixture: GaussianMixturePotential, flow: Flow):
        if not flow.is_linear:
            raise ValueError("the velocity of a mixture is known in closed form for linear flows only")
        if not flow.has_normal_noise:
            raise ValueError(
                f"the velocity of a mixture is known in closed form for normal noise only, not for that of "
                f"{type(flow.coupling).__name__}"
            )
        self.mixture, self.flow = mixture, flow

    def __call__(self, t: ScalarLike, x: Float[Array, "*event"], condition: Any = None, key: Any = None) -> Array:
        """The exact E[v_t | x_t = x], of x's shape and dtype."""
        operators = self.flow.coefficient_operators(self.flow.steady_time(jnp.asarray(t, x.dtype)), x.shape)
        if any(linear.is_matrix(operator) for operator in operators):
            raise ValueError("MixtureVelocity needs coefficients that are numbers or one a coordinate, not matrices")
        a, b, a_dot, b_dot = (jnp.broadcast_to(operator.value, x.shape) for operator in operators)
        means = cast(self.mixture.means, x.dtype)
        stds = self.mixture.stds_of(x.dtype)

        def component(mean: Array, std: Array) -> tuple[Array, Array]:
            variance = (a * std) ** 2 + b**2
            offset = x - a * mean
            log_density = -0.5 * jnp.sum(offset**2 / variance + jnp.log(variance))
            return log_density, a_dot * mean + (a * a_dot * std**2 + b * b_dot) / variance * offset

        log_densities, velocities = jax.vmap(component)(means, stds)
        posterior = jax.nn.softmax(log_densities + jnp.log(cast(self.mixture.weights, x.dtype)))
        return jnp.tensordot(posterior, velocities, axes=1)


def _plain_scale(a, b, a_dot, b_dot, deviation) -> tuple[linear.Operator, ...]:
    """Numbers and diagonals, broadcast against each other."""
    a, b, a_dot, b_dot, s = (operator.value for operator in (a, b, a_dot, b_dot, deviation))
    total = (a * s) ** 2 + b**2
    c_skip = (a * a_dot * s**2 + b * b_dot) / total
    c_out = jnp.abs(a * b_dot - a_dot * b) * s / jnp.sqrt(total)
    return _by_rank(1.0 / jnp.sqrt(total)), _by_rank(c_skip), _by_rank(c_out)


def _order(log_unit: Array) -> Array:
    """The logarithm of the power of 1,024 next to a unit: 0 for data whose deviation is between 1/64 and 16.

    A network's time input is EDM's then, ln(sigma) / 4, and that of data in a far unit is in a range it can take in.
    """
    step = math.log(1024.0)
    return jax.lax.stop_gradient(step * jnp.round(log_unit / step))


def _by_rank(value: Any) -> linear.Operator:
    return linear.Scaling(value) if jnp.ndim(value) == 0 else linear.Diagonal(value)


def _stop_gradient(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, tree)


@eqx.filter_jit
def _measure(
    flow: Flow, data: Array, key: PRNGKeyArray, per_coordinate: bool, num_times: int, num_draws: int | None
) -> Moments:
    size = max(math.prod(data.shape[1:]), 1)
    draws = num_draws or max(512, min(16384, 2**22 // size))
    horizon = jnp.asarray(flow.horizon, data.dtype)
    times = horizon * jnp.linspace(0.0, 1.0, num_times, dtype=data.dtype) ** 2
    axes = 0 if per_coordinate else tuple(range(data.ndim))

    # One draw of the coupling for all times: one that looks at the whole batch is not cheap.
    key_data, key_flow = jr.split(key)
    batch = data[jr.randint(key_data, (draws,), 0, data.shape[0])]
    first = flow.sample_state(key_flow, batch, jnp.zeros((draws,), data.dtype))

    def moments(t: Array) -> tuple[Array, ...]:
        state = jax.vmap(flow.evolve, (0, None))(first, t)
        x, v = state.position, jax.vmap(flow.velocity, (0, None))(state, t)
        mean_x, mean_v = jnp.mean(x, axes, keepdims=True), jnp.mean(v, axes, keepdims=True)
        x, v = x - mean_x, v - mean_v
        averages = jnp.mean(x * x, axes), jnp.mean(x * v, axes), jnp.mean(v * v, axes)
        return jnp.squeeze(mean_x, axes), jnp.squeeze(mean_v, axes), *averages

    return Moments(times, *jax.lax.map(moments, times))
