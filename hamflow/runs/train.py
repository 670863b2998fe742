"""The loop that every recipe is trained by, from top to bottom."""

import contextlib
import dataclasses
import gc
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.random as jr

from .. import training
from .._paths import as_path
from .averages import write_averages
from .endings import before_skipped, exit_nonfinite, exit_unreadable, save_before_raising
from .events import Every
from .logs import other_writers
from .optimiser import make_averages, make_optimizer
from .options import Options
from .recipe import AbstractRecipe
from .results import say_speed, write_results, write_snapshot
from .settings import check, check_resumed, opened, position, settings_of, steps_in, take_up
from .start import with_weights_of, write_start
from .words import count, say


def train(recipe: AbstractRecipe, options: Options | None = None, *, words: Sequence[str] = ()) -> Path | None:
    """Train, and draw samples; the run folder, or None of a dry run.

    A run folder holds `samples.png`, `loss.png`, `model.safetensors` (the average model, for `hamflow.load`),
    `initial.safetensors`, `config.json`, `stats.jsonl` (one line a step) and `checkpoints/`, and what the recipe adds.

    Args:
        recipe: what the run is. With `options.resume` it must be that of the run, but for what may change.
        options: where it lies, how it goes on, on which devices.
        words: of the command that calls this, such as `hamflow train faces`, to say how to go on; else the script's.

    Raises:
        ValueError, OSError: for what is wrong with the settings, the data or the folder, before anything is made.
        SystemExit: 130 after Ctrl-C, 143 after SIGTERM, 129 after a hang-up, all steps saved; with a message where a
            loss is not finite, or an example cannot be read.
    """
    with contextlib.ExitStack() as held:  # the lock of the run folder is let go of at the end
        return _train(_with_homes(recipe), _with_homes(options or Options()), tuple(words), held)


def _with_homes(settings: Any) -> Any:
    """Settings whose paths begin with the home folder where `~` stood."""
    paths = {name: as_path(value) for name, value in vars(settings).items() if isinstance(value, Path)}
    return dataclasses.replace(settings, **paths)


def _train(recipe: AbstractRecipe, options: Options, words: tuple[str, ...], held: contextlib.ExitStack) -> Path | None:
    # -- data and devices --------------------------------------------------------------------------------------------
    check(recipe, options)
    if options.resume is not None:
        check_resumed(recipe, options.resume)
    training.join_processes(options.coordinator, options.num_processes, options.process_id)
    training.use_compilation_cache()  # a run that is resumed starts at once
    task = opened(recipe, options)
    axes = training.parse_mesh(options.mesh)
    mesh = training.device_mesh(data=axes.get("data"), fsdp=axes.get("fsdp", 1))
    training.check_batch_size(recipe.batch, mesh, microbatches=options.microbatches)
    num_steps = steps_in(recipe, recipe.duration)
    first = training.is_first_process()  # of several, which makes folders, logs and prints
    kept_back = f" and {task.num_held_out} held out" if task.num_held_out else ""
    steps_of = f"{count(num_steps, 'step')} of {recipe.batch} on {count(mesh.size, 'device')}"
    say(f"{count(task.num_examples, recipe.NOUN)}{kept_back} {task.about}, {steps_of}")
    settings = settings_of(recipe, task)
    changes = take_up(recipe, options, settings) if options.resume is not None else {}

    # -- model, optimiser, state -------------------------------------------------------------------------------------
    key_network, key_moments, key_train, key_sample = jr.split(jr.key(recipe.seed), 4)
    measured = {name: settings[name] for name in task.measured if name in settings}
    problem = task.problem(measured, (key_network, key_moments))
    say(problem.about)
    model = problem.model
    if recipe.start is not None and options.resume is None:
        model = with_weights_of(recipe.start, model, problem.trainable, trust=options.trust)
    optimizer, averages = make_optimizer(recipe), make_averages(recipe)
    # One device holds the model for a moment, and no average or moment whole.
    state = training.init_state(model, optimizer, trainable=problem.trainable, num_averages=len(averages), mesh=mesh)
    key_train = training.replicate(key_train, mesh)
    step = training.make_step(
        problem.loss,
        optimizer,
        averages,
        trainable=problem.trainable,
        sharding=training.state_sharding(state, mesh),
        microbatches=options.microbatches,
        rows_together=problem.rows_together,  # 1: a row's random numbers depend on its place in the batch only
        stacked=recipe.steps_together > 1,
        on_nonfinite=recipe.on_nonfinite,
    )
    if options.replay is not None:
        origin = training.replay(
            options.replay, problem.loss, model, trainable=problem.trainable, rows_together=problem.rows_together
        )
        say(origin or "This time every number is finite.")
        return None

    # -- run folder --------------------------------------------------------------------------------------------------
    if options.dry_run:
        training.check_outdir(options.resume or options.outdir)
        if options.resume is not None:
            training.read_arrays(options.resume / "checkpoints", ".images")  # there is one, and it is whole
        say(json.dumps(dataclasses.asdict(recipe) | dataclasses.asdict(options), indent=2, default=str))
        return None
    folder = options.resume
    if folder is None:
        name = f"{task.name}-batch{recipe.batch}-seed{recipe.seed}"
        folder = training.from_first_process(lambda: str(training.make_run_folder(options.outdir, name, settings)))
    folder = as_path(folder)

    def command(*arguments: str) -> str:
        return training.resume_command(folder, *arguments, words=words)

    training.from_first_process(lambda: held.enter_context(training.lock_run(folder)) and None)
    save_every = Every(steps_in(recipe, recipe.save_every))
    keep_steps = max(round(recipe.keep_every * 1e6 / recipe.batch / save_every.steps), 1) * save_every.steps
    checkpoints = training.Checkpoints(
        folder / "checkpoints",
        keep=recipe.keep,
        keep_every=keep_steps if recipe.keep_every else None,
        keep_best=recipe.keep_best,
        metric="held_out_loss",
    )
    if options.resume is not None:
        state, key_train, saved = checkpoints.restore(state, key_train)
        # The settings were compared already, and may say that the order changes here; a batch of another size may not.
        position(recipe, task, state).check(saved, allow={"seed", "num_examples"})
        say(f"resumed {folder} after {count(int(state.step), 'step')}")
    start_step = int(state.step)
    # With --override the model may have become another, if the settings are to be those of the run from here on.
    if options.resume is None or (options.override and changes and start_step < num_steps):
        write_start(folder, model, start_step)
    if start_step >= num_steps:
        say(f"it has the {count(num_steps, 'step')} asked for already: no training, only samples")
    elif changes and first:
        training.update_config(folder, settings, start_step)
        if "duration" in changes and recipe.lr_decay:
            say("the learning rate follows the schedule of the new duration from here on")

    # -- loop --------------------------------------------------------------------------------------------------------
    validate = None
    held_out = task.held_out_batches()
    if held_out:
        validate = training.HeldOutLoss(problem.held_out_loss, held_out, jr.key(0))
    validate_every = Every(steps_in(recipe, recipe.validate_every) if validate else 0)
    snapshot_every = Every(steps_in(recipe, recipe.snapshot_every))
    averages_every = Every(steps_in(recipe, recipe.averages_every))
    events = [each.steps for each in (save_every, validate_every, snapshot_every, averages_every) if each.steps]
    stream = task.batches(start_step)
    together = recipe.steps_together
    sizes = training.stack_sizes(together, *events, start_step=start_step, end_step=num_steps)
    stacks = training.stack(stream, sizes) if together > 1 else stream
    feed = training.feed(stacks, mesh, stacked=together > 1)
    started, unreadable, stopped, cost, n = time.monotonic(), None, False, None, start_step
    with training.StopOnSignal() as stop, checkpoints, contextlib.ExitStack() as shown:
        shown.callback(getattr(stream, "close", lambda: None))  # of threads that read ahead
        writers, shows = [], []
        if first:
            stats = shown.enter_context(training.StatsLog(folder / "stats.jsonl", first_step=start_step))
            if stats.num_damaged:
                print(f"{stats.path}: left out {count(stats.num_damaged, 'line')} that cannot be read")
            progress = shown.enter_context(training.Progress(max(num_steps, start_step), first_step=start_step))
            writers = [stats.write, *other_writers(options, folder, settings, start_step, shown)]
            shows = [progress.update]
        record = training.Recorder(*writers, *shows, on_nonfinite=recipe.on_nonfinite, on_skip=say)
        record_held_out = training.Recorder(*writers, lag=0)
        profile = shown.enter_context(training.Profile(folder / "profile", options.profile if first else None))
        should_stop = training.StopTogether(stop, mesh)

        held_out_now: dict[str, Any] = {}

        def measure() -> None:
            record.flush()
            if validate is not None and not held_out_now:
                held_out_now.update(validate(training.gather(state.ema, mesh)))
                record_held_out({"step": n - 1, "images": state.images, **held_out_now})

        def save() -> None:
            if recipe.keep_best and n > start_step:
                measure()
            where = position(recipe, task, state).to_json()
            checkpoints.save(state, key_train, where, metrics=held_out_now if recipe.keep_best else None)

        try:
            while n < num_steps:
                try:
                    read, batch = next(feed)
                except (*task.UNREADABLE, training.ReadingFailed) as error:
                    unreadable = error
                    break
                if cost is None:  # compiles the step, which the loop then uses
                    dispatch = 1 if together == 1 else len(read["index"])
                    cost = training.measure_cost(step, state, batch, key_train)
                    cost = dataclasses.replace(cost, flops=cost.flops // dispatch)
                    gc.collect()  # what is there by now stays: else it is looked through again and again, 1 ms a step
                    gc.freeze()
                    shown.callback(gc.unfreeze)
                    say(f"{'a step' if dispatch == 1 else f'{dispatch} steps in a dispatch'}: {cost}")
                profile(state)
                state, metrics = step(state, batch, key_train)
                record(metrics, read["index"], batch=read)
                n += 1 if together == 1 else len(read["index"])
                held_out_now.clear()
                if validate_every.is_due(n) or n == num_steps:
                    measure()
                if snapshot_every.is_due(n):
                    write_snapshot(recipe, task, folder, n, training.gather(state.ema, mesh), key_sample)
                if averages_every.is_due(n):
                    kept = training.gather((state.ema, *state.other_averages), mesh)
                    write_averages(folder, recipe, int(state.images), kept)
                stopped = should_stop()
                if stopped:
                    break
                if save_every.is_due(n):
                    record.flush()
                    save()
            record.flush()
        except training.NonFiniteLoss as error:
            state = before_skipped(state, error, recipe.batch, max(checkpoints.steps(), default=0))
            checkpoints.save(state, key_train, position(recipe, task, state).to_json())
            model = training.gather(state.model, mesh)
            exit_nonfinite(error, recipe, folder, checkpoints, model, key_train, command)
        except (Exception, SystemExit):  # of a log, a picture, a closed terminal: it is not to cost a step
            if jax.process_count() == 1:  # the others would not save with this one
                save_before_raising(checkpoints, state, key_train, position(recipe, task, state), command)
            raise
        save()
    for _ in range(3):  # a signal may have come in the save
        stopped = should_stop() or stopped
    so_far = f"The training is saved after {count(int(state.step), 'step')}."
    if unreadable is not None:
        exit_unreadable(unreadable, recipe, so_far, command)
    if stopped:
        say(f"Stopped. {so_far} To go on:\n  {command()}", file=sys.stderr)
        sys.exit(stop.exit_code or 128 + signal.SIGTERM)  # it was another process that was told
    if start_step < num_steps:
        assert cost is not None
        say_speed(recipe, n - start_step, time.monotonic() - started, cost)
        if profile.outcome:
            say(profile.outcome)

    # -- samples -----------------------------------------------------------------------------------------------------
    with training.exit_on_interrupt(f"Stopped. {so_far} For its samples:\n  {command()}"):
        # Of several processes all draw the same samples, so that none has to wait for long, and the first writes them.
        write_results(recipe, task, folder, training.gather(state.ema, mesh), key_sample)
    return folder
