"""What is looked at while a program runs: a start inside the domain, states that stay finite."""

import equinox as eqx
import jax.numpy as jnp

from ..domains import Euclidean
from ..state import PhaseState
from ..system import AbstractSystem


def require_start(system: AbstractSystem, state: PhaseState) -> PhaseState:
    """`state`, or a `RuntimeError` if it is outside the domain."""
    if isinstance(system.domain, Euclidean):
        return state
    inside = system.domain.contains(state.position)
    name = type(system.domain).__name__
    message = f"the start is outside the {name} of this system (or not a number): move it inside, or widen the bounds"
    return eqx.tree_at(lambda s: s.position, state, eqx.error_if(state.position, ~inside, message))


def require_finite(value: PhaseState, state: PhaseState | None = None) -> PhaseState:
    """`value`, or a `RuntimeError` if `state` (or the value) is not finite."""
    state = value if state is None else state
    bad = ~jnp.all(jnp.isfinite(state.position) & jnp.isfinite(state.momentum))
    return eqx.error_if(
        value,
        bad,
        "the state became non-finite on the way (or was so at the start): take smaller steps, or look whether the "
        "force is finite along the path",
    )
