"""Laws of the training time, on (0, horizon]."""

import abc
from typing import Any

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
    """ln(sigma / (2 data_std)) ~ N(mean, std^2), sigma in the flow's own noise scale.

    EDM's distribution of training times (Karras et al. 2022, table 1), whose data have a standard deviation of one
    half, in every unit of the data.

    Args:
        mean: of ln(sigma / (2 data_std)).
        std: of the same, positive.
        data_std: the standard deviation of the data, one positive number; one half if None. Flows whose noise scale
            counts in horizons do not look at it.
    """

    mean: float | Float[Array, ""]
    std: float | Float[Array, ""]
    data_std: float | Float[Array, ""] | None

    @checked
    def __init__(
        self,
        mean: ScalarLike | Float[Array | np.ndarray, ""] = -1.2,
        std: ScalarLike | Float[Array | np.ndarray, ""] = 1.2,
        data_std: ScalarLike | Float[Array | np.ndarray, ""] | None = None,
    ):
        self.mean, self.std = _mean_and_std(mean, std)
        self.data_std = None if data_std is None else as_parameter(data_std, "data_std")
        if data_std is not None:
            require(self.data_std, lambda s: s > 0, f"data_std must be positive, got {data_std}")

    def sample(self, key: PRNGKeyArray, flow: Flow, shape: tuple[int, ...], dtype=None) -> Float[Array, "..."]:
        noise = jr.normal(key, shape, dtype or float)
        scale = flow.noise_scale.for_data(self.data_std)
        # Half precision cannot hold log sigma of a far unit beside its digits.
        wide = noise.astype(jnp.float32) if jnp.finfo(noise.dtype).bits < 32 else noise
        log_sigma = cast(self.mean, wide.dtype) + cast(self.std, wide.dtype) * wide + scale.log_unit(wide.dtype)
        return _into_open(scale.time(log_sigma).astype(noise.dtype), flow)

    @classmethod
    def _from_saved(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {"data_std": None, **fields}  # not a field in the first releases


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
