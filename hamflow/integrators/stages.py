"""Stages: the invertible pieces that a step is made of, as data.

A stage moves a state by one exact or implicit map, and the same map with the step negated undoes it. Everything else
follows from that: a step is its stages one after another, its inverse is the stages reversed and negated, and a
gradient in constant memory walks back over them. Three known methods expressed as stages of a step of 1:

- symplectic Euler: kick 1, drift 1;
- leapfrog: kick 1/2, drift 1, kick 1/2;
- the implicit midpoint rule: one stage, `midpoint 1`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from .._types import Array
from ..state import PhaseState
from ..system import AbstractSystem

# (system, t, state, h) -> state, undone by -h at the same t
Action = Callable[[Any, Array, PhaseState, Array], PhaseState]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One piece of a step.

    Args:
        action: the map `(system, t, state, h) -> state`.
        coefficient: its share of the step, negative where the method goes back.
        time: where in the step its vector field is asked, from 0 to 1.
    """

    action: Action
    coefficient: float
    time: float

    def __call__(self, system: AbstractSystem, t0: Array, state: PhaseState, h: Array) -> PhaseState:
        """This stage of a step of `h` that starts at `t0`."""
        return self.action(system, t0 + self.time * h, state, self.coefficient * h)


def kick(system: Any, t: Array, state: PhaseState, h: Array) -> PhaseState:
    """The system's kick, as an action."""
    return system.kick(t, state, h)


def drift(system: Any, t: Array, state: PhaseState, h: Array) -> PhaseState:
    """The system's drift, as an action."""
    return system.drift(t, state, h)


def reverse(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The adjoint method: the same stages from the last to the first, at the times seen from the end of the step.

    With the step negated it undoes the method, to rounding.
    """
    return tuple(Stage(stage.action, stage.coefficient, 1.0 - stage.time) for stage in reversed(stages))


def alternate(kicks: tuple[float, ...], drifts: tuple[float, ...]) -> tuple[Stage, ...]:
    """kick, drift, kick, ..., kick: one kick more than drifts, those of share 0 left out.

    A kick asks for the force at the time that the drifts before it have reached.
    """
    if len(kicks) != len(drifts) + 1:
        raise ValueError(f"kicks must be one more than drifts, got {len(kicks)} and {len(drifts)}")
    reached, stages = 0.0, []
    for i, share in enumerate(kicks):
        if share != 0.0:
            stages.append(Stage(kick, share, reached))
        if i < len(drifts):
            stages.append(Stage(drift, drifts[i], reached + drifts[i] / 2.0))
            reached += drifts[i]
    return tuple(stages)
