"""The loop as a script writes it: the pieces of hamflow.training put together, once, for the tests."""

import dataclasses

import jax
import optax
from training_problem import Regressor, batch_of, learned, loss

from hamflow.training import (
    Checkpoints,
    ExponentialMovingAverage,
    NonFiniteLoss,
    Progress,
    Recorder,
    StatsLog,
    StopOnSignal,
    check_same_config,
    device_mesh,
    init_state,
    learning_rate_schedule,
    make_run_folder,
    make_step,
    only,
    replicate,
    replicated,
    shard_batch,
)


@dataclasses.dataclass(frozen=True)
class Knobs:
    outdir: str
    duration: int = 20
    batch: int = 16
    lr: float = 0.05
    seed: int = 0
    save_every: int = 5
    resume: str | None = None


def train(knobs, *, loss=loss, batch_of=batch_of, devices=None, after_step=lambda n: None):
    if knobs.resume:
        run = knobs.resume
        check_same_config(run, knobs)
    else:
        run = str(make_run_folder(knobs.outdir, f"line-batch{knobs.batch}-seed{knobs.seed}", knobs))
    mesh = device_mesh(devices=devices)
    model = Regressor()
    trainable = only(model, learned)
    optimizer = optax.adamw(learning_rate_schedule(knobs.lr, knobs.batch, rampup_images=64), weight_decay=0.01)
    ema = ExponentialMovingAverage(halflife_images=200)
    step = make_step(loss, optimizer, ema, trainable=trainable, sharding=replicated(mesh))
    state, key = replicate((init_state(model, optimizer, trainable=trainable), jax.random.key(knobs.seed)), mesh)

    with Checkpoints(f"{run}/checkpoints") as checkpoints, StopOnSignal() as stop:
        if knobs.resume:
            state, key, _ = checkpoints.restore(state, key)
        first = int(state.step)
        with StatsLog(f"{run}/stats.jsonl", first_step=first) as stats, Progress(knobs.duration) as progress:
            record = Recorder(stats.write, progress.update)
            try:
                for n in range(first, knobs.duration):
                    batch = batch_of(knobs.seed, n, knobs.batch)
                    state, metrics = step(state, shard_batch(batch, mesh), key)
                    record(metrics, batch["index"])
                    after_step(n)
                    stopping = stop.requested  # asked once: a signal may come at any moment
                    if stopping or (n + 1) % knobs.save_every == 0 or n + 1 == knobs.duration:
                        record.flush()
                        checkpoints.save(state, key, {"seed": knobs.seed})
                    if stopping:
                        break
            except NonFiniteLoss:
                checkpoints.save(state, key, {"seed": knobs.seed})
                raise
    if stop.requested:
        print(f"Saved after {int(state.step)} steps. To go on: --resume {run}")
    return run, state
