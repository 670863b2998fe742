"""A list of the sha256 of every file of a checkpoint, beside them, so that a flipped byte is noticed."""

import hashlib
import json
import pathlib

from hamflow.serialization import write_atomically

FILE_NAME = "sha256.json"


def write_checksums(folder: pathlib.Path) -> None:
    """List the files in the folders below this one, unless that was done before."""
    if not (folder / FILE_NAME).exists():
        write_atomically(folder / FILE_NAME, json.dumps(_checksums(folder), indent=0).encode())


def find_damage(folder: pathlib.Path) -> str | None:
    """What is wrong with a folder, if anything is: a file that is missing, new, or not what it was."""
    try:
        expected = json.loads((folder / FILE_NAME).read_bytes())
    except FileNotFoundError:
        return f"{FILE_NAME} is missing"
    except ValueError:
        return f"{FILE_NAME} cannot be read"
    if not isinstance(expected, dict):
        return f"{FILE_NAME} cannot be read"
    found = _checksums(folder)
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            return f"{name} " + ("does not match its checksum" if name in found else "is missing")
    return None


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    # Orbax still writes into the folder itself (the time of completion), not into those of the items.
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent != folder)
    sums = {}
    for path in files:
        with open(path, "rb") as file:
            sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums
