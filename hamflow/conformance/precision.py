"""Laws about the flow in single precision, as it will be trained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, PRNGKeyArray
from ..flow import Flow
from .report import Finding, at_most


def shapes(flow: Flow, data: np.ndarray, key: PRNGKeyArray) -> list[Finding]:
    """States, velocities and prior draws have the shape of the data, float32 stays, and t = 0 is at the data."""
    name, rows = "shapes and dtypes", data[:16].astype(np.float32)
    for fraction in (0.0, 0.5, 1.0):
        times = jnp.full((len(rows),), fraction * flow.horizon, jnp.float32)
        state = eqx.filter_jit(flow.sample_state)(key, jnp.asarray(rows), times)
        for part, value in (("position", state.position), ("momentum", state.momentum)):
            if value.shape != rows.shape or value.dtype != jnp.float32:
                return [Finding(name, "FAIL", note=f"{part}: {value.dtype}{list(value.shape)} of {rows.shape} float32")]
        if fraction == 0.0 and not np.allclose(state.position, rows, atol=1e-6 * (1.0 + np.abs(rows).max())):
            return [Finding(name, "FAIL", note="the state at t = 0 is not at the data: row i must start at data[i]")]
        velocity = jax.vmap(flow.velocity)(state, times)
        if velocity.shape != rows.shape or velocity.dtype != jnp.float32:
            return [Finding(name, "FAIL", note=f"velocity: {velocity.dtype}{list(velocity.shape)}")]
    draw = flow.prior.sample(key, rows.shape[1:])
    if draw.shape != rows.shape[1:]:
        return [Finding(name, "FAIL", note=f"the prior draws {draw.shape} for an example of {rows.shape[1:]}")]
    return [Finding(name, "pass", note="states, velocities and draws of the prior; float32 stays float32")]


def gradients(flow: Flow, data: np.ndarray, key: PRNGKeyArray) -> list[Finding]:
    """Of |x_t|^2 + |v_t|^2 in the data and every parameter, at the data, on the way and at the horizon."""
    name, rows = "finite gradients in float32", jnp.asarray(data[:16], jnp.float32)

    counts = [int(_not_finite(flow, rows, key, jnp.asarray(f * flow.horizon, jnp.float32))) for f in (0.0, 0.5, 1.0)]
    return at_most(name, sum(counts), 0.0, "entries that are not finite, at t = 0, T/2 and T")


@eqx.filter_jit
def _not_finite(flow: Flow, rows: Array, key: PRNGKeyArray, t: Array) -> Array:
    times = jnp.full((rows.shape[0],), t, rows.dtype)

    def value(inputs: tuple[Flow, Array]) -> Array:
        flow, rows = inputs
        state = flow.sample_state(key, rows, times)
        velocity = jax.vmap(flow.velocity)(state, times)
        return jnp.mean(state.position**2) + jnp.mean(velocity**2)

    gradient = eqx.filter_grad(value)((flow, rows))
    return sum((jnp.sum(~jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient)), jnp.zeros((), int))
