"""Real processes, killed and stopped: what goes on afterwards is what would have been, bit for bit."""

import gc
import logging
import os
import pathlib
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import equinox as eqx
import jax
import numpy as np
import pytest
from surviving_run import like

from hamflow.training import Checkpoints, CorruptCheckpoint, read_stats

HERE = pathlib.Path(__file__).parent


def start(mode, *folders_and_steps, words=(), **options):
    path = os.pathsep.join([str(HERE), *sys.path])
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(
        [*words, sys.executable, "-W", "error", str(HERE / "surviving_run.py"), mode, *map(str, folders_and_steps)],
        text=True, env={**os.environ, "PYTHONPATH": path}, **options,
    )  # fmt: skip


def finish(child):
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert err == ""
    return out.splitlines()


def complete_steps(folder):
    """The steps there is a complete checkpoint of; those that orbax is writing have another name."""
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal())


def half_written(folder):
    return [path.name for path in (folder / "checkpoints").glob("*") if not path.name.isdecimal()]


def restored(folder, step=None):
    """All there is in a checkpoint, as bytes, and the log up to it."""
    with Checkpoints(folder / "checkpoints", keep=10_000) as checkpoints:
        state, key, position = checkpoints.restore(*like(), step=step)
    leaves = jax.tree.leaves(eqx.filter((state, jax.random.key_data(key)), eqx.is_array))
    log = [(line["step"], line["images"], line["loss"]) for line in read_stats(folder / "stats.jsonl")]
    return [np.asarray(leaf).tobytes() for leaf in leaves], position, log[: int(state.step)]


def check_halves(tmp_path, counts, processes):
    """`n` steps, a new process, and `n` more, against 2 n steps without a break."""
    folders = [tmp_path / str(n) for n in counts]
    straight = tmp_path / "straight"
    finish(start("last", *(argument for pair in zip(folders, counts, strict=True) for argument in pair)))
    finish(start(",".join(str(2 * n) for n in counts), straight, 2 * max(counts)))
    rest = [(folder, 2 * n) for n, folder in zip(counts, folders, strict=True)]
    for pairs in [[pair] for pair in rest] if processes else [rest]:
        finish(start("last", *(argument for pair in pairs for argument in pair)))
    for n, folder in zip(counts, folders, strict=True):
        assert complete_steps(folder) == [n, 2 * n]
        assert restored(folder) == restored(straight, 2 * n)
        assert [step for step, _, _ in restored(folder)[2]] == list(range(2 * n))


def test_two_halves_are_the_whole(tmp_path):
    """In the middle of an epoch, before and after the batch in which one ends, and where one ends with a batch."""
    check_halves(tmp_path, [3, 6, 7, 32], processes=False)


@pytest.mark.soak
def test_two_halves_are_the_whole_for_every_step_of_an_epoch(tmp_path):
    check_halves(tmp_path, [*range(1, 14), 32], processes=True)


def kill_often(folder, num_kills, seed):
    """Kill a training that saves all the time; how often it was in the middle of a save, and where it had got to."""
    rng, in_a_save, newest = random.Random(seed), 0, 0
    for number in range(num_kills):
        child = start("each", folder, 100_000)
        if number % 5 == 4:  # anywhere, while it starts and reads too
            time.sleep(rng.uniform(0.0, 3.0))
        else:
            assert child.stdout.readline() == f"from {newest}\n", child.stderr.read()
            for _ in range(rng.randint(0, 4)):
                child.stdout.readline()  # a step
            time.sleep(rng.uniform(0.0, 0.3))
            if number % 2:  # as soon as a save has begun
                while not half_written(folder):
                    time.sleep(0.0005)
                time.sleep(rng.uniform(0.0, 0.01))
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        in_a_save += bool(half_written(folder))
        newest = max(complete_steps(folder), default=0)
    return in_a_save, newest


def check_kills(tmp_path, num_kills, seed):
    in_a_save, newest = kill_often(tmp_path / "killed", num_kills, seed)
    assert in_a_save > 0
    assert newest > 0
    lines = finish(start("each", tmp_path / "killed", newest + 3, tmp_path / "straight", newest + 3))
    # It reopens at the newest complete step, and saves the step again in whose saving it was killed.
    assert lines[:5] == [f"from {newest}", *(f"step {newest + i}" for i in (1, 2, 3)), "from 0"]
    assert restored(tmp_path / "killed") == restored(tmp_path / "straight")
    assert half_written(tmp_path / "killed") == []
    for step in complete_steps(tmp_path / "killed"):
        restored(tmp_path / "killed", step)
    return in_a_save, newest


def test_killed_at_any_moment(tmp_path):
    check_kills(tmp_path, 4, seed=0)


@pytest.mark.soak
def test_killed_at_fifty_moments(tmp_path):
    start = time.monotonic()
    in_a_save, newest = check_kills(tmp_path, 50, seed=1)
    print(f"50 kills, {in_a_save} of them in a save, {newest} steps, {time.monotonic() - start:.0f} s")


def test_sigterm_saves_leaves_with_143_and_loses_no_step(tmp_path):
    child = start("last", tmp_path / "run", 100_000)
    while child.stdout.readline() != "step 40\n":
        assert child.poll() is None
    child.terminate()
    out, err = child.communicate(timeout=60)
    assert child.returncode == 143
    assert "SIGTERM: finishing this step, then saving. Once more to leave at once." in err
    last = int(out.split()[-1]) if out else 40
    assert complete_steps(tmp_path / "run") == [last]
    assert len(restored(tmp_path / "run")[2]) == last
    finish(start("last", tmp_path / "run", last + 5, tmp_path / "straight", last + 5))
    assert restored(tmp_path / "run") == restored(tmp_path / "straight")


def test_a_terminal_that_is_closed_saves_and_leaves_with_129(tmp_path):
    """The shell says so, and then the kernel: two signals, and neither stdout nor stderr is there any more."""
    terminal, inside = pty.openpty()
    its_own = ["sh", "-c", 'exec "$@" 0<>"$0"', os.ttyname(inside)]  # the first that a new session opens is its own
    child = start(
        "each", tmp_path / "run", 100_000, words=its_own, start_new_session=True, stdout=inside, stderr=inside
    )
    os.close(inside)
    said = b""
    while b"step 3\r\n" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)  # the kernel sends SIGHUP
    child.send_signal(signal.SIGHUP)
    assert child.wait(timeout=60) == 129
    last = max(complete_steps(tmp_path / "run"))
    assert len(restored(tmp_path / "run")[2]) == last
    finish(start("each", tmp_path / "run", last + 2, tmp_path / "straight", last + 2))
    assert restored(tmp_path / "run") == restored(tmp_path / "straight")


def test_a_run_that_ignores_a_hang_up_goes_on(tmp_path):
    """As under `nohup`."""
    child = start("last", tmp_path / "run", 40, words=["sh", "-c", 'trap "" HUP; exec "$@"', "sh"])
    while child.stdout.readline() != "step 5\n":
        assert child.poll() is None
    child.send_signal(signal.SIGHUP)
    assert finish(child)[-1] == "step 40"


def test_a_second_sigterm_leaves_at_once(tmp_path):
    """In the middle of a step that takes a minute; the last checkpoint is good, and the run goes on from it."""
    child = start("slow", tmp_path / "run", 100_000)
    while child.stdout.readline() != "step 4\n":
        assert child.poll() is None
    begin = time.monotonic()
    child.terminate()
    while "Once more to leave at once." not in child.stderr.readline():
        assert child.poll() is None
    assert child.poll() is None
    child.terminate()
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGTERM
    assert time.monotonic() - begin < 30  # it did not wait for the step
    newest = max(complete_steps(tmp_path / "run"))
    assert newest >= 3
    finish(start("each", tmp_path / "run", newest + 2, tmp_path / "straight", newest + 2))
    assert restored(tmp_path / "run") == restored(tmp_path / "straight")


FULL = """
import resource, sys
import jax, jax.numpy as jnp, optax
from hamflow.training import Checkpoints, init_state

folder, big = sys.argv[1], 300_000
arrays = {f"small{i}": jax.numpy.ones(9) for i in range(20)}  # which are being written still when the big one fails
state = init_state({"w": jax.random.normal(jax.random.key(0), (big,)), **arrays}, optax.sgd(0.1))
key = jax.random.key(1)
class Broken:
    def __del__(self):
        raise RuntimeError("Event loop is closed")
def after(n):
    return type(state)(state.model, state.ema, state.opt_state, jnp.asarray(n, jnp.int32), state.images, state.finite)
def save_on_a_full_disk(n):
    try:
        with Checkpoints(folder) as checkpoints:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
            checkpoints.save(after(n), key)
    except OSError as error:
        print(type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
save_on_a_full_disk(1)
with Checkpoints(folder) as checkpoints:
    checkpoints.save(after(1), key)
save_on_a_full_disk(2)
Broken()
with Checkpoints(folder) as checkpoints:
    found, _, _ = checkpoints.restore(after(0), key)
    print(checkpoints.steps(), int(found.step), bool((found.model["w"] == state.model["w"]).all()))
    checkpoints.save(after(2), key)
    print(int(checkpoints.restore(after(0), key)[0].step))
"""


def test_a_file_that_can_grow_no_further_ends_clearly_and_harms_nothing_older(tmp_path):
    """As on a full disk, from the operating system itself."""
    path = os.pathsep.join(sys.path)
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "checkpoints")],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    first, said, kept, again = ended.stdout.splitlines()
    for each in (first, said):
        assert each.startswith(f"OSError A checkpoint could not be written to {tmp_path / 'checkpoints'}: ")
        assert "File too large" in each
        assert len(each) < 1000  # without tensorstore's page of JSON
    assert first.endswith("There is none before it: mend that, and start a new run.")
    assert said.endswith("Those before it are as they were: mend that, and resume.")
    # Nothing of the other arrays, and all of somebody else's error, with the same words.
    assert ended.stderr.startswith("Exception ignored in: <function Broken.__del__")
    assert ended.stderr.count("Event loop is closed") == ended.stderr.count("Traceback") == 1
    assert kept == "[1] 1 True"
    assert again == "2"


def test_other_errors_of_asyncio_are_told(tmp_path, caplog):
    Checkpoints(tmp_path).close()
    logger = logging.getLogger("asyncio")
    logger.error("Task exception was never retrieved\ntask: <Task coro=<f() defined at /home/me/orbax.py:3>>")
    logger.error("Future exception was never retrieved\nfuture: ValueError('Error writing in OCDBT database at x')")
    try:
        raise ValueError("mine")
    except ValueError:
        logger.exception("_GatheringFuture exception was never retrieved")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["Task", "_GatheringFuture"]


@pytest.fixture
def states_and_key():
    state, key = like()
    return state, eqx.tree_at(lambda s: s.step, state, jax.numpy.asarray(1, jax.numpy.int32)), key


def test_checkpoints_that_may_only_be_read(states_and_key):
    """They are opened and read, and a save ends clearly; pytest's own folders are closed to other users."""
    state, after, key = states_and_key
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        place = pathlib.Path(folder) / "checkpoints"
        with Checkpoints(place) as checkpoints:
            checkpoints.save(state, key)
        before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        threads = set(threading.enumerate())
        os.chmod(place, 0o555)
        root = os.geteuid() == 0
        if root:  # steps down to another user, to feel it
            os.seteuid(65534)
        try:
            with pytest.raises(
                OSError, match=rf"could not be written to {place}: .*Permission denied.*Those before it"
            ):
                save_again(place, state, after, key)
        finally:
            if root:
                os.seteuid(0)
            os.chmod(place, 0o755)
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
        # None stays that the process would wait for: an event loop's own thread ends when the loop is closed.
        deadline = time.monotonic() + 20
        while left := [thread for thread in set(threading.enumerate()) - threads if not thread.daemon]:
            assert time.monotonic() < deadline, left
            gc.collect()
            time.sleep(0.05)
        with Checkpoints(place) as checkpoints:
            checkpoints.save(after, key)
            assert checkpoints.steps() == [0, 1]


def save_again(place, state, after, key):
    with Checkpoints(place) as checkpoints:
        assert int(checkpoints.restore(state, key)[0].step) == 0
        checkpoints.save(after, key)


def test_a_cut_file_in_the_newest_and_the_way_back(tmp_path):
    """Moved away as the message says, the run goes on from the one before, and ends where it would have."""
    run = tmp_path / "run"
    finish(start("each", run, 6, tmp_path / "straight", 9))
    files = [path for path in (run / "checkpoints" / "6" / "state").rglob("*") if path.is_file()]
    shard = max(files, key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(CorruptCheckpoint, match=r"checkpoints/6 is damaged: .*Step 5 is good: move 6 away to resume"):
        restored(run)
    shutil.move(run / "checkpoints" / "6", tmp_path / "6")
    assert finish(start("each", run, 9))[0] == "from 5"
    assert restored(run) == restored(tmp_path / "straight")
