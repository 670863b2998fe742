"""The flow under test in double precision, and the states that its laws are measured on."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, PRNGKeyArray
from ..flow import Flow
from ..state import PhaseState

CLOSED, STEPPED = 1e-5, 2e-2  # relative errors allowed to a closed form, and to the steps of an integrator


@dataclasses.dataclass(frozen=True)
class Probe:
    """A flow in double precision, and the states that its laws are measured on."""

    flow: Flow
    key: PRNGKeyArray
    data: Array
    first: PhaseState  # a batch
    time: Array  # most of the way to the horizon
    last: PhaseState  # the batch at that time
    tolerance: float
    draws: int
    distinct: int  # rows of `data` before they repeat

    @classmethod
    def of(cls, flow: Flow, data: np.ndarray, key: PRNGKeyArray, num_states: int, num_draws: int) -> "Probe":
        rows = jnp.asarray(np.resize(data, (num_draws, *data.shape[1:])))
        coupled = flow.coupling.sample(jr.fold_in(key, 1), rows, flow.system, flow.prior, flow.horizon)
        first = jax.tree.map(lambda leaf: leaf[:num_states], coupled)
        time = jnp.asarray(0.83 * flow.horizon, float)
        last = moved(flow, first, time, jnp.zeros_like(time))
        tolerance = CLOSED if flow.integrator is None else STEPPED
        return cls(flow, key, rows, first, time, last, tolerance, num_draws, min(len(data), num_draws))

    @property
    def has_energy(self) -> bool:
        return hasattr(self.flow.system, "energy")

    @property
    def size(self) -> int:
        return self.first.position[0].size

    def is_autonomous(self) -> bool:
        """Whether the field is the same at four times."""
        times = jnp.asarray([0.0, 0.21, 0.58, 1.0]) * self.flow.horizon
        fields = _fields(self.flow.system, times, self.first)
        return all(bool(jnp.all(leaf == leaf[:1])) for leaf in jax.tree.leaves(fields))

    def directions(self, number: int) -> PhaseState:
        """Random directions in phase space, in the units of the states: a small step along one is a small change."""
        return _directions(self.first, jr.fold_in(self.key, 2), number)


# What laws compile is a function of the module, so that a law measured again is not compiled again.
@eqx.filter_jit
def moved(flow: Flow, states: PhaseState, t: Array, t0: Array) -> PhaseState:
    """A batch of states at `t0` at the time `t`."""
    return jax.vmap(lambda z: flow.evolve(z, t, t0))(states)


@eqx.filter_jit
def _fields(system: Any, times: Array, states: PhaseState) -> PhaseState:
    return jax.vmap(jax.vmap(system.vector_field, (None, 0)), (0, None))(times, states)


@eqx.filter_jit
def _directions(states: PhaseState, key: PRNGKeyArray, number: int) -> PhaseState:
    shape = (number, *states.position.shape[1:])
    keys = jr.split(key)

    def spread(leaf: Array) -> Array:
        deviation = jnp.std(leaf)
        return jnp.where(deviation > 0, deviation, jnp.ones_like(deviation))

    units = jax.tree.map(spread, states)
    return PhaseState(units.position * jr.normal(keys[0], shape), units.momentum * jr.normal(keys[1], shape))


def double(tree: Any) -> Any:
    """All floating arrays of a tree in double precision (inside `jax.enable_x64`)."""
    return jax.tree.map(lambda v: jnp.asarray(v, float) if eqx.is_inexact_array(v) else v, tree)


@eqx.filter_jit
def relative(found: Any, expected: Any) -> Array:
    """The largest difference of two trees, relative to the largest entry."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    size = jnp.max(jnp.array([jnp.max(jnp.abs(b)) for _, b in pairs]))
    gap = jnp.max(jnp.array([jnp.max(jnp.abs(a - b)) for a, b in pairs]))
    return gap / jnp.where(size > 0, size, jnp.ones_like(size))
