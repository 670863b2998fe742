"""The named models, each one object apart."""

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from . import _linear as linear
from ._parameters import as_parameter, is_concrete, require
from ._types import Array, Float, ScalarLike, checked
from .couplings import CondOTCoupling, IndependentCoupling, StudentTCoupling
from .domains import Box
from .flow import Flow
from .kinetics import GaussianKinetic
from .potentials import HarmonicPotential, ZeroPotential
from .priors import NormalPrior, StudentTPrior, UniformPrior
from .system import Hamiltonian


@checked
def diffusion(horizon: ArrayLike = 80.0, data_std: ArrayLike = 0.5, data_mean: ArrayLike = 0.0) -> Flow:
    """Diffusion: no force, independent momenta, x_t = x_0 + t p_0; sigma = t, EDM's variance-exploding form.

    Args:
        horizon: T.
        data_std: standard deviation of the data. The prior is N(data_mean, (T^2 + data_std^2) I), the law at T for
            Gaussian data and close to it for others; never exact.
        data_mean: mean of the data, a number or an array of one example's shape: the law at T is centred there.
    """
    horizon, data_std = _positive(horizon, "horizon"), _positive(data_std, "data_std")
    prior = NormalPrior(data_mean, math.sqrt(horizon**2 + data_std**2))
    return Flow(Hamiltonian(ZeroPotential(), GaussianKinetic()), IndependentCoupling(), horizon, prior)


@checked
def poisson_flow(
    degrees_of_freedom: ArrayLike = 128.0,
    horizon: ArrayLike = 80.0,
    data_std: ArrayLike = 0.5,
    data_mean: ArrayLike = 0.0,
) -> Flow:
    """PFGM++ (Xu et al. 2023): no force, x_t = x_0 + t z with heavy tails, z Student-t of D degrees of freedom.

    V* is along the electric field E of a charge at every datum, seen from the distance r = t sqrt(D) in D more
    dimensions: V* = sqrt(D) E_x / E_r. For D -> infinity it is `diffusion`. The paper's best pictures had D = 2048 on
    CIFAR-10 and D = 128 on FFHQ at 64 x 64. Its sigma is t; here log sigma(t) = log(t sqrt(D / (D - 2))), of x_t's
    noise by its variance.

    Args:
        degrees_of_freedom: D, above 2. (D = 1 is PFGM, Xu et al. 2022, whose momenta have no variance.)
        horizon: T; PFGM++ writes sigma_max, and r_max = T sqrt(D).
        data_std: standard deviation of the data. The prior is Student-t with D degrees of freedom, centred at data_mean
            and with the covariance of x_T, (T^2 D / (D - 2) + data_std^2) I; close to the law at T, never exact.
        data_mean: mean of the data, a number or an array of one example's shape.

    Raises:
        ValueError: D that is not above 2, whose momenta have no variance for scalings and training to count with.
    """
    nu, horizon = _positive(degrees_of_freedom, "degrees_of_freedom"), _positive(horizon, "horizon")
    if not nu > 2.0:
        raise ValueError(
            f"degrees_of_freedom must be above 2 for momenta with a variance, got {nu}: take 3 or more; or build the "
            "flow of Flow(..., StudentTCoupling(nu), horizon, StudentTPrior(nu, mean, horizon)), which has no "
            "coefficients, and train a network without scalings"
        )
    data_std = _positive(data_std, "data_std")
    prior = StudentTPrior(nu, data_mean, math.sqrt(horizon**2 + data_std**2 * (nu - 2.0) / nu))
    return Flow(Hamiltonian(ZeroPotential(), GaussianKinetic()), StudentTCoupling(nu), horizon, prior)


@checked
def flow_matching(scale: ArrayLike = 1.0) -> Flow:
    """CondOT flow matching: no force, p_0 = e - x_0, x_t = (1 - t) x_0 + t e, T = 1; exactly N(0, scale^2 I) at T.

    Args:
        scale: standard deviation of the prior. For data in another unit than about 1, that of the data.
    """
    prior = NormalPrior(0.0, _positive(scale, "scale"))
    return Flow(Hamiltonian(ZeroPotential(), GaussianKinetic()), CondOTCoupling(), 1.0, prior)


@checked
def oscillation(frequency: ArrayLike = 1.0) -> Flow:
    """Oscillation: x_t = cos(wt) x_0 + sin(wt)/w p_0, T = pi / (2 w); exactly N(0, I / w^2) at T.

    Args:
        frequency: w, one number for all coordinates: modes of different frequencies arrive at different times. For
            coordinates of different scales use `whitened_oscillation`. w = 1 / data_std needs no preconditioning.
    """
    w = _positive(frequency, "frequency")
    system = Hamiltonian(HarmonicPotential(w), GaussianKinetic())
    return Flow(system, IndependentCoupling(), math.pi / (2.0 * w), NormalPrior(0.0, 1.0 / w))


@checked
def reflection(lower: ArrayLike = -1.0, upper: ArrayLike = 1.0, horizon: ArrayLike = 3.0) -> Flow:
    """Reflection: free motion in a box with walls; about uniform at T.

    Args:
        lower: the lower walls, a number or an array of one example's shape. Data must lie inside.
        upper: the upper walls.
        horizon: T. Fourier mode n of the law has decayed by exp(-(n pi T / L)^2 / 2), L = upper - lower, so T = 1.5 L
            leaves 1.5e-5 of the first.
    """
    system = Hamiltonian(ZeroPotential(), GaussianKinetic(), Box(lower, upper))
    return Flow(system, IndependentCoupling(), _positive(horizon, "horizon"), UniformPrior(lower, upper))


@checked
def whitened_oscillation(covariance: ScalarLike | Float[Array | np.ndarray, "..."]) -> Flow:
    """Oscillation in the metric of the data: every mode has the same period, and Cov x_t is the data's at every t.

    Mass matrix C^-1 and U = x^T C^-1 x / 2, so x'' = -x with v_0 ~ N(0, C); T = pi / 2 and x_T ~ N(0, C) exactly.
    (Derived for hamflow; not in the paper.)

    Args:
        covariance: C of the data: a number, an array of one example's shape (variances; read as a matrix where that
            shape is square), or of `shape + shape`, a symmetric positive definite matrix.

    Raises:
        ValueError: a covariance that is not symmetric positive definite.
    """
    covariance = as_parameter(covariance, "covariance")
    operator = linear.as_operator(covariance, None, getattr(covariance, "dtype", float), "covariance")
    if isinstance(operator, linear.Dense):
        require(
            operator.matrix,
            lambda m: jnp.abs(m - m.T) <= 1e-4 * jnp.max(jnp.abs(m)),
            f"covariance of shape {jnp.shape(covariance)} is read as a matrix, and is not symmetric (for one variance "
            "a coordinate of square positions, flatten both)",
        )
        message = (
            "covariance is not positive definite: drop constant coordinates, or add a small multiple of the identity"
        )
        require(operator.matrix, lambda m: jnp.linalg.eigvalsh(m) > 0, message)
    else:
        require(covariance, lambda c: jnp.asarray(c) > 0, f"covariance must be positive, got {covariance}")
    lower = linear.factor(operator)  # C = L L^T, so the frequency L^-1 has O^T O = C^-1
    precision = linear.inverse(operator)
    if isinstance(precision, linear.Dense):
        precision = linear.Dense((precision.matrix + precision.matrix.T) / 2.0, precision.shape)
    system = Hamiltonian(HarmonicPotential(linear.inverse(lower).value), GaussianKinetic(precision.value))
    return Flow(system, IndependentCoupling(), math.pi / 2.0, NormalPrior(0.0, lower.value))


def _positive(value, name: str) -> float:
    value = as_parameter(value, name)
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be one number, got an array of shape {jnp.shape(value)}")
    if not is_concrete(value):
        raise TypeError(
            f"{name} must be a known number, got a traced one: build the flow outside jit, or use Flow(...)"
        )
    number = float(value)
    if not number > 0:
        raise ValueError(f"{name} must be positive, got {number}")
    return number
