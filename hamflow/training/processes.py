"""Several processes, on one host or many, as one run: how they find each other, agree, and speak with one voice.

Every process runs the same script. Each reads its rows of every batch, each saves its parts of a checkpoint, and the
first alone makes folders, logs and prints.
"""

import collections
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from hamflow._types import checked
from hamflow.training.agreement import LargestOfAll
from hamflow.training.interrupt import StopOnSignal

Cluster = Literal["slurm", "ompi", "k8s"]


def detect_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """What started this process as one of several, by the variables it left; None if it is alone.

    `srun` with more than one task, `mpirun` of Open MPI with more than one, or an indexed job of Kubernetes.
    """
    if environment.get("OMPI_MCA_orte_hnp_uri") and environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        return "ompi"
    if {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= environment.keys():
        return "slurm" if environment.get("SLURM_NTASKS", "1") != "1" else None
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys():
        return "k8s"
    return None


@checked
def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_seconds: int = 300,
    heartbeat_seconds: int = 60,
) -> None:
    """Join the other processes of a run, before anything else asks jax for its devices; alone, do nothing.

    - `coordinator`, `num_processes`, `process_id`: the address (`host:port`) of the first process, how many there are
      and which this is, from 0. All three or none; with none, what started the process says so (`detect_cluster`).
    - `timeout_seconds`: how long to wait for the others at the start.
    - `heartbeat_seconds`: a process that was not heard of for so long is dead, and ends all others, from C++: with
      status 134 and jax's own trace. The last checkpoint is good.

    Raises `ValueError` for numbers that do not fit, and `ConnectionError` if the others do not come.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    arguments: dict[str, Any]
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 3:
        cluster = detect_cluster(os.environ)
        if cluster is None:
            return
        arguments = {"cluster_detection_method": cluster}
    elif missing:
        raise ValueError(f"Of several processes {', '.join(missing)} must be given too, or none of the three.")
    else:
        assert coordinator is not None
        assert num_processes is not None
        assert process_id is not None
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"coordinator is {coordinator!r}: give host and port of the first, such as n1:9876.")
        if not 0 <= process_id < num_processes:
            raise ValueError(f"process_id is {process_id}: of {num_processes} it is 0 to {num_processes - 1}.")
        arguments = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    try:
        jax.distributed.initialize(
            **arguments, initialization_timeout=timeout_seconds, heartbeat_timeout_seconds=heartbeat_seconds
        )
    except jax.errors.JaxRuntimeError as error:
        where = coordinator or f"what {arguments.get('cluster_detection_method')} names"
        raise ConnectionError(
            f"The processes of this run did not find each other at {where} within {timeout_seconds} s "
            f"({str(error).splitlines()[0]}). Start all of them, and let them reach that address."
        ) from None


def is_first_process() -> bool:
    """Whether this process is the one that makes folders, logs and prints."""
    return jax.process_index() == 0


def from_first_process(make: Callable[[], Any]) -> Any:
    """What `make` returns in the first process, in all of them: a run folder, a number, anything JSON holds.

    It is called in the first alone. If it raises there, it raises `RuntimeError` with the same message in the others.
    """
    if jax.process_count() == 1:
        return make()
    error: Exception | None = None
    told = {}
    if is_first_process():
        try:
            told = {"value": make()}
        except Exception as caught:
            error, told = caught, {"error": f"{type(caught).__name__}: {caught}"[:4000]}
    words = json.dumps(told).encode()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(words))))
    sent = np.zeros(length, np.uint8)
    if is_first_process():
        sent[:] = np.frombuffer(words, np.uint8)
    heard = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(sent), np.uint8)))
    if error is not None:
        raise error
    if "error" in heard:
        raise RuntimeError(f"The first process stopped: {heard['error']}")
    return heard["value"]


class StopTogether:
    """Ask after each step whether to stop; all processes get the same answer after the same step.

    A signal may reach one process alone, or all at different steps, and a process that went on alone would wait for
    the others for ever. So each sends its own answer along with each step, and reads what came of it `lag` steps
    later, when it is there already. In one process the answer is that of `stop` at once.

    ```python
    with StopOnSignal() as stop:
        should_stop = StopTogether(stop, mesh)
        for ...:
            ...
            if should_stop():
                break
    ```
    """

    def __init__(self, stop: StopOnSignal, mesh: Mesh, *, lag: int = 2):
        self._stop = stop
        self._lag = 0 if jax.process_count() == 1 else lag
        self._any = LargestOfAll(mesh)
        self._waiting: collections.deque[int | jax.Array] = collections.deque()

    def __call__(self) -> bool:
        """Whether any process was asked to stop, up to `lag` steps ago."""
        self._waiting.append(self._any.send(int(self._stop.requested)))
        if len(self._waiting) <= self._lag:
            return False
        return bool(self._any.read(self._waiting.popleft()))
