"""Train a Hamiltonian flow on pictures, and write a grid of samples.

    python examples/ffhq.py                                  # embedded faces at 32x32, four minutes on two CPU cores
    python examples/ffhq.py --flow reflection                # the same with another flow
    python examples/ffhq.py --resume runs/00000-...          # go on where a run stopped; its settings are kept

FFHQ at 64x64 with the published recipe, on however many GPUs there are (a zip in the EDM layout, or a folder):

    python examples/ffhq.py --data ffhq-64x64.zip --resolution 64 --batch 256 --duration 200 --optimizer adam \\
        --lr 2e-4 --lr-rampup 10 --no-lr-decay --beta2 0.999 --dropout 0.05 --xflip --channels 128 \\
        --multipliers 1 2 2 2 --blocks 4 4 4 4 --attention 16 --sampling-steps 40

A run folder holds `samples.png`, `loss.png`, `model.safetensors` (the average model, for `hamflow.load`),
`config.json`, `stats.jsonl` (one line a step) and `checkpoints/`.
"""

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import matplotlib.pyplot as plt
import optax
import tyro

import hamflow as hf
from hamflow import plotting, training
from hamflow.data import batches, embedded_faces, image_grid, open_images, random_flip, save_png, to_float
from hamflow.networks.unet import UNet

matplotlib.use("Agg")


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob. Times and rates are counted in millions of images, as EDM does."""

    # Data
    data: Path | None = None  # a zip, a folder or an array of pictures; the embedded faces if not given
    resolution: int = 32  # pictures of another size are cut to a square and resized
    cond: bool = False  # learn one model of all classes, by label
    xflip: bool = False  # mirror half of the pictures
    skip_corrupt: bool = False  # leave out pictures that cannot be read, and say how many
    # Flow
    flow: Literal["oscillation", "diffusion", "flow-matching", "reflection"] = "oscillation"
    # Network: a DDPM++ U-Net
    channels: int = 32  # what the multipliers multiply
    multipliers: tuple[int, ...] = (1, 1, 2)  # of the channels, one a level
    blocks: tuple[int, ...] = (0, 1, 1)  # residual blocks, one number a level (a decoder has one more)
    attention: tuple[int, ...] = ()  # sides of the feature maps with attention (the smallest always has it)
    patch: int = 1  # pictures enter as patch x patch blocks: 1 for quality, 2 for speed
    dropout: float = 0.0
    # Training
    batch: int = 8  # over all devices
    duration: float = 0.0125  # millions of images
    optimizer: Literal["muon", "adam"] = "muon"  # Muon needs half of Adam's steps here; Adam is what EDM used
    lr: float = 1.5e-2  # the learning rate; Adam wants about a tenth
    lr_rampup: float = 0.001  # millions of images until it is reached
    lr_decay: bool = True  # over the second half, take it to zero
    momentum: float = 0.8  # of Muon; .95 for long runs
    beta2: float = 0.99  # of Adam's second moment; .999 for runs of many thousand steps
    ema: float = 0.5  # half-life of the average model, millions of images (EDM's ramp-up shortens it early on)
    seed: int = 0
    # Output
    outdir: Path = Path("runs")
    save_every: float = 0.02  # millions of images between checkpoints
    num_samples: int = 64
    sampling_steps: int = 18  # of Heun's method: twice as many evaluations, less one
    resume: Path | None = None  # a run folder
    dry_run: bool = False  # print the settings and leave
    smoke: bool = False  # two tiny steps of everything, to see that it runs


def make_flow(name: str, data_std: float, data_mean: float) -> hf.Flow:
    match name:
        case "oscillation":
            return hf.oscillation(frequency=1.0 / data_std)  # its scalings are then all trivial
        case "diffusion":
            return hf.diffusion(data_std=data_std, data_mean=data_mean)
        case "flow-matching":
            return hf.flow_matching()
        case "reflection":
            return hf.reflection(lower=-1.0, upper=1.0)
    raise ValueError(f"unknown flow {name}")


def main(config: Config) -> None:
    # -- data --------------------------------------------------------------------------------------------------------
    path = config.data or embedded_faces()
    source = open_images(path, config.resolution, labels=config.cond, skip_corrupt=config.skip_corrupt)
    if config.skip_corrupt and source.skipped:
        print(f"skipped {len(source.skipped)} pictures: {', '.join(sorted(source.skipped)[:5])} ...")
    mesh = training.data_mesh()
    training.check_batch_size(config.batch, mesh)
    num_steps = max(round(config.duration * 1e6 / config.batch), 1)
    name = f"{source.name}-{config.resolution}-{'cond' if config.cond else 'uncond'}-{config.flow}"
    print(f"{len(source)} pictures from {path}, {num_steps} steps of {config.batch} on {mesh.size} device(s)")
    if config.dry_run:
        print(json.dumps(dataclasses.asdict(config), indent=2, default=str))
        return
    # What the pictures or the batch size are refused for is said here, before a folder is made.
    batches(source, config.batch, seed=config.seed).close()
    with contextlib.closing(batches(source, min(1024, len(source)), seed=config.seed)) as stream:
        sample = to_float(jnp.asarray(next(stream)["image"]))

    # -- flow and network --------------------------------------------------------------------------------------------
    key_network, key_moments, key_train, key_sample = jr.split(jr.key(config.seed), 4)
    flow = make_flow(config.flow, float(sample.std()), float(sample.mean()))
    network = UNet(
        config.resolution,
        channels_in=3,
        base_channels=config.channels,
        channel_multipliers=config.multipliers,
        blocks_per_level=config.blocks,
        attention_resolutions=config.attention,
        patch_size=config.patch,
        dropout=config.dropout,
        num_classes=source.num_classes if config.cond else None,
        key=key_network,
    )
    model = hf.Preconditioned.from_data(network, flow, sample, key_moments)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
    print(f"{config.flow} flow, U-Net of {num_parameters / 1e6:.2f} M parameters")

    def loss(model, batch, key):
        key_flip, key_loss = jr.split(key)
        images = to_float(batch["image"])
        if config.xflip:
            images = random_flip(key_flip, images)
        return hf.velocity_matching_loss(model, flow, images, key_loss, condition=batch.get("label")), {}

    # -- optimiser ---------------------------------------------------------------------------------------------------
    schedule = training.learning_rate_schedule(
        config.lr,
        config.batch,
        rampup_images=config.lr_rampup * 1e6,
        decay_images=config.duration * 1e6 if config.lr_decay else None,
    )
    if config.optimizer == "muon":
        optimizer = training.muon(schedule, momentum=config.momentum, b2=config.beta2)
    else:
        optimizer = optax.adam(schedule, b2=config.beta2)
    ema = training.ExponentialMovingAverage(config.ema * 1e6)
    trainable = model.trainable()
    state = training.replicate(training.init_state(model, optimizer, trainable=trainable), mesh)
    step = training.make_step(loss, optimizer, ema, trainable=trainable, sharding=training.replicated(mesh))

    # -- run folder --------------------------------------------------------------------------------------------------
    if config.resume is None:
        folder = training.make_run_folder(config.outdir, f"{name}-batch{config.batch}-seed{config.seed}", config)
    else:
        folder = config.resume
        training.check_same_config(folder, config)
    checkpoints = training.Checkpoints(folder / "checkpoints")
    if config.resume is not None:
        state, key_train, _ = checkpoints.restore(state, key_train)
        print(f"resumed {folder} after step {int(state.step)}")
    start_step = int(state.step)
    save_steps = max(round(config.save_every * 1e6 / config.batch), 1)

    # -- loop --------------------------------------------------------------------------------------------------------
    stats = training.StatsLog(folder / "stats.jsonl", first_step=start_step)
    progress = training.Progress(num_steps, first_step=start_step)
    record = training.Recorder(stats.write, progress.update)
    stream = batches(source, config.batch, seed=config.seed, start_step=start_step)
    started = time.monotonic()
    with checkpoints, stats, progress, training.StopOnSignal() as stop:
        try:
            for n in range(start_step, num_steps):
                batch = next(stream)
                state, metrics = step(state, training.shard_batch(batch, mesh), key_train)
                record(metrics, batch["index"])
                if stop.requested:
                    break
                if (n + 1) % save_steps == 0:
                    record.flush()
                    checkpoints.save(state, key_train)
            record.flush()
        except training.NonFiniteLoss as error:
            checkpoints.save(state, key_train)
            sys.exit(f"{error}\nThe last good state is saved in {folder}.")
        finally:
            stream.close()
        checkpoints.save(state, key_train)
    if stop.requested:
        sys.exit(f"Stopped after step {int(state.step)}. To go on: python examples/ffhq.py --resume {folder}")
    seconds = time.monotonic() - started
    print(
        f"{(num_steps - start_step) * config.batch / seconds:.1f} images/s over {seconds:.0f} s, compilation included"
    )

    # -- samples -----------------------------------------------------------------------------------------------------
    model = jax.tree.map(lambda leaf: jax.device_put(leaf, jax.devices()[0]) if eqx.is_array(leaf) else leaf, state.ema)
    hf.save(folder / "model.safetensors", model)
    shape = (config.num_samples, 3, config.resolution, config.resolution)
    labels = jnp.arange(config.num_samples) % source.num_classes if config.cond else None
    samples = hf.generate(model, flow, key_sample, shape, config.sampling_steps, condition=labels)
    save_png(folder / "samples.png", image_grid(samples))
    history = training.read_stats(folder / "stats.jsonl")
    figure, ax = plt.subplots(figsize=(6, 4))
    plotting.loss_curve(ax, [line["images"] for line in history], [line["loss"] for line in history])
    plotting.save_figure(figure, folder / "loss.png")
    print(f"{folder / 'samples.png'}: {config.num_samples} samples of {2 * config.sampling_steps - 1} evaluations each")


def parse() -> Config:
    """The command line. With --resume RUN the run's own settings are the defaults, so they need not be said again."""
    run = next((b for a, b in zip(sys.argv, sys.argv[1:], strict=False) if a == "--resume"), None)
    default = Config()
    if run is not None:
        saved = training.read_config(run)
        kinds = {"data": Path, "outdir": Path, "multipliers": tuple, "blocks": tuple, "attention": tuple}
        known = {field.name for field in dataclasses.fields(Config)}
        saved = {k: kinds[k](v) if k in kinds and v is not None else v for k, v in saved.items() if k in known}
        default = dataclasses.replace(default, **saved)
    config = tyro.cli(Config, default=default, description=__doc__)
    if config.smoke:
        small = {
            "channels": 8,
            "multipliers": (1, 1),
            "blocks": (1, 1),
            "batch": 8,
            "num_samples": 4,
            "sampling_steps": 2,
        }
        config = dataclasses.replace(config, **small, duration=16e-6, save_every=8e-6)
    return config


if __name__ == "__main__":
    try:
        main(parse())
    except (ValueError, OSError) as error:  # what a person can mend: a path, a folder, a setting
        if not isinstance(error, (ValueError, FileNotFoundError, PermissionError, NotADirectoryError)):
            raise
        sys.exit(f"{type(error).__name__}: {error}")
