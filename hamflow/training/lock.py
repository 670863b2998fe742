"""One trainer a run folder: a lock that the operating system lets go of when its process ends, however it ends."""

import contextlib
import errno
import json
import os
import pathlib
import socket
import time
import warnings
from collections.abc import Iterator

import jax

from hamflow._paths import as_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE_NAME = ".lock"

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class RunInUse(BlockingIOError):
    """Another process trains in this run folder."""


@contextlib.contextmanager
def lock_run(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a run folder: while this is open, a second `lock_run` of it, by whatever process, raises `RunInUse` at once.

    Take it before anything else is done in the folder (opening `Checkpoints` clears away what looks half-written, which
    may be what the other is writing).

    ```python
    with lock_run(run):
        checkpoints = Checkpoints(run / "checkpoints")
        ...
    ```

    The lock is `flock` on the file `.lock` in the folder. The kernel lets go of it when the process ends, by SIGKILL
    too, so none is ever left over, and the file itself, which stays, means nothing. It holds the process, the host and
    the time, for the error message. A process that was forked (not spawned) from this one holds the lock as well.

    On NFS the lock holds between hosts if the server has locks; on Lustre it must be mounted with `flock`, and with
    `localflock` it holds on one host only. Where a file system has no locks, and on Windows, a `RuntimeWarning` says so
    and the training goes on without. Of a run of several processes the first takes the lock for all.

    Raises `RunInUse` with the folder, the process and the host of the other trainer, `FileNotFoundError` or
    `NotADirectoryError` if there is no such folder, and `PermissionError` or another `OSError` if nothing may be
    written there.
    """
    folder = as_path(folder)
    if jax.process_index() != 0:
        yield
        return
    descriptor = _open(folder)
    try:
        if _take(descriptor, folder):
            about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            _write(descriptor, json.dumps(about).encode(), folder)
        yield
    finally:
        os.close(descriptor)


def _open(folder: pathlib.Path) -> int:
    try:
        return os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no folder {folder} to train in.") from None
    except NotADirectoryError:
        raise NotADirectoryError(f"{folder} is not a folder.") from None
    except PermissionError:
        raise PermissionError(f"{folder} cannot be trained in: you may not write there.") from None
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}, so nothing can be trained there", str(folder)) from None


def _take(descriptor: int, folder: pathlib.Path) -> bool:
    """Whether the lock is ours now; false if there are no locks here, and an error if it is somebody else's."""
    if fcntl is None:
        _warn(folder, "this platform has no flock")
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        raise RunInUse(f"{folder} is in use {_holder(descriptor)}") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise OSError(error.errno, f"{error.strerror}, so it cannot be locked", str(folder)) from None
        _warn(folder, f"its file system has no locks ({error.strerror})")
        return False


def _warn(folder: pathlib.Path, why: str) -> None:
    words = f"{folder} is not locked, since {why}: take care that nothing else trains there."
    warnings.warn(words, RuntimeWarning, stacklevel=5)


def _write(descriptor: int, content: bytes, folder: pathlib.Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
    except OSError as error:  # a full disk
        raise OSError(error.errno, f"{error.strerror}, so nothing can be trained there", str(folder)) from None


def _holder(descriptor: int) -> str:
    try:
        about = json.loads(os.pread(descriptor, 4096, 0))
        pid, host, since = about["pid"], about["host"], about["since"]
    except (OSError, ValueError, KeyError, TypeError):  # it has the lock, and has not yet written who it is
        return "by another process: wait until that has ended, or start a new run."
    return f"by process {pid} on {host}, since {since}: wait until that has ended, end it, or start a new run."
