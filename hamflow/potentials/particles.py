"""Many particles: pairs that attract and repel, and what makes a cluster's place irrelevant.

Positions have shape `(n, d)`, one row a particle. A boolean `mask` of shape `(n,)` says which rows are there, so that
clusters of different sizes fit into arrays of one shape.
"""

from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from .._parameters import as_parameter, cast, require
from .._types import Array, Float, Scalar, ScalarLike, checked
from .base import AbstractPotential


@final
class LennardJonesPotential(AbstractPotential):
    """U = sum over pairs i < j of 4 well_depth ((diameter / r_ij)^12 - (diameter / r_ij)^6).

    Args:
        well_depth: the energy that a pair gains at its best distance, 2^(1/6) diameter; positive.
        diameter: the distance at which the energy of a pair is 0; positive.
        mask: booleans of shape `(n,)`, False for particles that are absent, or None. An absent particle neither pushes
            nor is pushed: its force is exactly 0 wherever it sits.

    Raises:
        ValueError: a well depth or a diameter that is not positive, a mask that is not boolean or not one row.

    Two present particles at one place have an infinite energy, and no number as a force. The energy depends on
    differences alone, so total momentum is kept, and so is the centre of mass of a start without any
    (`remove_centre_of_mass` makes one). All n^2 pairs are computed: sums in a fixed order, and good to about 1,000
    particles. Lennard-Jones 1924; Wales and Doye 1997, "Global optimization by basin-hopping", for its clusters.
    """

    well_depth: float | Float[Array, ""]
    diameter: float | Float[Array, ""]
    mask: Array | None

    @checked
    def __init__(
        self,
        well_depth: ScalarLike | Float[Array | np.ndarray, ""] = 1.0,
        diameter: ScalarLike | Float[Array | np.ndarray, ""] = 1.0,
        mask: Any = None,
    ):
        self.well_depth = as_parameter(well_depth, "well_depth")
        self.diameter = as_parameter(diameter, "diameter")
        require(self.well_depth, lambda e: e > 0, f"well_depth must be positive, got {well_depth}")
        require(self.diameter, lambda s: s > 0, f"diameter must be positive, got {diameter}")
        self.mask = _as_mask(mask)

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        present = _present(position, self.mask)
        # Where an absent particle sits must not matter, be it no number at all.
        x = jnp.where(present[:, None], position, jnp.zeros_like(position))
        pair = present[:, None] & present[None, :] & ~np.eye(len(x), dtype=bool)
        squared = jnp.sum((x[:, None, :] - x[None, :, :]) ** 2, axis=-1)
        # Twice `where`: the gradient of the branch that is not taken is multiplied by 0, and infinity times 0 is not 0.
        squared = jnp.where(pair, squared, jnp.ones_like(squared))
        s = (cast(self.diameter, x.dtype) ** 2 / squared) ** 3
        energies = cast(self.well_depth, x.dtype) * 4.0 * s * (s - 1.0)
        return 0.5 * jnp.sum(jnp.where(pair, energies, jnp.zeros_like(energies)))


def remove_centre_of_mass(array: Float[Array, "n d"], mask: Any = None, weights: Any = None) -> Float[Array, "n d"]:
    """`array` less its weighted mean over the particles, so that the weighted sum is 0; idempotent.

    Args:
        array: one row a particle.
        mask: booleans of shape `(n,)`; absent rows do not count and come back as they are. None: all are there.
        weights: positive, of shape `(n,)`, or None for equal ones.

    Raises:
        ValueError: a mask or weights of another shape, a mask that is not boolean, weights that are not positive.

    - Positions: `weights` are the masses, and the centre of mass moves to 0.
    - Momenta of equal masses: without weights, and the total momentum becomes 0.
    - Momenta of different masses: apply it to the velocities, with the masses as weights, and turn them back by
      `kinetic.momentum`. Every particle then loses the same velocity, as if the observer moved along.

    For a draw of p ~ N(0, M) the result is the draw given that the total is 0.

    Example:
        ```python
        position = hf.remove_centre_of_mass(position, weights=masses)
        velocity = hf.remove_centre_of_mass(kinetic.velocity(momentum), weights=masses)
        state = hf.PhaseState(position, kinetic.momentum(velocity))
        ```
    """
    present = _present(array, _as_mask(mask))
    w = jnp.ones(len(array), array.dtype) if weights is None else _weights(weights, array)
    w = jnp.where(present, w, jnp.zeros_like(w))[:, None]
    total = jnp.sum(w)
    total = jnp.where(total > 0, total, jnp.ones_like(total))  # nobody there: nothing to divide by, nothing to move
    counted = jnp.where(present[:, None], array, jnp.zeros_like(array))
    mean = jnp.sum(w * counted, axis=0, keepdims=True) / total
    return jnp.where(present[:, None], array - mean, array)


def _as_mask(mask: Any) -> Array | None:
    if mask is None:
        return None
    if not isinstance(mask, (jax.Array, np.ndarray, list, tuple)):
        raise ValueError(f"mask must be an array of booleans of shape (n,) or None, got {mask!r}")
    mask = jnp.asarray(mask)
    if mask.dtype != bool or mask.ndim != 1:
        raise ValueError(f"mask must be booleans of shape (n,), got {mask.dtype} of shape {mask.shape}")
    return mask


def _present(array: Array, mask: Array | None) -> Array:
    """Which rows of `array` are there, with the shapes checked."""
    if array.ndim != 2:
        raise ValueError(f"particles must have shape (n, d), one row a particle, got {array.shape}")
    if mask is None:
        return jnp.ones(len(array), bool)
    if len(mask) != len(array):
        raise ValueError(f"mask has shape {mask.shape}, but there are {len(array)} particles: give it one flag each")
    return mask


def _weights(weights: Any, array: Array) -> Array:
    weights = jnp.asarray(as_parameter(weights, "weights"))
    if weights.shape != array.shape[:1]:
        raise ValueError(f"weights must have shape {array.shape[:1]}, one a particle, got {weights.shape}")
    require(weights, lambda w: w > 0, f"weights must be positive, got {weights}")
    return cast(weights, array.dtype)
