"""A file is there whole or not at all."""

import contextlib
import os
import pathlib
import uuid


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a whole file or nothing: to a hidden name beside it, to the disk, then renamed into place.

    Raises `FileNotFoundError`, `NotADirectoryError`, `IsADirectoryError`, `PermissionError` or another `OSError` (a
    full disk), with the path and what to do; whatever stood there before is still there then.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it.")
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
