"""What lies between two steps: Hermite's polynomial through the state and its time derivatives at both ends.

With k derivatives at each end its error is of order h^(2k + 2), so k = 1 serves methods up to order 4, k = 2 order 6
and k = 3 order 8. At walls and on a torus it is built in unfolded coordinates and folded where it is evaluated.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array
from ..domains import AbstractDomain, Euclidean
from ..state import PhaseState
from ..system import AbstractSystem
from .stages import Stage, drift, kick


class Folds(eqx.Module):
    """A domain whose arrays are leaves and whose rest is static, as diffrax's buffers want it."""

    arrays: Any
    rest: Any = eqx.field(static=True)

    @classmethod
    def of(cls, domain: AbstractDomain) -> "Folds":
        """Take a domain apart."""
        return cls(*eqx.partition(domain, eqx.is_array))

    @property
    def domain(self) -> AbstractDomain:
        """The domain again."""
        return eqx.combine(self.arrays, self.rest)


class HermiteInterpolation(diffrax.AbstractLocalInterpolation):
    """The polynomial of one step, in unfolded coordinates; diffrax builds it from a step's dense information."""

    t0: Any
    t1: Any
    left: tuple[PhaseState, ...]
    right: tuple[PhaseState, ...]
    folds: Folds

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> PhaseState:
        """The state at `t0`, or the change from `t0` to `t1`."""
        del left
        if t1 is not None:
            return jax.tree.map(lambda b, a: b - a, self.evaluate(t1), self.evaluate(t0))
        dtype = self.left[0].position.dtype
        length = jnp.asarray(self.t1 - self.t0, dtype)
        safe = jnp.where(length == 0, jnp.ones_like(length), length)
        s = jnp.asarray(t0 - self.t0, dtype) / safe
        weights = hermite_weights(s, len(self.left))
        scales = [length**i for i in range(len(self.left))]

        def mix(*leaves: Array) -> Array:
            ends = [leaf * scale for leaf, scale in zip(leaves, scales * 2, strict=True)]
            return sum((w * end for w, end in zip(weights, ends, strict=True)), jnp.zeros_like(ends[0]))

        unfolded = jax.tree.map(mix, *self.left, *self.right)
        return PhaseState(*self.folds.domain.fold(unfolded.position, unfolded.momentum))


def hermite_weights(s: Array, derivatives: int) -> list[Array]:
    """The weights, at s in [0, 1], of the values and derivatives at 0 and then of those at 1.

    `derivatives` values at each end, the first being the function itself.
    """
    size = 2 * derivatives
    powers = np.arange(size)
    rows = []
    for end in (0.0, 1.0):
        for order in range(derivatives):  # the derivative of s^n: n (n - 1) ... s^(n - order)
            factors = np.prod([powers - i for i in range(order)], axis=0) if order else np.ones(size)
            rows.append(factors * np.where(powers >= order, end ** np.maximum(powers - order, 0), 0.0))
    coefficients = np.linalg.inv(np.stack(rows))  # column j: the polynomial that is 1 in condition j and 0 in the rest
    monomials = [s**n for n in range(size)]
    return [
        sum((float(c) * m for c, m in zip(column, monomials, strict=True)), jnp.zeros_like(s))
        for column in coefficients.T
    ]


def step_with_derivatives(
    stages: tuple[Stage, ...],
    order: int,
    system: AbstractSystem,
    t0: Array,
    state: PhaseState,
    h: Array,
    sign: Array,
) -> tuple[PhaseState, dict[str, Any]]:
    """One step, and what `HermiteInterpolation` needs; `sign` is that of diffrax's time against ours."""
    end, unfolded = state, state.position
    for stage in stages:
        before, end = end, stage(system, t0, end, h)
        if isinstance(system.domain, Euclidean):
            unfolded = end.position
        elif stage.action is not kick:
            moved = _displacement(stage, system, t0, before, end, h)
            unfolded = unfolded + system.domain.extend(unfolded, moved)
    count = max(1, (order + 1) // 2 - 1)

    def carry(vector: Array) -> Array:
        return system.domain.extend(unfolded, vector)

    def derivatives(t: Array, at: PhaseState) -> list[PhaseState]:
        values = _time_derivatives(system, t, at, count)
        return [jax.tree.map(lambda leaf, i=i: sign**i * leaf, value) for i, value in enumerate(values, start=1)]

    left = (state, *derivatives(t0, state))
    right = (
        PhaseState(unfolded, carry(end.momentum)),
        *(PhaseState(carry(d.position), carry(d.momentum)) for d in derivatives(t0 + h, end)),
    )
    return end, {"left": left, "right": right, "folds": Folds.of(system.domain)}


def _displacement(stage: Stage, system: Any, t0: Array, before: PhaseState, after: PhaseState, h: Array) -> Array:
    """How far a stage moved the position, before the fold."""
    if stage.action is drift:
        return stage.coefficient * h * system.velocity(t0 + stage.time * h, before)
    # Any other action: the shortest way over the seam, which is right for steps below half a period.
    domain = system.domain
    plain = after.position - before.position
    period = domain.upper - domain.lower
    return plain - jnp.round(plain / period) * period


def _time_derivatives(system: AbstractSystem, t: Array, state: PhaseState, count: int) -> list[PhaseState]:
    """dz/dt, d2z/dt2 ... along the motion, by nested forward differentiation of the vector field."""

    def along(derivative):
        def next_derivative(t, z):
            return jax.jvp(derivative, (t, z), (jnp.ones_like(t), system.vector_field(t, z)))[1]

        return next_derivative

    functions: list[Callable[..., PhaseState]] = [system.vector_field]
    for _ in range(count - 1):
        functions.append(along(functions[-1]))
    return [function(t, state) for function in functions]
