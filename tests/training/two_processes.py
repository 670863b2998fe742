"""One of the processes that `test_processes.py` starts: a few steps, and what came of them as JSON in a file."""

import json
import os
import pathlib
import signal
import sys

import jax

port, count, index, out, what = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 4 // int(count))
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

import optax  # noqa: E402
from training_problem import Regressor, batch_of, loss  # noqa: E402

from hamflow import training  # noqa: E402

if int(count) > 1:
    training.join_processes(f"localhost:{port}", int(count), int(index), timeout_seconds=60, heartbeat_seconds=10)

assert len(jax.devices()) == 4
mesh = training.device_mesh(data=2, fsdp=2)
optimizer = optax.adamw(0.05)
rule = training.largest_axis(2, min_size=1)
state = training.init_state(Regressor(), optimizer, mesh=mesh, rule=rule)
where = training.state_sharding(state, mesh, rule)
step = training.make_step(loss, optimizer, sharding=where, rows_together=1, microbatches=2)


def mine(n):
    """The rows of a batch that this process reads."""
    batch, rows = batch_of(0, n), 16 // int(count)
    return {name: column[int(index) * rows : (int(index) + 1) * rows] for name, column in batch.items()}


stop, losses, index_of = training.StopOnSignal(), [], int(index)
should_stop = training.StopTogether(stop, mesh)
key = training.replicate(jax.random.key(3), mesh)
checkpoints = training.Checkpoints(f"{pathlib.Path(out).parent}/checkpoints", asynchronous=what != "die")
folder = training.from_first_process(lambda: f"run of {index_of}")
with stop:
    for n, (read, batch) in enumerate(training.feed(map(mine, range(10_000)), mesh)):
        assert len(read["x"]) == 16 // int(count)
        if what == "die" and index == "1" and n == 5:
            os._exit(9)
        state, metrics = step(state, batch, key)
        losses.append(float(metrics["loss"]))
        if what == "stop" and n == (7 if index == "1" else 9):  # one is told before the other
            os.kill(os.getpid(), signal.SIGTERM)
        if what == "die" and n == 3:
            checkpoints.save(state, key)
        if should_stop():
            break


def rows_until(end, error):
    """The rows of this process; in the last one there are only those of `end` batches, and then perhaps an error."""
    for n in range(10_000 if int(index) < int(count) - 1 else end):
        yield mine(n)
    if error is not None:
        raise error


ends = []
for end, ahead, failure in [
    (0, 2, OSError("picture ä of batch 0")),
    (1, 2, None),
    (2, 4, OSError("of batch 2")),
    (2, 0, OSError("of batch 2")),
    (6, 2, OSError("of batch 6")),
]:
    found, should_stop = [0, "ended", "None"], training.StopTogether(training.StopOnSignal(), mesh)
    try:
        for _, batch in training.feed(rows_until(end, failure), mesh, ahead=ahead):
            state, metrics = step(state, batch, key)
            found[0] += 1
            assert not should_stop()
    except (OSError, training.ReadingFailed) as error:
        found[1:] = f"{type(error).__name__}: {error}", repr(error.__cause__)
    ends.append(found)
refused = []
if int(count) > 1:
    alone = training.init_state(Regressor(), optimizer)
    for some, other in ((state, jax.random.key(3)), (alone, key), (alone, jax.random.key(3))):
        try:
            checkpoints.save(some, other)
        except ValueError as error:
            refused.append(str(error))
checkpoints.save(state, key)
checkpoints.close()
try:
    training.from_first_process(lambda: [][1])
except (IndexError, RuntimeError) as error:
    failed = f"{type(error).__name__}: {error}"
whole = training.gather(state.model, mesh)
assert len(whole.weight.devices()) == 1
share = state.model.weight.addressable_shards[0].data.size
found = {
    "refused": refused,
    "ends": ends,
    "losses": losses,
    "folder": folder,
    "failed": failed,
    "share": share,
    "weight": whole.weight.tolist(),
}
pathlib.Path(out).write_text(json.dumps(found))
