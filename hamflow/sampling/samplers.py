"""Samplers: how one example walks down a grid of times. One loop; a method is one step.

`generate(..., solver=DDIM())` takes them where it takes a diffrax solver. To add one, subclass `AbstractSampler` and
write three methods; the velocity is asked for by `walk.velocity(t, x)`, as often as the method likes.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
import jax.random as jr

from .._module import AbstractModule
from .._types import Array, Float, PRNGKeyArray, PyTree
from ..flow import Flow


class Walk(NamedTuple):
    """What a step may ask."""

    velocity: Callable[[Array, Array], Array]  # V(t, x), extended beyond walls
    flow: Flow
    num_steps: int


class AbstractSampler(AbstractModule):
    """One step of generation, from a time to an earlier one."""

    @abc.abstractmethod
    def require_flow(self, flow: Flow) -> None:
        """Raise a `ValueError` that says what to do if the method does not hold for this flow."""

    @abc.abstractmethod
    def init(self, x: Float[Array, "*event"]) -> PyTree:
        """What the first step remembers; `None` for a method without a memory."""

    @abc.abstractmethod
    def step(
        self,
        walk: Walk,
        t: Array,
        s: Array,
        x: Float[Array, "*event"],
        memory: PyTree,
        key: PRNGKeyArray,
        last: bool,
    ) -> tuple[Float[Array, "*event"], PyTree]:
        """x at s < t, and what the next step remembers. `last` is known when the method is compiled: s is 0 then."""


def walk_down(
    sampler: AbstractSampler, walk: Walk, x: Float[Array, "*event"], grid: Array, key: PRNGKeyArray
) -> Float[Array, "*event"]:
    """One example, from grid[0] to grid[-1]; the noise of step i comes from `fold_in(key, i)`."""

    def step(carry: tuple[Array, PyTree], interval: tuple[Array, Array, Array]) -> tuple[tuple[Array, PyTree], None]:
        t, s, i = interval
        return sampler.step(walk, t, s, *carry, jr.fold_in(key, i), False), None

    indices = jnp.arange(grid.size - 2)
    (x, memory), _ = jax.lax.scan(step, (x, sampler.init(x)), (grid[:-2], grid[1:-1], indices))
    return sampler.step(walk, grid[-2], grid[-1], x, memory, jr.fold_in(key, grid.size - 2), True)[0]


@final
class Euler(AbstractSampler):
    """x_s = x - (t - s) V(t, x): order 1, one evaluation a step, for every flow."""

    def require_flow(self, flow: Flow) -> None:
        pass

    def init(self, x: Float[Array, "*event"]) -> PyTree:
        return None

    def step(
        self, walk: Walk, t: Array, s: Array, x: Array, memory: PyTree, key: PRNGKeyArray, last: bool
    ) -> tuple[Array, PyTree]:
        return x + (s - t) * walk.velocity(t, x), None


@final
class Heun(AbstractSampler):
    """Order 2, two evaluations a step and one in the last, which is Euler's (Karras et al. 2022, algorithm 1).

    n steps are 2 n - 1 evaluations, and V is not asked at t = 0. For every flow; what `generate` takes by itself.
    """

    def require_flow(self, flow: Flow) -> None:
        pass

    def init(self, x: Float[Array, "*event"]) -> PyTree:
        return None

    def step(
        self, walk: Walk, t: Array, s: Array, x: Array, memory: PyTree, key: PRNGKeyArray, last: bool
    ) -> tuple[Array, PyTree]:
        slope = walk.velocity(t, x)
        if last:
            return x + (s - t) * slope, None
        corrected = walk.velocity(s, x + (s - t) * slope)
        return x + (s - t) / 2.0 * (slope + corrected), None
