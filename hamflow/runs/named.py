"""The recipes that `hamflow train` knows by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .pictures import Pictures
from .points import Points
from .recipe import AbstractRecipe

# Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", appendix F.2 and table 7:
# DDPM++ of 62 and 56 million parameters, which are 67 and 60 here: each block has an adaptive scale beside its shift.
# Theirs also augments, which this does not.
_EDM: Mapping[str, Any] = {
    "optimizer": "adam",
    "beta2": 0.999,
    "lr_rampup": 10.0,
    "lr_decay": False,
    "duration": 200.0,
    "ema": 0.5,
    "channels": 128,
    "attention": (16,),
    "xflip": True,
    "held_out": 0.01,
    "save_every": 1.0,
    "keep_every": 20.0,
    "validate_every": 0.5,
    "snapshot_every": 1.0,
}
_FFHQ: Mapping[str, Any] = {
    "resolution": 64,
    "batch": 256,
    "lr": 2e-4,
    "dropout": 0.05,
    "sampling_steps": 40,
    "multipliers": (1, 2, 2, 2),
    "blocks": (4, 4, 4, 4),
}
_CIFAR10: Mapping[str, Any] = {
    "resolution": 32,
    "batch": 512,
    "lr": 1e-3,
    "dropout": 0.13,
    "sampling_steps": 18,
    "multipliers": (2, 2, 2),
    "blocks": (4, 4, 4),
}

RECIPES: Mapping[str, AbstractRecipe] = {
    "faces": Pictures(),
    "ffhq": Pictures(data=Path("ffhq-64x64.zip"), **_EDM, **_FFHQ),
    "cifar10": Pictures(data=Path("cifar10-32x32.zip"), **_EDM, **_CIFAR10),
    "moons": Points(),
    "checkerboard": Points(law="checkerboard", flow="reflection", position_octaves=4),
}
"""Each with settings of its own, all of which are flags."""

ABOUT: Mapping[str, str] = {
    "faces": "the embedded portraits at 32x32, four minutes on two CPU cores",
    "ffhq": "FFHQ at 64x64 as published for EDM, for GPUs; --data, or ffhq-64x64.zip",
    "cifar10": "CIFAR-10 as published for EDM, for GPUs; --data, or cifar10-32x32.zip",
    "moons": "two moons in the plane, or a .npy of yours with --data; a minute",
    "checkerboard": "a checkerboard in a box, whose walls reflect; a minute",
}
