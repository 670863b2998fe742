"""A domain that a user might bring: a wedge between two walls, in the plane."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

import hamflow as hf


class Wedge(hf.AbstractDomain):
    """0 <= angle <= pi / order with reflecting walls, for positions of shape (2,).

    The reflections in its walls generate the dihedral group of 2 * order elements, whose copies of the wedge tile the
    plane. So a straight line in the plane, brought back by the element of the copy where it ends, is the path of a
    particle that was reflected at every wall on the way: free motion is exact, however many walls it meets.
    """

    order: int

    flips_momentum: ClassVar[bool] = True
    rotates_momentum: ClassVar[bool] = True  # no wall but the first is a coordinate line

    def fold(self, position, momentum):
        g = self._element(position)
        return g @ position, g @ momentum

    def extend(self, position, velocity):
        return self._element(position).T @ velocity  # orthogonal: its inverse

    def contains(self, position):
        slack = 8.0 * float(jnp.finfo(position.dtype).eps) * jnp.sum(jnp.abs(position))  # a fold rounds
        angle = math.pi / self.order
        return (position[1] >= -slack) & (math.sin(angle) * position[0] - math.cos(angle) * position[1] >= -slack)

    def _element(self, position):
        """The matrix that takes the copy of the wedge where `position` lies back to the wedge."""
        x, y = jax.lax.stop_gradient(position)
        angle = math.pi / self.order
        # Inside, rounding must not choose another copy; the walls belong to the wedge.
        at = jnp.where(self.contains(position), 0.5 * angle, jnp.arctan2(y, x))
        turns = jnp.floor(at / (2.0 * angle))
        over = at - 2.0 * angle * turns > angle
        # A rotation by -2 angle turns; or, with the reflection in the upper wall after it, one in the line at `half`.
        half = jnp.where(over, 2.0 * angle * (turns + 1.0), 2.0 * angle * turns)
        sign = jnp.where(over, -1.0, 1.0).astype(position.dtype)
        c, s = jnp.cos(half), jnp.sin(half)
        return jnp.stack([jnp.stack([c, s]), jnp.stack([-s * sign, c * sign])])
