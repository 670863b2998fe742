"""The learning rate as a function of the images seen."""

import jax.numpy as jnp
import optax

from hamflow._types import Scalar, checked


@checked
def learning_rate_schedule(
    learning_rate: float | int,
    batch_size: int,
    *,
    rampup_images: float | int = 0.0,
    decay_images: float | int | None = None,
) -> optax.Schedule:
    """A linear warm-up counted in images, and by choice a fall to zero at the end: an optax schedule.

        rate = learning_rate min(N / max(rampup_images, 1e-8), 1),

    with N the images of all batches up to and with the one at hand, so that the first step moves too. Karras et al.
    2022, "Elucidating the design space of diffusion-based generative models", appendix F.2 (10 M images).

    With `decay_images` the rate is held for half of them and then falls in a straight line to zero: it is multiplied by
    min(1, 2 - 2 M / decay_images), M being the images *before* the batch at hand, so that the last step moves too; from
    `decay_images` on it is zero (the cool-down of Hagele et al. 2024, arXiv 2405.18392). On the quickstart it ends at a
    lower loss than a cosine: `benchmarks/NOTES.md`.

    ```python
    optimizer = optax.adam(learning_rate_schedule(2e-4, 64, rampup_images=1e4))
    ```
    """
    for name, value in {"learning_rate": learning_rate, "batch_size": batch_size}.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}: it must be positive.")
    if not rampup_images >= 0:
        raise ValueError(f"rampup_images is {rampup_images}: it must not be negative.")
    if decay_images is not None and not decay_images > 0:
        raise ValueError(f"decay_images is {decay_images}: it must be positive, or None for no decay.")

    def schedule(count) -> Scalar:
        before = jnp.asarray(count).astype(jnp.float32) * batch_size
        rate = learning_rate * jnp.minimum((before + batch_size) / max(rampup_images, 1e-8), 1.0)
        if decay_images is not None:
            rate = rate * jnp.clip(2.0 - 2.0 * before / decay_images, 0.0, 1.0)
        return rate

    return schedule
