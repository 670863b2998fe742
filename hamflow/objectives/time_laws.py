"""Laws of the training time, on (0, horizon]."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike

from .._parameters import as_parameter, cast, require
from .._types import Array, Float, PRNGKeyArray, ScalarLike, checked
from ..flow import Flow


class AbstractTimeLaw(eqx.Module):
    """A law of the time at which training looks at a flow. To add one, write `sample`."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, flow: Flow, shape: tuple[int, ...], dtype=None) -> Float[Array, "..."]:
        """Times in (0, flow.horizon], independent, of this shape and dtype (jax's default float if None)."""


class LogNormalNoise(AbstractTimeLaw):
    """ln sigma ~ N(mean, std^2) in the flow's own noise scale: EDM's training law (Karras et al. 2022, table 1).

    Args:
        mean: of ln sigma.
        std: of ln sigma, positive.

    The defaults suit data of a standard deviation about one half; add ln(data_std / .5) to the mean for others.
    """

    mean: float | Float[Array, ""]
    std: float | Float[Array, ""]

    @checked
    def __init__(
        self,
        mean: ScalarLike | Float[Array | np.ndarray, ""] = -1.2,
        std: ScalarLike | Float[Array | np.ndarray, ""] = 1.2,
    ):
        self.mean, self.std = _mean_and_std(mean, std)

    def sample(self, key: PRNGKeyArray, flow: Flow, shape: tuple[int, ...], dtype=None) -> Float[Array, "..."]:
        noise = jr.normal(key, shape, dtype or float)
        log_sigma = cast(self.mean, noise.dtype) + cast(self.std, noise.dtype) * noise
        return _into_open(flow.noise_scale.time(log_sigma), flow)


class UniformTime(AbstractTimeLaw):
    """t uniform on (0, horizon]."""

    def sample(self, key: PRNGKeyArray, flow: Flow, shape: tuple[int, ...], dtype=None) -> Float[Array, "..."]:
        u = jr.uniform(key, shape, dtype or float)
        return _into_open(jnp.asarray(flow.horizon, u.dtype) * (1.0 - u), flow)


class LogitNormalTime(AbstractTimeLaw):
    """logit(t / horizon) ~ N(mean, std^2): most weight on the middle (Esser et al. 2024, for flow matching).

    Args:
        mean: of the logit; negative leans towards the data.
        std: of the logit, positive.
    """

    mean: float | Float[Array, ""]
    std: float | Float[Array, ""]

    @checked
    def __init__(
        self,
        mean: ScalarLike | Float[Array | np.ndarray, ""] = 0.0,
        std: ScalarLike | Float[Array | np.ndarray, ""] = 1.0,
    ):
        self.mean, self.std = _mean_and_std(mean, std)

    def sample(self, key: PRNGKeyArray, flow: Flow, shape: tuple[int, ...], dtype=None) -> Float[Array, "..."]:
        noise = jr.normal(key, shape, dtype or float)
        logit = cast(self.mean, noise.dtype) + cast(self.std, noise.dtype) * noise
        return _into_open(jnp.asarray(flow.horizon, logit.dtype) * jax.nn.sigmoid(logit), flow)


def _mean_and_std(mean: ArrayLike, std: ArrayLike) -> tuple[float | Array, float | Array]:
    mean, std = as_parameter(mean, "mean"), as_parameter(std, "std")
    require(std, lambda s: s > 0, f"std must be positive, got {std}")
    return mean, std


def _into_open(t: Array, flow: Flow) -> Array:
    """Clip to (0, horizon]: rounding and an infinite logarithm must not give t = 0, where some scores are singular."""
    horizon = jnp.asarray(flow.horizon, t.dtype)
    # Half precision is coarse but comes near to 0 all the same: its eps would leave out most noise levels.
    eps = min(float(jnp.finfo(t.dtype).eps), float(jnp.finfo(jnp.float32).eps))
    return jnp.clip(t, horizon * eps, horizon)
