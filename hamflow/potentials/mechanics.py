"""The potentials that mechanics is taught with: small systems whose behaviour is known.

None of them has a closed form here, so a flow or `integrate` follows them step by step. Units are free: energies are in
the unit of the strength, lengths in that of the position.
"""

from typing import ClassVar, final

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._parameters import as_parameter, cast, fit, require
from .._types import Array, Float, Scalar, ScalarLike, checked
from .base import AbstractPotential

Number = ScalarLike | Float[Array | np.ndarray, ""]


@final
class PendulumPotential(AbstractPotential):
    """U = -strength sum cos x: one pendulum a coordinate, x its angle in radians.

    Args:
        strength: the energy of a quarter turn from rest, m g l; a number, or an array of the position's shape.

    With mass m, small swings have the angular frequency sqrt(strength / m); x = pi is the top, 2 strength above rest.
    """

    strength: float | Float[Array, "..."]

    @checked
    def __init__(self, strength: ArrayLike = 1.0):
        self.strength = as_parameter(strength, "strength")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        return -jnp.sum(fit(self.strength, position.shape, position.dtype, "strength") * jnp.cos(position))


@final
class KeplerPotential(AbstractPotential):
    """U = -strength / sqrt(|x|^2 + softening^2), |x| over the whole position: one body in the field of a fixed one.

    Args:
        strength: G M m, an energy times a length; negative repels.
        softening: the length below which the attraction fades (Plummer 1911), at least 0.

    Raises:
        ValueError: a softening that is negative.

    Without softening the energy at the centre is infinite, and the force there no number. On a circle of radius r a
    mass m has the angular frequency sqrt(strength / (m r^3)).
    """

    strength: float | Float[Array, ""]
    softening: float | Float[Array, ""]

    @checked
    def __init__(self, strength: Number = 1.0, softening: Number = 0.0):
        self.strength = as_parameter(strength, "strength")
        self.softening = as_parameter(softening, "softening")
        require(self.softening, lambda s: s >= 0, f"softening must not be negative, got {softening}")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        softening = cast(self.softening, position.dtype)
        return -cast(self.strength, position.dtype) / jnp.sqrt(jnp.sum(position**2) + softening**2)


@final
class HenonHeilesPotential(AbstractPotential):
    """U = (x^2 + y^2) / 2 + coupling (x^2 y - y^3 / 3), a star in the plane of a galaxy: position (x, y).

    Args:
        coupling: the strength of the cubic term, an inverse length.

    The orbits are bounded below the energy 1 / (6 coupling^2), that of the three saddles, and mostly chaotic just
    below it. Hénon and Heiles 1964, "The applicability of the third integral of motion".
    """

    coupling: float | Float[Array, ""]

    @checked
    def __init__(self, coupling: Number = 1.0):
        self.coupling = as_parameter(coupling, "coupling")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        _require_plane(self, position)
        x, y = position
        return 0.5 * (x**2 + y**2) + cast(self.coupling, position.dtype) * (x**2 * y - y**3 / 3.0)


@final
class DoubleWellPotential(AbstractPotential):
    """U = barrier sum ((x / separation)^2 - 1)^2: in every coordinate two minima of 0, at +-separation.

    Args:
        barrier: the height at x = 0, positive; a number, or an array of the position's shape.
        separation: the distance of a minimum from the middle, positive; likewise.

    Raises:
        ValueError: a barrier or a separation that is not positive.

    The curvature at the minima is 8 barrier / separation^2.
    """

    barrier: float | Float[Array, "..."]
    separation: float | Float[Array, "..."]

    @checked
    def __init__(self, barrier: ArrayLike = 1.0, separation: ArrayLike = 1.0):
        self.barrier = as_parameter(barrier, "barrier")
        self.separation = as_parameter(separation, "separation")
        require(self.barrier, lambda b: b > 0, f"barrier must be positive, got {barrier}")
        require(self.separation, lambda s: s > 0, f"separation must be positive, got {separation}")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        shape, dtype = position.shape, position.dtype
        ratio = position / fit(self.separation, shape, dtype, "separation")
        return jnp.sum(fit(self.barrier, shape, dtype, "barrier") * (ratio**2 - 1.0) ** 2)


@final
class QuarticPotential(AbstractPotential):
    """U = strength sum x^4 / 4: an oscillator whose frequency grows with its amplitude.

    Args:
        strength: energy / length^4; a number, or an array of the position's shape.
    """

    strength: float | Float[Array, "..."]

    @checked
    def __init__(self, strength: ArrayLike = 1.0):
        self.strength = as_parameter(strength, "strength")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        return 0.25 * jnp.sum(fit(self.strength, position.shape, position.dtype, "strength") * position**4)


@final
class FPUTPotential(AbstractPotential):
    """A chain of n particles between two walls: U = sum_i spring d_i^2 / 2 + alpha d_i^3 / 3 + beta d_i^4 / 4.

    The displacements x have shape `(n,)`, and d_i = x_(i+1) - x_i for i = 0 ... n with x_0 = x_(n+1) = 0.

    Args:
        alpha: the cubic term, energy / length^3.
        beta: the quartic term, energy / length^4. Without it a cubic chain breaks at large displacements: U falls
            without end.
        spring: the linear term, energy / length^2. Alone and with mass m it has the normal modes
            w_k = 2 sqrt(spring / m) sin(pi k / (2 (n + 1))), k = 1 ... n.

    Fermi, Pasta, Ulam and Tsingou 1955, "Studies of nonlinear problems".
    """

    alpha: float | Float[Array, ""]
    beta: float | Float[Array, ""]
    spring: float | Float[Array, ""]

    @checked
    def __init__(self, alpha: Number = 0.25, beta: Number = 0.0, spring: Number = 1.0):
        self.alpha = as_parameter(alpha, "alpha")
        self.beta = as_parameter(beta, "beta")
        self.spring = as_parameter(spring, "spring")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        if position.ndim != 1:
            raise ValueError(f"FPUTPotential is a chain: the position must have shape (n,), got {position.shape}")
        alpha, beta, spring = (cast(value, position.dtype) for value in (self.alpha, self.beta, self.spring))
        d = jnp.diff(jnp.pad(position, 1))
        return jnp.sum(spring / 2.0 * d**2 + alpha / 3.0 * d**3 + beta / 4.0 * d**4)


@final
class MuellerBrownPotential(AbstractPotential):
    """A plane with three minima and a bent path between them, the usual test of methods that look for rare events.

    U = scale sum_k A_k exp(a_k (x - x_k)^2 + b_k (x - x_k)(y - y_k) + c_k (y - y_k)^2), with four terms.

    Args:
        scale: multiplies the energy; at 1 the minima lie at -146.70, -108.17 and -80.77.

    One exponent is positive: further than about 10 from the centre the energy is not finite in single precision.
    Müller and Brown 1979, "Location of saddle points and minimum energy paths by a constrained simplex optimization
    procedure".
    """

    scale: float | Float[Array, ""]

    amplitudes: ClassVar[tuple[float, ...]] = (-200.0, -100.0, -170.0, 15.0)
    along_xx: ClassVar[tuple[float, ...]] = (-1.0, -1.0, -6.5, 0.7)
    along_xy: ClassVar[tuple[float, ...]] = (0.0, 0.0, 11.0, 0.6)
    along_yy: ClassVar[tuple[float, ...]] = (-10.0, -10.0, -6.5, 0.7)
    centres_x: ClassVar[tuple[float, ...]] = (1.0, 0.0, -0.5, -1.0)
    centres_y: ClassVar[tuple[float, ...]] = (0.0, 0.5, 1.5, 1.0)

    @checked
    def __init__(self, scale: Number = 1.0):
        self.scale = as_parameter(scale, "scale")

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        _require_plane(self, position)
        scale = cast(self.scale, position.dtype)
        terms = (self.amplitudes, self.along_xx, self.along_xy, self.along_yy, self.centres_x, self.centres_y)
        amplitude, a, b, c, x, y = (jnp.asarray(numbers, position.dtype) for numbers in terms)
        x, y = position[0] - x, position[1] - y
        return scale * jnp.sum(amplitude * jnp.exp(a * x**2 + b * x * y + c * y**2))


def _require_plane(potential: AbstractPotential, position: Array) -> None:
    if position.shape != (2,):
        name = type(potential).__name__
        raise ValueError(f"{name} lives in the plane: the position must have shape (2,), got {position.shape}")
