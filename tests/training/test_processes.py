"""Two processes as one run, on the loopback: the numbers of one process, stopping together, and the death of one."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest
from training_problem import Regressor

from hamflow.training import Checkpoints, init_state, join_processes
from hamflow.training.processes import detect_cluster

HERE = pathlib.Path(__file__).parent


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def start(count, index, port, out, what):
    command = [sys.executable, str(HERE / "two_processes.py"), *map(str, (port, count, index, out, what))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def restored(folder):
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state, _, _ = checkpoints.restore(init_state(Regressor(), optax.adamw(0.05)), jax.random.key(0))
    return state


def run(count, folder, what):
    port = free_port()
    children = [start(count, index, port, folder / f"{index}.json", what) for index in range(count)]
    said = [child.communicate(timeout=240)[1] for child in children]
    for child, words in zip(children, said, strict=True):
        assert child.returncode == 0, words
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(count)]


def test_two_processes_are_one_run(tmp_path):
    """The second is asked to stop after its step 7, the first after 9: both leave after the same, with equal losses.

    Then they are fed five times more, and the second has rows for 0, 1, 2, 2 and 6 batches, after which it cannot read
    or has no more: both make as many steps as one process that can read no more, and save all of them together.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (alone,) = run(1, one, "stop")
    first, second = run(2, two, "stop")
    assert first["losses"] == second["losses"]
    assert len(first["losses"]) == 7 + 2 + 1  # steps 0 to 7, and the two that were under way
    assert len(alone["losses"]) == 9 + 1  # alone, at once
    np.testing.assert_allclose(first["losses"], alone["losses"][: len(first["losses"])], rtol=1e-6)
    numbers, words = (0, 1, 2, 2, 6), ("picture ä of batch 0", None, "of batch 2", "of batch 2", "of batch 6")
    for n, message, *ends in zip(numbers, words, alone["ends"], first["ends"], second["ends"], strict=True):
        if message is None:
            assert ends == [[n, "ended", "None"]] * 3
            continue
        told = f"ReadingFailed: Process 1 could not read its rows of a batch: OSError: {message}"
        assert ends == [[n, f"OSError: {message}", "None"], [n, told, "None"], [n, told, f"OSError({message!r})"]]
    assert first["folder"] == second["folder"] == "run of 0"
    assert first["failed"].startswith("IndexError")
    assert second["failed"].startswith("RuntimeError: The first process stopped: IndexError")
    assert first["refused"] == second["refused"]
    of_the_key, of_the_state, of_both = first["refused"]
    assert of_the_key == (
        "key lies on devices of this process alone, and a checkpoint of 2 processes is of what lies on all of them: "
        "save replicate(key, mesh)."
    )
    assert of_the_state.startswith(".model.weight, .model.bias, .model.constant and 12 more lie on devices of this pro")
    assert of_the_state.endswith("save a state of init_state(..., mesh=mesh), or shard(state, ...) it.")
    assert "and 13 more lie" in of_both
    assert first["weight"] == second["weight"]
    assert len(first["weight"]) == 4
    state = restored(two)
    assert int(state.step) == 10 + 0 + 1 + 2 + 2 + 6
    np.testing.assert_array_equal(state.model.weight, first["weight"])  # saved by two on four devices, read on one
    assert first["share"] == 2  # of four weights, over two fsdp devices


def test_the_others_end_when_one_dies(tmp_path):
    port = free_port()
    children = [start(2, index, port, tmp_path / f"{index}.json", "die") for index in range(2)]
    began = time.monotonic()
    said = [child.communicate(timeout=120)[1] for child in children]
    assert children[1].returncode == 9
    assert children[0].returncode not in (0, None)
    assert said[0]
    assert time.monotonic() - began < 90
    assert not (tmp_path / "0.json").exists()
    assert int(restored(tmp_path).step) == 4


def test_who_started_this_process():
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    assert detect_cluster({}) is None
    assert detect_cluster({**slurm, "SLURM_NTASKS": "2"}) == "slurm"
    assert detect_cluster({**slurm, "SLURM_NTASKS": "1"}) is None
    assert detect_cluster({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}) is None  # a shell inside an allocation
    assert detect_cluster({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2"}) == "ompi"
    assert detect_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}) == "k8s"


def test_alone_nothing_happens(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JOB_")):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
    join_processes()
    assert calls == []
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1.0;tcp://10.0.0.1:1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    join_processes(timeout_seconds=7)
    expected = {"cluster_detection_method": "ompi", "initialization_timeout": 7, "heartbeat_timeout_seconds": 60}
    assert calls == [expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("n1:9876", 2, None), "process_id must be given too, or none of the three"),
        ((None, 2, 0), "coordinator must be given too"),
        (("n1", 2, 0), r"coordinator is 'n1': give host and port of the first"),
        (("n1:9876", 2, 2), "process_id is 2: of 2 it is 0 to 1"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        join_processes(*arguments)
