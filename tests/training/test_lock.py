"""One trainer a folder, whoever asks and however the other ends."""

import errno
import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from hamflow.training import RunInUse, lock, lock_run

HOLDER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
with lock.lock_run(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(folder):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(pathlib.Path(lock.__file__)), str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "held\n"
    return child


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}, (
        folder.stat().st_mtime_ns
    )


def test_a_second_process_is_refused_by_name_and_a_killed_one_leaves_no_lock(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    first = holder(tmp_path)
    before = snapshot(tmp_path)
    message = rf"{tmp_path} is in use by process {first.pid} on {socket.gethostname()}, since 20\d\d-.*: wait until"
    with pytest.raises(RunInUse, match=message), lock_run(tmp_path):
        pass
    assert snapshot(tmp_path) == before
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with lock_run(tmp_path):
        second = subprocess.run(
            [sys.executable, "-c", HOLDER, str(pathlib.Path(lock.__file__)), str(tmp_path)],
            capture_output=True, text=True,
        )  # fmt: skip
    assert second.returncode == 1
    assert f"RunInUse: {tmp_path} is in use by process {os.getpid()} on" in second.stderr


def test_it_is_let_go_of_however_the_block_ends(tmp_path):
    for error in (None, ValueError, KeyboardInterrupt, SystemExit):
        try:
            with lock_run(tmp_path):
                about = json.loads((tmp_path / ".lock").read_text())
                assert (about["pid"], about["host"]) == (os.getpid(), socket.gethostname())
                with pytest.raises(RunInUse), lock_run(tmp_path):
                    pass
                if error is not None:
                    raise error
        except BaseException as raised:
            assert type(raised) is error  # noqa: PT017
    assert os.listdir(tmp_path) == [".lock"]


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}"])
def test_a_holder_that_has_not_said_who_it_is(tmp_path, content):
    with lock_run(tmp_path):
        (tmp_path / ".lock").write_bytes(content)
        with pytest.raises(RunInUse, match="is in use by another process: wait"), lock_run(tmp_path):
            pass


def test_where_there_are_no_locks_it_says_so_and_goes_on(tmp_path, monkeypatch):
    def none(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    reached = []
    with (
        pytest.warns(RuntimeWarning, match=r"is not locked, since its file system has no locks \(No locks avail"),
        lock_run(tmp_path),
    ):
        reached.append(1)
    monkeypatch.setattr(lock, "fcntl", None)
    with (
        pytest.warns(RuntimeWarning, match="is not locked, since this platform has no flock: take care"),
        lock_run(tmp_path),
    ):
        reached.append(2)
    assert reached == [1, 2]


def test_of_several_processes_the_first_takes_it(tmp_path, monkeypatch):
    import jax

    reached = []
    with lock_run(tmp_path):
        with pytest.raises(RunInUse), lock_run(tmp_path):  # as long as it calls itself the first
            reached.append(0)
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with lock_run(tmp_path):
            reached.append(1)
        monkeypatch.undo()
    assert reached == [1]


def test_folders_that_cannot_be_locked(tmp_path):
    (tmp_path / "file").touch()
    for folder, kind, message in [
        (tmp_path / "none", FileNotFoundError, "There is no folder .*none to train in"),
        (tmp_path / "file", NotADirectoryError, "file is not a folder"),
        ("/proc/self", OSError, "/proc/self"),
    ]:
        with pytest.raises(kind, match=message), lock_run(folder):
            pass


def test_a_folder_that_may_only_be_read(tmp_path_factory):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        root = os.geteuid() == 0
        if root:  # steps down to another user, to feel it
            os.seteuid(65534)
        try:
            with pytest.raises(PermissionError, match=r"cannot be trained in: you may not write"), lock_run(folder):
                pass
        finally:
            if root:
                os.seteuid(0)
            os.chmod(folder, 0o755)
