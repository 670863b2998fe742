"""Train a Hamiltonian flow on pictures, and write a grid of samples.

    python examples/ffhq.py                                  # embedded faces at 32x32, four minutes on two CPU cores
    python examples/ffhq.py --flow reflection                # the same with another flow
    python examples/ffhq.py --resume runs/00000-...          # go on where a run stopped; its settings are kept
    python examples/ffhq.py --resume runs/00000-... --num-samples 16    # of a finished run: draw again

FFHQ at 64x64 with the published recipe, on however many GPUs there are (a zip in the EDM layout, or a folder):

    python examples/ffhq.py --data ffhq-64x64.zip --resolution 64 --batch 256 --duration 200 --optimizer adam \\
        --lr 2e-4 --lr-rampup 10 --no-lr-decay --beta2 0.999 --dropout 0.05 --xflip --channels 128 \\
        --multipliers 1 2 2 2 --blocks 4 4 4 4 --attention 16 --sampling-steps 40

`--cond` learns one model of all classes. It leaves out a tenth of the labels (`--label-dropout`), so that the model can
be guided: `hamflow sample --network runs/00000-... --outdir out --class 2 --guidance 2`, or `examples/guidance.py`.

A run folder holds `samples.png`, `neighbours.png` (the samples beside the training pictures nearest to them),
`loss.png`, `model.safetensors` (the average model, for `hamflow.load`), `config.json`, `stats.jsonl` (one line a step)
and `checkpoints/`. A resumed run may change `FREE` settings only; others with `--override`. It trains in no folder that
another process trains in. After Ctrl-C it leaves with 130, after SIGTERM with 143, all steps saved; a second ends
it at once. A loss that is not finite leaves `nonfinite-<step>/`, and `--replay` names the first layer that went wrong.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optax
import tyro

import hamflow as hf
from hamflow import plotting, training
from hamflow.data import (
    AbstractImages,
    UnreadableImageError,
    batches,
    batches_in_order,
    embedded_faces,
    fingerprint,
    image_grid,
    memorisation,
    nearest_neighbours,
    neighbour_grid,
    open_images,
    random_flip,
    save_png,
    split_source,
    to_float,
)
from hamflow.networks.unet import UNet

matplotlib.use("Agg")


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob. Times and rates are counted in millions of images, as EDM does."""

    # Data
    data: Path | None = None  # a zip, a folder or an array of pictures; the embedded faces if not given
    resolution: int = 32  # pictures of another size are cut to a square and resized
    cond: bool = False  # learn one model of all classes, by label
    label_dropout: float = 0.1  # with --cond: the share of labels left out in training, which guidance needs
    xflip: bool = False  # mirror half of the pictures
    held_out: float = 0.05  # share of the pictures that is not trained on, but measured
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
    duration: float = 0.0118  # millions of images
    optimizer: Literal["muon", "adam"] = "muon"  # Muon needs half of Adam's steps here; Adam is what EDM used
    lr: float = 1.5e-2  # the learning rate; Adam wants about a tenth
    lr_rampup: float = 0.001  # millions of images until it is reached
    lr_decay: bool = True  # over the second half, take it to zero
    momentum: float = 0.8  # of Muon; .95 for long runs
    beta2: float = 0.99  # of Adam's second moment; .999 for runs of many thousand steps
    ema_width: float | None = None  # in place of a half-life: an average over this share of the training, such as .1
    ema: float = 0.5  # half-life of the average model, millions of images (EDM's ramp-up shortens it early on)
    seed: int = 0
    # Devices: no part of what a run is, see docs/scaling.md
    mesh: str = ""  # such as data=4,fsdp=2; all devices along data if not given
    microbatches: int = 1  # pieces in which a device takes its part of a batch, to save memory
    coordinator: str | None = None  # of several processes that nothing like Slurm tells of each other: host:port
    num_processes: int | None = None  # how many they are
    process_id: int | None = None  # and which this is, from 0
    # Output
    outdir: Path = Path("runs")
    save_every: float = 0.02  # millions of images between checkpoints
    keep: int = 2  # how many of the latest checkpoints
    keep_every: float = 0.0  # millions of images between checkpoints that are kept for ever; 0 for none
    on_nonfinite: Literal["stop", "skip"] = "stop"  # at a loss that is not finite; ten batches in a row end the run
    validate_every: float = 0.004  # millions of images between measurements of the held-out loss
    snapshot_every: float = 0.0  # millions of images between grids of samples in snapshots/; 0 for none
    tensorboard: bool = False  # write what stats.jsonl holds for TensorBoard too (needs hamflow[tensorboard])
    wandb: str | None = None  # the project of Weights & Biases to write it to (needs wandb)
    profile: str | None = None  # steps to trace for XProf or Perfetto, such as 10:20
    num_samples: int = 64
    sampling_steps: int = 18  # of Heun's method: twice as many evaluations, less one
    resume: Path | None = None  # a run folder
    changed_data: bool = False  # resume though the pictures were moved, mended or exchanged
    override: bool = False  # resume with other settings whatever they are; the old ones stay as config-until-N.json
    replay: Path | None = None  # the nonfinite-<step> folder of the run: say where the first number went wrong
    dry_run: bool = False  # check everything, print the settings and leave
    smoke: bool = False  # two tiny steps of everything, to see that it runs


ONCE = {  # of one command, no settings of a run
    *("resume", "changed_data", "override", "replay", "dry_run", "smoke"),
    *("tensorboard", "wandb", "profile", "mesh", "microbatches", "coordinator", "num_processes", "process_id"),
}
# Not in the oldest runs, which go on with what they are by default.
LATER = {"keep", "keep_every", "on_nonfinite", "validate_every", "snapshot_every", "ema_width"}
FREE = {*LATER, "duration", "outdir", "skip_corrupt", "save_every", "num_samples", "sampling_steps"} | {
    *("lr", "lr_rampup", "lr_decay", "momentum", "beta2", "ema")  # a run that diverged goes on with others
}
RANGES = {  # where each lies, without the upper end; the network checks its own
    **dict.fromkeys(("resolution", "batch", "microbatches", "keep", "num_samples", "sampling_steps"), (1, math.inf)),
    **dict.fromkeys(("duration", "save_every", "validate_every"), (1e-6, math.inf)),  # at least one picture
    **dict.fromkeys(("dropout", "label_dropout", "held_out", "momentum", "beta2"), (0, 1)),
    **dict.fromkeys(("lr_rampup", "ema", "seed", "keep_every", "snapshot_every"), (0, math.inf)),
    "lr": (1e-30, math.inf),
}
FLAGS = {  # what the library's messages say, and what it is called here
    "Pass labels=False": "Leave out --cond",
    "skip_corrupt=True": "--skip-corrupt",
    "resolution": "--resolution",
    "A batch of": "--batch",
    "batch_size": "--batch",
    "The mesh has": "--mesh:",
    "A mesh of": "--mesh",
    "num_processes": "--num-processes",
    "process_id": "--process-id",
    "coordinator": "--coordinator",
    "attention_resolutions=()": "no --attention",
    "attention_resolutions": "--attention",
    "base_channels": "--channels",
    "channel_multipliers": "--multipliers",
    "blocks_per_level": "--blocks",
    "patch_size": "--patch",
    "outdir": "--outdir",
    "held_out": "--held-out",
    "override=True": "--override",
}


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


def main(config: Config) -> Path | None:
    """Train, and draw samples; the run folder, or None of a dry run."""
    with contextlib.ExitStack() as held:
        return train(config, held)


def train(config: Config, held: contextlib.ExitStack) -> Path | None:
    """`main`, with a place for what is let go of at the end: the lock of the run folder."""
    training.check_ranges(config, RANGES)
    training.join_processes(config.coordinator, config.num_processes, config.process_id)
    training.use_compilation_cache()  # a run that is resumed starts at once

    # -- data --------------------------------------------------------------------------------------------------------
    path = config.data or embedded_faces()
    source = open_images(path, config.resolution, labels=config.cond, skip_corrupt=config.skip_corrupt)
    if source.skipped:
        names = sorted(source.skipped)
        say(f"skipped {count(len(names), 'picture')}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    everything = source
    held_out = None
    if config.held_out and round(config.held_out * len(source)):
        source, held_out = split_source(source, config.held_out)  # not by the seed of the run: runs are compared
    sizes = training.parse_mesh(config.mesh)
    mesh = training.device_mesh(data=sizes.get("data"), fsdp=sizes.get("fsdp", 1))
    training.check_batch_size(config.batch, mesh, microbatches=config.microbatches)
    num_steps = max(round(config.duration * 1e6 / config.batch), 1)
    first = training.is_first_process()  # of several, which makes folders, logs and prints
    name = f"{source.name}-{config.resolution}-{'cond' if config.cond else 'uncond'}-{config.flow}"
    classes = f" in {count(source.num_classes, 'class', 'classes')}" if config.cond else ""
    steps_of = f"{count(num_steps, 'step')} of {config.batch}"
    kept_back = f" and {len(held_out)} held out" if held_out is not None else ""
    say(f"{count(len(source), 'picture')}{kept_back}{classes} from {path}, {steps_of} on {count(mesh.size, 'device')}")
    # What the pictures or the batch size are refused for is said here, before a folder is made.
    batches(source, config.batch, seed=config.seed).close()
    with contextlib.closing(batches(source, min(1024, len(source)), seed=config.seed)) as stream:
        sample = to_float(jnp.asarray(next(stream)["image"]))
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in ONCE}
    # As in the runs from before there were such settings, which go on without them.
    if not (config.cond and config.label_dropout):
        del settings["label_dropout"]
    if not config.held_out:
        del settings["held_out"]
    settings["pictures"] = {"number": len(everything), "fingerprint": fingerprint(everything)}
    settings["data_mean"], settings["data_std"] = float(sample.mean()), float(sample.std())
    changes = take_up(config, settings) if config.resume is not None else {}

    # -- flow and network --------------------------------------------------------------------------------------------
    key_network, key_moments, key_train, key_sample = jr.split(jr.key(config.seed), 4)
    flow = make_flow(config.flow, settings["data_std"], settings["data_mean"])
    network = UNet(
        config.resolution,
        channels_in=3,
        base_channels=config.channels,
        channel_multipliers=config.multipliers,
        blocks_per_level=config.blocks,
        attention_resolutions=config.attention,
        patch_size=config.patch,
        dropout=config.dropout,
        num_classes=everything.num_classes if config.cond else None,
        key=key_network,
    )
    model = hf.Preconditioned.from_data(network, flow, sample, key_moments)
    # Of a resumed run these are as they were, whichever pictures are in the sample now.
    model = eqx.tree_at(lambda m: (m.data_mean, m.data_std), model, (settings["data_mean"], settings["data_std"]))
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
    say(f"{config.flow} flow, U-Net of {num_parameters / 1e6:.2f} M parameters")

    def loss(model, batch, key):
        key_flip, key_loss, key_labels = jr.split(key, 3)
        images, labels = to_float(batch["image"]), batch.get("label")
        if config.xflip:
            images = random_flip(key_flip, images)
        if config.cond and config.label_dropout:
            labels = hf.drop_labels(key_labels, labels, config.label_dropout, everything.num_classes)
        return hf.velocity_matching_loss(model, flow, images, key_loss, condition=labels), {}

    def held_out_loss(model, batch, key):  # without what only training does: mirrors, lost labels, dropout
        model = jax.tree.map(
            lambda leaf: eqx.nn.Dropout(0.0) if isinstance(leaf, eqx.nn.Dropout) else leaf,
            model,
            is_leaf=lambda leaf: isinstance(leaf, eqx.nn.Dropout),
        )
        images, labels = to_float(batch["image"]), batch.get("label")
        return hf.velocity_matching_loss(model, flow, images, key, condition=labels), {}

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
    if config.ema_width is not None:
        ema = training.PowerFunctionAverage.from_relative_width(config.ema_width)
    trainable = model.trainable()
    state = training.init_state(model, optimizer, trainable=trainable)
    sharding = training.state_sharding(state, mesh)
    state = training.shard(state, sharding)
    key_train = training.replicate(key_train, mesh)
    step = training.make_step(
        loss,
        optimizer,
        ema,
        trainable=trainable,
        sharding=sharding,
        microbatches=config.microbatches,
        rows_together=1,  # a row's random numbers depend on its place in the batch, not on devices or microbatches
        on_nonfinite=config.on_nonfinite,
    )

    if config.replay is not None:
        origin = training.replay(config.replay, loss, model, trainable=trainable, rows_together=1)
        say(origin or "This time every number is finite.")
        return None

    # -- run folder --------------------------------------------------------------------------------------------------
    if config.dry_run:
        training.check_outdir(config.resume or config.outdir)
        say(json.dumps(dataclasses.asdict(config), indent=2, default=str))
        return None
    folder = config.resume
    if folder is None:
        name = f"{name}-batch{config.batch}-seed{config.seed}"
        folder = training.from_first_process(lambda: str(training.make_run_folder(config.outdir, name, settings)))
    folder = Path(folder)
    training.from_first_process(lambda: held.enter_context(training.lock_run(folder)) and None)
    save_steps = max(round(config.save_every * 1e6 / config.batch), 1)
    keep_steps = max(round(config.keep_every * 1e6 / config.batch / save_steps), 1) * save_steps
    checkpoints = training.Checkpoints(
        folder / "checkpoints", keep=config.keep, keep_every=keep_steps if config.keep_every else None
    )
    if config.resume is not None:
        state, key_train, saved = checkpoints.restore(state, key_train)
        # The settings were compared already, and may say that the order changes here; a batch of another size may not.
        position(config, source, state).check(saved, allow={"seed", "num_examples"})
        say(f"resumed {folder} after {count(int(state.step), 'step')}")
    start_step = int(state.step)
    if start_step >= num_steps:
        say(f"it has the {count(num_steps, 'step')} asked for already: no training, only samples")
    elif changes and first:
        training.update_config(folder, settings, start_step)
        if "duration" in changes and config.lr_decay:
            say("the learning rate follows the schedule of the new duration from here on")

    # -- loop --------------------------------------------------------------------------------------------------------
    stream = batches(
        source,
        config.batch,
        seed=config.seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    feed = training.feed(stream, mesh)
    validate, held_out_batches = None, []
    if held_out is not None:
        held_out_batches = list(batches_in_order(held_out, min(64, len(held_out))))
        validate = training.HeldOutLoss(held_out_loss, held_out_batches, jr.key(0))
    validate_steps = max(round(config.validate_every * 1e6 / config.batch), 1)
    snapshot_steps = max(round((config.snapshot_every or 1e12) * 1e6 / config.batch), 1)  # 0: never

    def snapshot(num_steps: int, model) -> None:
        shape = (min(16, config.num_samples), 3, config.resolution, config.resolution)
        labels = jnp.arange(shape[0]) % everything.num_classes if config.cond else None
        samples = hf.generate(model, flow, key_sample, shape, config.sampling_steps, condition=labels)
        if first:
            (folder / "snapshots").mkdir(exist_ok=True)
            save_png(folder / "snapshots" / f"{num_steps:08}.png", image_grid(samples))

    started, unreadable, stopped, cost = time.monotonic(), None, False, None
    with training.StopOnSignal() as stop, checkpoints, contextlib.ExitStack() as shown:
        writers, shows = [], []
        if first:
            stats = shown.enter_context(training.StatsLog(folder / "stats.jsonl", first_step=start_step))
            if stats.num_damaged:
                print(f"{stats.path}: left out {count(stats.num_damaged, 'line')} that cannot be read")
            progress = shown.enter_context(training.Progress(max(num_steps, start_step), first_step=start_step))
            writers = [stats.write, *other_writers(config, folder, settings, start_step, shown)]
            shows = [progress.update]
        record = training.Recorder(*writers, *shows, on_nonfinite=config.on_nonfinite, on_skip=say)
        record_held_out = training.Recorder(*writers, lag=0)
        profile = shown.enter_context(training.Profile(folder / "profile", config.profile if first else None))
        should_stop = training.StopTogether(stop, mesh)
        try:
            for n in range(start_step, num_steps):
                try:
                    read, batch = next(feed)
                except (UnreadableImageError, OSError) as error:
                    unreadable = error
                    if jax.process_count() > 1:  # the others wait for this batch, and cannot save with us
                        sys.exit(f"{error}\nAll processes end here. The last checkpoint is good.")
                    break
                if cost is None:  # compiles the step, which the loop then uses
                    cost = training.measure_cost(step, state, batch, key_train)
                    say(f"a step: {cost}")
                profile(state)
                state, metrics = step(state, batch, key_train)
                record(metrics, read["index"], batch=read)
                if validate is not None and ((n + 1) % validate_steps == 0 or n + 1 == num_steps):
                    record.flush()
                    found = validate(training.gather(state.ema, mesh))
                    record_held_out({"step": n, "images": metrics["images"], **found})
                if (n + 1) % snapshot_steps == 0:
                    snapshot(n + 1, training.gather(state.ema, mesh))
                stopped = should_stop()
                if stopped:
                    break
                if (n + 1) % save_steps == 0:
                    record.flush()
                    checkpoints.save(state, key_train, position(config, source, state).to_json())
            record.flush()
        except training.NonFiniteLoss as error:
            checkpoints.save(state, key_train, position(config, source, state).to_json())
            found = training.gather(state.model, mesh)
            if not first:
                sys.exit(1)
            bundle = training.save_bundle(folder, error, found, key_train)
            sys.exit(
                f"{error}\nTo see in which layer it began:\n"
                f"  {training.resume_command(folder, '--replay', str(bundle))}\n"
                "The last good state is saved. To go on with a smaller learning rate:\n"
                f"  {training.resume_command(folder, '--lr', f'{config.lr / 3:.2g}')}\n"
                "If it stops again at once, the step before had spoiled the parameters already: start a new run, or "
                f"move {checkpoints.folder / str(int(state.step))} away to go on from an older checkpoint."
            )
        finally:
            stream.close()
        checkpoints.save(state, key_train, position(config, source, state).to_json())
    so_far = f"The training is saved after {count(int(state.step), 'step')}."
    if unreadable is not None:
        said = training.in_flags(str(unreadable), FLAGS)
        sys.exit(
            f"{said}\n{so_far} To go on without such pictures (in another order):\n"
            f"  {training.resume_command(folder, '--skip-corrupt')}\n"
            f"Or mend it, and go on with:\n  {training.resume_command(folder, '--changed-data')}"
        )
    if stopped:
        say(f"Stopped. {so_far} To go on:\n  {training.resume_command(folder)}", file=sys.stderr)
        sys.exit(stop.exit_code or 128 + signal.SIGTERM)  # it was another process that was told
    if start_step < num_steps:
        seconds = time.monotonic() - started
        rate = (num_steps - start_step) * config.batch / seconds
        say(f"{rate:.1f} images/s over {seconds:.0f} s, compilation included")
        assert cost is not None
        steps_per_second = (num_steps - start_step) / max(seconds - cost.compile_seconds, 1e-9)
        utilisation = training.model_flop_utilisation(cost.flops, steps_per_second)
        say(f"{utilisation:.1%} of what the devices can compute (FLOP of a step over their peak, once compiled)")
        if profile.outcome:
            say(profile.outcome)

    # -- samples -----------------------------------------------------------------------------------------------------
    with training.exit_on_interrupt(f"Stopped. {so_far} For its samples:\n  {training.resume_command(folder)}"):
        # Of several processes all draw the same samples, so that none has to wait for long, and the first writes them.
        model = training.gather(state.ema, mesh)
        samples = write_results(config, folder, model, flow, everything.num_classes, key_sample)
        if first:
            pictures = np.concatenate([batch["image"] for batch in held_out_batches])[:2000] if validate else None
            try:
                say(show_neighbours(config, folder, samples, source, pictures))
            except (
                ValueError
            ) as error:  # samples that are NaN, a data set of copies: the run has ended well all the same
                say(f"no nearest neighbours: {error}")
    evaluations = 2 * config.sampling_steps - 1
    say(f"{folder / 'samples.png'}: {count(config.num_samples, 'sample')} of {count(evaluations, 'evaluation')} each")
    return folder


def write_results(config: Config, folder: Path, model, flow: hf.Flow, num_classes: int, key: jax.Array) -> np.ndarray:
    """The average model, a grid of its samples, and the curve of the loss."""
    shape = (config.num_samples, 3, config.resolution, config.resolution)
    labels = jnp.arange(config.num_samples) % num_classes if config.cond else None
    samples = hf.generate(model, flow, key, shape, config.sampling_steps, condition=labels)
    if not training.is_first_process():
        return np.asarray(samples)
    hf.save(folder / "model.safetensors", model)
    save_png(folder / "samples.png", image_grid(samples))
    history = [line for line in training.read_stats(folder / "stats.jsonl") if {"images", "loss"} <= line.keys()]
    figure, ax = plt.subplots(figsize=(6, 4))
    plotting.loss_curve(ax, [line["images"] for line in history], [line["loss"] for line in history])
    plotting.save_figure(figure, folder / "loss.png")
    return np.asarray(samples)


def show_neighbours(
    config: Config, folder: Path, samples: np.ndarray, source: AbstractImages, held_out: np.ndarray | None
) -> str:
    """What the model knows by heart is shown: each sample beside the nearest pictures it was trained on."""
    nearest = nearest_neighbours(samples, source, min(4, len(source)), mirrored=config.xflip)
    save_png(folder / "neighbours.png", neighbour_grid(samples, nearest, source))
    if held_out is None:
        return f"{folder / 'neighbours.png'}: each sample beside the nearest pictures it was trained on"
    return str(memorisation(nearest, nearest_neighbours(held_out, source, mirrored=config.xflip)))


def other_writers(
    config: Config, folder: Path, settings: dict, start_step: int, opened: contextlib.ExitStack
) -> list[Callable[[dict], None]]:
    """Where the numbers of each step go besides `stats.jsonl`, each in a thread of its own so that no step waits."""
    logs = []
    if config.tensorboard:
        logs.append(training.TensorBoardWriter(folder / "tensorboard", first_step=start_step))
    if config.wandb is not None:
        logs.append(training.WandbWriter(config.wandb, run_id=folder.name, folder=folder, config=settings))
    for log in logs:
        opened.callback(log.close)
    return [opened.enter_context(training.InBackground(log.write)).write for log in logs]


def take_up(config: Config, settings: dict) -> dict[str, str]:
    """Refuse to resume a run with other settings, but for what may change; show that, and measure nothing anew."""
    assert config.resume is not None
    run = training.read_config(config.resume)
    settings.update({name: run[name] for name in ("data_mean", "data_std") if name in run})
    for name in LATER - run.keys():
        if settings[name] == getattr(Config(), name):
            del settings[name]
    fewer = len_of(run.get("pictures")) > len_of(settings["pictures"])
    free = FREE | ({"data", "pictures"} if config.changed_data else set())
    free |= {"pictures"} if config.skip_corrupt and fewer else set()
    try:
        changes = training.check_same_config(config.resume, settings, free=free, override=config.override)
    except ValueError as error:
        hint = "\nIf the pictures were moved or mended, add --changed-data." if "pictures." in str(error) else ""
        raise ValueError(f"{error}{hint}") from None
    for name, words in changes.items():
        say(f"{name}: {words}")
    if changes.keys() & {"pictures.number", "seed"}:
        say("the order of the pictures changes from here on; the number of steps is kept")
    return changes


def position(config: Config, source: AbstractImages, state: training.TrainState) -> training.DataPosition:
    """The place in the pictures after the steps that a state has made."""
    return training.DataPosition(config.seed, int(state.step), config.batch, len(source))


def say(*words: object, **options: Any) -> None:
    """Print, in the first of several processes."""
    if training.is_first_process():
        print(*words, **options)


def len_of(pictures: object) -> int:
    return pictures.get("number", 0) if isinstance(pictures, dict) else 0


def count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def parse() -> Config:
    """The command line. With --resume RUN the run's own settings are the defaults, so they need not be said again."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--resume", nargs="?")
    run = finder.parse_known_args(sys.argv[1:])[0].resume
    default = Config()
    if run is not None:
        saved = {"label_dropout": 0.0, "held_out": 0.0, **training.read_config(run)}
        kinds = {"data": Path, "outdir": Path, "multipliers": tuple, "blocks": tuple, "attention": tuple}
        known = {field.name for field in dataclasses.fields(Config)} - ONCE
        saved = {k: kinds[k](v) if k in kinds and v is not None else v for k, v in saved.items() if k in known}
        default = dataclasses.replace(default, **saved)
    config = tyro.cli(Config, default=default, description=__doc__)
    return smaller(config) if config.smoke else config


def smaller(config: Config) -> Config:
    """What `--smoke` runs."""
    small = {"channels": 8, "multipliers": (1, 1), "blocks": (1, 1), "batch": 8, "num_samples": 4, "sampling_steps": 2}
    return dataclasses.replace(config, **small, duration=16e-6, save_every=8e-6)


def run() -> None:
    """`main`, with what a person can mend (a path, a folder, a setting) said in a few lines."""
    try:
        with training.exit_on_interrupt("Stopped before the training began: nothing was lost."):
            main(parse())
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {training.in_flags(str(error), FLAGS)}")


if __name__ == "__main__":
    run()
