"""Pictures: a zip, a folder or an array of them, a Hamiltonian flow, and a U-Net in EDM's preconditioning."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .. import data
from .._types import PyTree
from ..networks.unet import UNet
from ..objectives import drop_labels, velocity_matching_loss
from ..predictors import Preconditioned
from ..sampling import generate
from .flows import check_flow, make_flow
from .recipe import AbstractRecipe, AbstractTask, Problem
from .words import count, say


@final
@dataclasses.dataclass(frozen=True)
class Pictures(AbstractRecipe):
    """Train a Hamiltonian flow on pictures.

    By default the embedded faces at 32x32, in four minutes on two CPU cores.
    """

    # Data
    data: Path | None = None  # a zip, a folder or an array of pictures; the embedded faces if not given
    resolution: int = 32  # pictures of another size are cut to a square and resized
    cond: bool = False  # learn one model of all classes, by label
    label_dropout: float = 0.1  # with --cond: the share of labels left out in training, which guidance needs
    xflip: bool = False  # mirror half of the pictures
    skip_corrupt: bool = False  # leave out pictures that cannot be read, and say how many
    # Flow
    flow: str = "oscillation"  # oscillation, diffusion, flow-matching, reflection, or module:flow for one of your own
    # Network: a DDPM++ U-Net
    channels: int = 32  # what the multipliers multiply
    multipliers: tuple[int, ...] = (1, 1, 2)  # of the channels, one a level
    blocks: tuple[int, ...] = (0, 1, 1)  # residual blocks, one number a level (a decoder has one more)
    attention: tuple[int, ...] = ()  # sides of the feature maps with attention (the smallest always has it)
    patch: int = 1  # pictures enter as patch x patch blocks: 1 for quality, 2 for speed
    dropout: float = 0.0  # in the residual blocks
    # Training
    duration: float = 0.0118  # millions of images
    optimizer: Literal["muon", "adam"] = "muon"  # Muon needs half of Adam's steps here; Adam is what EDM used
    lr: float = 1.5e-2  # the learning rate; Adam wants about a tenth

    NOUN: ClassVar[str] = "picture"
    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        **AbstractRecipe.RANGES,
        "resolution": (1, 8193),
        **dict.fromkeys(("dropout", "label_dropout"), (0, 1)),
    }
    FLAGS: ClassVar[Mapping[str, str]] = {
        "Pass labels=False": "Leave out --cond",
        "skip_corrupt=True": "--skip-corrupt",
        "resolution": "--resolution",
        **AbstractRecipe.FLAGS,
        "attention_resolutions=()": "no --attention",
        "attention_resolutions": "--attention",
        "base_channels": "--channels",
        "channel_multipliers": "--multipliers",
        "blocks_per_level": "--blocks",
        "patch_size": "--patch",
    }
    SMALLER: ClassVar[Mapping[str, Any]] = {
        **AbstractRecipe.SMALLER,
        "channels": 8,
        "multipliers": (1, 1),
        "blocks": (1, 1),
    }

    def open(self) -> "PicturesTask":
        return PicturesTask(self)


@final
class PicturesTask(AbstractTask):
    """Pictures that are open, some of them held out, and the network that learns the others."""

    UNREADABLE: ClassVar[tuple[type[Exception], ...]] = (OSError, data.UnreadableImageError)

    def __init__(self, recipe: Pictures):
        self.recipe = recipe
        check_flow(recipe.flow)
        path = recipe.data or data.embedded_faces()
        source = data.open_images(path, recipe.resolution, labels=recipe.cond, skip_corrupt=recipe.skip_corrupt)
        if source.skipped:
            names = sorted(source.skipped)
            say(f"skipped {count(len(names), 'picture')}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
        if others := getattr(source, "passed_over", ()):
            some = f"{', '.join(others[:5])}{', ...' if len(others) > 5 else ''}"
            say(f"passed over {count(len(others), 'file')} whose suffix is no picture's: {some}")
        self.num_classes = source.num_classes
        self.identity = {"number": len(source), "fingerprint": data.fingerprint(source)}
        self._held_out = None
        self._source: data.AbstractImages = source
        if recipe.held_out and round(recipe.held_out * len(source)):
            # Not by the seed of the run: runs are compared.
            self._source, self._held_out = data.split_source(source, recipe.held_out)
        self.num_examples = len(self._source)
        self.num_held_out = 0 if self._held_out is None else len(self._held_out)
        kind = "cond" if recipe.cond else "uncond"
        self.name = f"{self._source.name}-{recipe.resolution}-{kind}-{recipe.flow}"
        classes = f"in {count(self.num_classes, 'class', 'classes')} " if recipe.cond else ""
        self.about = f"{classes}from {path}"
        # What the pictures or the batch size are refused for is said here, before a folder is made.
        data.batches(self._source, recipe.batch, seed=recipe.seed).close()
        with contextlib.closing(data.batches(self._source, min(1024, len(self._source)), seed=recipe.seed)) as stream:
            self._sample = data.to_float(jnp.asarray(next(stream)["image"]))
        self.measured = {"data_mean": float(self._sample.mean()), "data_std": float(self._sample.std())}

    def batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        return data.batches(
            self._source,
            self.recipe.batch,
            seed=self.recipe.seed,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def held_out_batches(self) -> list[dict[str, np.ndarray]]:
        if self._held_out is None:
            return []
        return list(data.batches_in_order(self._held_out, min(64, len(self._held_out))))

    def problem(self, measured: Mapping[str, float], keys: tuple[jax.Array, jax.Array]) -> Problem:
        recipe, num_classes = self.recipe, self.num_classes
        key_network, key_moments = keys
        flow = make_flow(recipe.flow, measured["data_std"], measured["data_mean"])
        network = UNet(
            recipe.resolution,
            channels_in=3,
            base_channels=recipe.channels,
            channel_multipliers=recipe.multipliers,
            blocks_per_level=recipe.blocks,
            attention_resolutions=recipe.attention,
            patch_size=recipe.patch,
            dropout=recipe.dropout,
            num_classes=num_classes if recipe.cond else None,
            key=key_network,
        )
        # Pixels lie in [-1, 1], and EDM's time input and training times are for a deviation of one half.
        model = Preconditioned.from_data(network, flow, self._sample, key_moments, noise_unit=0.5)
        # Of a resumed run these are as they were, whichever pictures are in the sample now.
        model = eqx.tree_at(lambda m: (m.data_mean, m.data_std), model, (measured["data_mean"], measured["data_std"]))

        def loss(model, batch, key):
            key_flip, key_loss, key_labels = jr.split(key, 3)
            images, labels = data.to_float(batch["image"]), batch.get("label")
            if recipe.xflip:
                images = data.random_flip(key_flip, images)
            if recipe.cond and recipe.label_dropout:
                labels = drop_labels(key_labels, labels, recipe.label_dropout, num_classes)
            return velocity_matching_loss(model, flow, images, key_loss, condition=labels), {}

        def held_out_loss(model, batch, key):  # without what only training does: mirrors, lost labels, dropout
            model = jax.tree.map(
                lambda leaf: eqx.nn.Dropout(0.0) if isinstance(leaf, eqx.nn.Dropout) else leaf,
                model,
                is_leaf=lambda leaf: isinstance(leaf, eqx.nn.Dropout),
            )
            images, labels = data.to_float(batch["image"]), batch.get("label")
            return velocity_matching_loss(model, flow, images, key, condition=labels), {}

        number = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
        about = f"{recipe.flow} flow, U-Net of {number / 1e6:.2f} M parameters"
        return Problem(model, model.trainable(), loss, held_out_loss, about)

    def draw(self, model: PyTree, key: jax.Array, number: int) -> np.ndarray:
        shape = (number, 3, self.recipe.resolution, self.recipe.resolution)
        labels = jnp.arange(number) % self.num_classes if self.recipe.cond else None
        return np.asarray(generate(model, model.flow, key, shape, self.recipe.sampling_steps, condition=labels))

    def snapshot_samples(self, number: int) -> int:
        return min(16, number)

    def picture(self, samples: np.ndarray, path: Path) -> None:
        data.save_png(path, data.image_grid(samples))

    def report(self, samples: np.ndarray, folder: Path) -> str:
        """What the model knows by heart is shown: each sample beside the nearest pictures it was trained on."""
        xflip = self.recipe.xflip
        try:
            nearest = data.nearest_neighbours(samples, self._source, min(4, self.num_examples), mirrored=xflip)
            data.save_png(folder / "neighbours.png", data.neighbour_grid(samples, nearest, self._source))
            if self._held_out is None:
                return f"{folder / 'neighbours.png'}: each sample beside the nearest pictures it was trained on"
            some = [self._held_out.read(i) for i in range(min(2000, self.num_held_out))]
            yardstick = data.nearest_neighbours(np.stack(some), self._source, mirrored=xflip)
            return str(data.memorisation(nearest, yardstick))
        except ValueError as error:  # samples that are NaN, a data set of copies: the run has ended well all the same
            return f"no nearest neighbours: {error}"
