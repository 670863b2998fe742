"""A tiny training by its own process, which the tests kill: `python surviving_run.py MODE FOLDER STEPS ...`

Modes: `each` saves after every step, `last` after the last one only, `6,12` after these too, and keeps all of them.
`slow` saves after every step and then takes a minute over the fourth.
"""

import pathlib
import sys
import time

import jax
import numpy as np
import optax
from training_problem import Regressor, loss

from hamflow.data import stream_indices
from hamflow.training import (
    Checkpoints,
    DataPosition,
    Recorder,
    StatsLog,
    StopOnSignal,
    init_state,
    lock_run,
    make_step,
)

NUM_EXAMPLES, BATCH, SEED = 32, 5, 3  # an epoch is 6.4 steps
OPTIMIZER = optax.adam(0.05)
X = np.random.default_rng(1).normal(size=(NUM_EXAMPLES, 4)).astype(np.float32)
STEP = make_step(loss, OPTIMIZER, microbatches=5, rows_together=1)  # so that a run may be killed between two of them


def like():
    """A state to restore into, and a key."""
    return init_state(Regressor(), OPTIMIZER), jax.random.key(SEED)


def position(state):
    return DataPosition(SEED, int(state.step), BATCH, NUM_EXAMPLES)


def train(mode, folder, num_steps):
    state, key = like()
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    chosen = [int(n) for n in mode.split(",")] if mode not in ("each", "last", "slow") else []
    saving = Checkpoints(folder / "checkpoints", keep=3, keep_every=1 if chosen else None)
    with lock_run(folder), saving as checkpoints, StopOnSignal() as stop:
        if checkpoints.steps():
            state, key, saved = checkpoints.restore(state, key)
            position(state).check(saved)
        first = int(state.step)
        print("from", first, flush=True)
        with StatsLog(folder / "stats.jsonl", first_step=first) as stats:
            record = Recorder(stats.write)
            for n in range(first, num_steps):
                index = stream_indices(SEED, NUM_EXAMPLES, n * BATCH, (n + 1) * BATCH)
                x = X[index]
                state, metrics = STEP(state, {"x": x, "y": x[:, 0]}, key)
                record(metrics, index)
                if mode in ("each", "slow") or n + 1 in chosen:
                    record.flush()
                    checkpoints.save(state, key, position(state).to_json())
                print("step", n + 1, flush=True)
                if mode == "slow" and n + 1 == 4:
                    time.sleep(60)
                if stop.requested:
                    break
            record.flush()
            checkpoints.save(state, key, position(state).to_json())
    return stop.exit_code


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    mode, *rest = sys.argv[1:]
    codes = [train(mode, folder, int(steps)) for folder, steps in zip(rest[::2], rest[1::2], strict=True)]
    sys.exit(max(codes))
