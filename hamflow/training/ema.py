"""Averages of the weights over the training: by a half-life in images, or over a fixed share of the whole run."""

import abc
import math
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp

from hamflow._types import Array, PyTree, Scalar, checked
from hamflow.training.wide import wide


class AbstractAverage(eqx.Module):
    """A rule by which the average of the weights follows the model.

    `make_step` takes any. A new one derives from this class and writes `update`, which runs inside the compiled step.
    """

    @abc.abstractmethod
    def update(self, ema: PyTree, model: PyTree, images: Array, batch_size: int) -> PyTree:
        """The average after a step that led to `model`; all leaves of both trees are floating-point arrays.

        `images` were seen before the step, and `batch_size` more in it. The average has float32 leaves at least: `wide`
        makes them, since a step of an average is smaller than half precision can add.
        """


@final
class ExponentialMovingAverage(AbstractAverage):
    """Average the weights with a half-life counted in images, so that it means the same at every batch size.

    After a step on a batch of b images, with N images seen before it,

        ema <- beta ema + (1 - beta) model,    beta = (1/2)^(b / max(h, 1e-8)),    h = min(halflife_images, ratio N).

    The ramp-up h <= ratio N lets the average forget the random start. Pass `rampup_ratio=None` to have none.
    Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", appendix F.2
    (half-life .5 M images for CIFAR-10 and FFHQ at 64x64, ratio .05).
    """

    halflife_images: float | int = 500_000.0
    rampup_ratio: float | int | None = 0.05

    def __check_init__(self):
        if not self.halflife_images >= 0:
            raise ValueError(f"halflife_images is {self.halflife_images}: it must not be negative.")
        if self.rampup_ratio is not None and not self.rampup_ratio > 0:
            raise ValueError(f"rampup_ratio is {self.rampup_ratio}: it must be positive, or None for no ramp-up.")

    def decay(self, images: Array, batch_size: int) -> Scalar:
        """beta of the step that follows `images` images and takes `batch_size` more."""
        dtype = jnp.result_type(float)
        halflife = jnp.asarray(self.halflife_images, dtype)
        if self.rampup_ratio is not None:
            halflife = jnp.minimum(halflife, images.astype(dtype) * self.rampup_ratio)
        return jnp.exp2(-batch_size / jnp.maximum(halflife, 1e-8))

    def update(self, ema: PyTree, model: PyTree, images: Array, batch_size: int) -> PyTree:
        beta = self.decay(images, batch_size)

        def one(e: Array, m: Array) -> Array:
            e, m = wide(e), m.astype(wide(e).dtype)
            return m + beta.astype(e.dtype) * (e - m)

        return jax.tree.map(one, ema, model)


@final
class PowerFunctionAverage(AbstractAverage):
    """Average the weights over the last part of the training, always the same share of it however long it is.

    After N images the model that was there after M of them counts in proportion to M^gamma. The width of that profile
    is its standard deviation over N, about 1/gamma for narrow ones:

        sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2).

    A step on a batch of b images after N others is, with n = (N + b)/b the number of steps,

        ema <- beta ema + (1 - beta) model,    beta = (1 - 1/n)^(gamma + 1) = (N / (N + b))^(gamma + 1),

    and so the first one forgets the random start. Karras et al. 2024, "Analyzing and improving the training dynamics
    of diffusion models", section 3.1 (widths .05 and .10 are what they keep). From averages that were stored along the
    training, `reconstruct_average` makes those of other widths.

    - `gamma`: 0 (all models count alike) or more. `from_relative_width` takes sigma_rel.

    ```python
    ema = PowerFunctionAverage.from_relative_width(0.05)
    step = make_step(loss, optimizer, ema)
    ```
    """

    gamma: float | int = 6.94  # a relative width of .10

    def __check_init__(self):
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma is {self.gamma}: it must be 0 or more, and finite.")

    @staticmethod
    @checked
    def from_relative_width(relative_width: float | int) -> "PowerFunctionAverage":
        """The average whose profile has the standard deviation `relative_width`, in units of the whole training.

        It lies in (0, 1/sqrt(12)], the upper end being the plain mean, gamma = 0. Raises `ValueError` elsewhere.

        With s = sigma_rel^(-2) and u = gamma + 2 the formula above is u^3 + u^2 - s u + s = 0. Of its roots the largest
        has gamma >= 0; Viete's cosines give it, u + 1/3 = 2 r cos(arccos(-(2/27 + 4 s/3) / (2 r^3)) / 3) with
        r^2 = (s + 1/3)/3 (derived here).
        """
        if not 0 < relative_width <= 12**-0.5:
            raise ValueError(
                f"relative_width is {relative_width}: it must be in (0, 0.2886], 0.2886 being that of the plain mean."
            )
        s = relative_width**-2
        r = math.sqrt((s + 1 / 3) / 3)
        u = 2 * r * math.cos(math.acos(-(2 / 27 + 4 * s / 3) / (2 * r**3)) / 3) - 1 / 3
        return PowerFunctionAverage(max(u - 2, 0.0))

    @property
    def relative_width(self) -> float:
        """sigma_rel: the standard deviation of the profile, in units of the whole training."""
        gamma = self.gamma
        return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)

    def decay(self, images: Array, batch_size: int) -> Scalar:
        """beta of the step that follows `images` images and takes `batch_size` more."""
        return 1 - self._weight(images, batch_size)

    def update(self, ema: PyTree, model: PyTree, images: Array, batch_size: int) -> PyTree:
        weight = self._weight(images, batch_size)

        def one(e: Array, m: Array) -> Array:
            e = wide(e)
            return e + weight.astype(e.dtype) * (m.astype(e.dtype) - e)

        return jax.tree.map(one, ema, model)

    def _weight(self, images: Array, batch_size: int) -> Scalar:
        """1 - beta, to all digits: late in a long training it is so small that float32 would round it off beta."""
        share = batch_size / (images.astype(jnp.result_type(float)) + batch_size)
        return -jnp.expm1((self.gamma + 1) * jnp.log1p(-share))
