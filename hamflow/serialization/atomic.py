"""A file is there whole or not at all."""

import contextlib
import os
import pathlib
import stat
import uuid

from hamflow._paths import as_path


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a whole file or nothing: to a hidden name beside it, to the disk, then renamed into place.

    Raises `FileNotFoundError`, `NotADirectoryError`, `IsADirectoryError`, `PermissionError` or another `OSError` (a
    full disk), with the path and what to do; whatever stood there before is still there then. A link stays: the file
    it leads to is written. A device or a pipe is refused with `OSError`, since a rename would put a file in its place.
    """
    path = as_path(path)
    if path.is_symlink():
        path = pathlib.Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it.")
    refuse_special(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} cannot be written: make the folder {path.parent} first.") from None
    except NotADirectoryError:
        raise NotADirectoryError(f"{path} cannot be written: {path.parent} is not a folder.") from None
    except PermissionError:
        raise PermissionError(f"{path} cannot be written: you may not write in the folder {path.parent}.") from None
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}, so nothing was written", str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def refuse_special(path: pathlib.Path) -> None:
    """Raise `OSError` for a device, a pipe, a socket or a link that leads to itself: what can be no file of data."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        if path.is_symlink():
            raise OSError(f"{path} is a link that leads to itself: give the name of a file.") from None
        return  # nothing there, or out of sight: opening it says which
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(f"{path} is a device or a pipe, no ordinary file: give the name of a file.")
