"""States on a lattice: whole numbers of a small spacing, so that the way back is the way there bit for bit.

Each stage changes position or momentum by a rounded amount that depends on the other alone, and whole numbers add and
subtract exactly (Levesque and Verlet 1993). The gradient is that of the unrounded stages at the lattice points.
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array
from ..domains import Euclidean
from ..state import PhaseState
from ..system import AbstractSystem, ForcedSystem
from .base import AbstractIntegrator, Reversed
from .composition import AbstractSplitting
from .reversible import Cotangents, no_cotangents, pull_back
from .stages import Action, drift, kick


def require_lattice(system: AbstractSystem, integrator: AbstractIntegrator, adjoint: str, resolution: float) -> None:
    """A `ValueError` where states on a lattice do not exist."""
    if not (resolution > 0.0 and math.isfinite(resolution)):
        raise ValueError(f"resolution must be positive and finite, got {resolution}")
    if adjoint != "reversible":
        raise ValueError('resolution makes the walk back exact, so it needs adjoint="reversible"')
    if not isinstance(system.domain, Euclidean):
        raise ValueError(f"resolution needs a Euclidean domain, got {type(system.domain).__name__}")
    splitting = getattr(integrator, "integrator", integrator)
    if not isinstance(splitting, AbstractSplitting):
        raise ValueError(f"resolution needs kicks and drifts, got {type(integrator).__name__}: use a splitting")
    if isinstance(system, ForcedSystem) and not system.is_frictionless:
        raise ValueError("resolution needs a system without friction, which shrinks the lattice")


def lattice_steps(
    system: AbstractSystem,
    integrator: AbstractIntegrator,
    state: PhaseState,
    t0: Array,
    h: Array,
    count: int,
    resolution: float,
) -> PhaseState:
    """`count` steps of h on the lattice, whose gradient walks back over the same points."""
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    lattice = Lattice(resolution, np.dtype(state.position.dtype))
    turns = Turns.of(integrator, count)

    @jax.custom_vjp
    def steps(parameters: Any, state: PhaseState, t0: Array, h: Array) -> PhaseState:
        return forward(parameters, state, t0, h)[0]

    def forward(parameters: Any, state: PhaseState, t0: Array, h: Array) -> tuple[PhaseState, Any]:
        whole = eqx.combine(parameters, rest)

        def turn(j: Array, carry: tuple[PhaseState, Array]) -> tuple[PhaseState, Array]:
            points, fits = carry
            for action, time, share in turns.at(j, h.dtype):
                change, small = lattice.change(action, whole, t0 + time * h, points, share * h)
                points = lattice.shifted(action, points, change)
                fits = fits & small & lattice.contains(points)
            return points, fits

        (position, a), (momentum, b) = lattice.rounded(state.position), lattice.rounded(state.momentum)
        start = PhaseState(position, momentum)
        points, fits = jax.lax.fori_loop(0, turns.count, turn, (start, a & b & lattice.contains(start)))
        points = eqx.error_if(
            points,
            ~fits,
            f"a position or momentum left the range of the lattice, {lattice.reach:.3g} for a resolution of "
            f"{resolution:.3g} in {lattice.dtype} (or is not finite): take a coarser resolution or smaller steps",
        )
        return jax.tree.map(lattice.value, points), (parameters, points, t0, h)

    def backward(residuals: Any, cotangent: PhaseState) -> tuple[Any, PhaseState, Array, Array]:
        parameters, points, t0, h = residuals
        _, cotangents = lattice_walk_back(lattice, turns, parameters, rest, points, t0, h, cotangent)
        return cotangents.parameters, cotangents.state, cotangents.t0, cotangents.h

    steps.defvjp(forward, backward)
    return steps(parameters, state, t0, h)


def lattice_walk_back(
    lattice: "Lattice",
    turns: "Turns",
    parameters: Any,
    rest: Any,
    points: PhaseState,
    t0: Array,
    h: Array,
    cotangent: PhaseState,
) -> tuple[PhaseState, Cotangents]:
    """The points that the run started from, and the cotangents there."""
    whole = eqx.combine(parameters, rest)

    def turn_back(j: Array, carry: tuple[PhaseState, Cotangents]) -> tuple[PhaseState, Cotangents]:
        points, cotangents = carry
        for action, time, share in reversed(turns.at(turns.count - 1 - j, h.dtype)):
            change, _ = lattice.change(action, whole, t0 + time * h, points, share * h)
            points = lattice.shifted(action, points, -change)
            before = jax.tree.map(lattice.value, points)
            cotangents = pull_back(action, rest, parameters, t0, h, time, share, before, cotangents)
        return points, cotangents

    start = (points, no_cotangents(parameters, t0, h, cotangent))
    return jax.lax.fori_loop(0, turns.count, turn_back, start)


@dataclasses.dataclass(frozen=True)
class Turns:
    """A run as turns of one kick and one drift each, so that all kicks are one piece of compiled code.

    Two copies of a force may round differently; one may not.
    """

    kicks: tuple[float, ...]
    drifts: tuple[float, ...]
    steps: int

    @classmethod
    def of(cls, integrator: AbstractIntegrator, steps: int) -> "Turns":
        """Those of `steps` steps."""
        if isinstance(integrator, Reversed):
            method = integrator.integrator
            assert isinstance(method, AbstractSplitting)
            kicks, drifts = method.shares()
            return cls(kicks[::-1], drifts[::-1], steps)
        assert isinstance(integrator, AbstractSplitting)
        return cls(*integrator.shares(), steps)

    @property
    def count(self) -> int:
        """One more than there are drifts: the run ends with a kick."""
        return self.steps * len(self.drifts) + 1

    def at(self, j: Array, dtype: Any) -> list[tuple[Action, Array, Array]]:
        """(action, time, share) of the kick and the drift of turn `j`, times and shares in steps."""
        size = len(self.drifts)
        reached = np.cumsum((0.0, *self.drifts[:-1]))
        kicks, drifts, reached = (jnp.asarray(v, dtype) for v in (self.kicks, self.drifts, reached))
        step, m = j // size, j % size
        first, last = j == 0, j == self.count - 1
        seam = jnp.where(first, kicks[0], jnp.where(last, kicks[size], kicks[size] + kicks[0]))
        drift_share = jnp.where(last, jnp.zeros_like(seam), drifts[m])
        time = step.astype(dtype) + reached[m]
        return [
            (kick, time, jnp.where(m == 0, seam, kicks[m])),
            (drift, time + drift_share / 2.0, drift_share),
        ]


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Whole numbers of a spacing: int32 for single precision, int64 for double."""

    resolution: float
    dtype: np.dtype

    @property
    def whole_number(self) -> Any:
        """The integer type of a point."""
        return jnp.int64 if jnp.finfo(self.dtype).bits == 64 else jnp.int32

    @property
    def reach(self) -> float:
        """The largest position or momentum, half of what the integers hold: a sum of two must not wrap."""
        return self.resolution * float(jnp.iinfo(self.whole_number).max) / 2.0

    def rounded(self, value: Array) -> tuple[Array, Array]:
        """The nearest point, and whether there is one."""
        number = jnp.round(value / self.dtype.type(self.resolution))
        near = jnp.abs(value) < self.reach  # false for a NaN
        return jnp.where(near, number, jnp.zeros_like(number)).astype(self.whole_number), jnp.all(near)

    def value(self, point: Array) -> Array:
        """The number that a point stands for."""
        return point.astype(self.dtype) * self.dtype.type(self.resolution)

    def contains(self, points: PhaseState) -> Array:
        """Whether all coordinates are within reach, with room for one more change."""
        return jnp.all(
            (jnp.abs(self.value(points.position)) < self.reach) & (jnp.abs(self.value(points.momentum)) < self.reach)
        )

    def change(self, action: Action, whole: Any, t: Array, points: PhaseState, step: Array) -> tuple[Array, Array]:
        """The rounded change that a kick or drift makes, and whether it fits.

        The same bits whoever asks: barriers keep it from being fused with what is around it.
        """
        given = self.value(points.position if action is kick else points.momentum)
        given, t, step = jax.lax.optimization_barrier((given, t, step))
        zero = jnp.zeros_like(given)
        if action is kick:
            moved = action(whole, t, PhaseState(given, zero), step).momentum
        else:
            moved = action(whole, t, PhaseState(zero, given), step).position
        return self.rounded(jax.lax.optimization_barrier(moved))

    def shifted(self, action: Action, points: PhaseState, by: Array) -> PhaseState:
        """The points with the momentum (kick) or the position (drift) moved."""
        if action is kick:
            return PhaseState(points.position, points.momentum + by)
        return PhaseState(points.position + by, points.momentum)
