"""The optimiser and the averages that a recipe asks for."""

import optax

from .. import training
from .recipe import AbstractRecipe


def make_optimizer(recipe: AbstractRecipe) -> optax.GradientTransformation:
    """Muon or Adam, on the recipe's schedule."""
    schedule = training.learning_rate_schedule(
        recipe.lr,
        recipe.batch,
        rampup_images=recipe.lr_rampup * 1e6,
        decay_images=recipe.duration * 1e6 if recipe.lr_decay else None,
    )
    if recipe.optimizer == "muon":
        return training.muon(schedule, momentum=recipe.momentum, b2=recipe.beta2)
    return optax.adam(schedule, b2=recipe.beta2)


def make_averages(recipe: AbstractRecipe) -> list[training.AbstractAverage]:
    """One by its half-life, or one for each width; samples are drawn from the first."""
    if recipe.ema_width:
        return [training.PowerFunctionAverage.from_relative_width(width) for width in recipe.ema_width]
    return [training.ExponentialMovingAverage(recipe.ema * 1e6)]
