"""The file: a plain safetensors file whose metadata hold the tree and a checksum of every byte.

The tensors are named by their place in the tree (`network.layers[0].weight`), so any safetensors reader opens them.
The metadata are four strings: `format` and `version`, the `structure` (JSON, see `tree.py`), and the `sha256` of the
whole file with these 64 digits set to zero, so that no byte can change unnoticed.
"""

import hashlib
import json
import os
import pathlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from hamflow._paths import as_path
from hamflow._types import checked
from hamflow.serialization.atomic import refuse_special, write_atomically
from hamflow.serialization.names import Refusal
from hamflow.serialization.tree import StoredArray, decode, encode

FORMAT = "hamflow"
VERSION = 1

_NO_DIGEST = "0" * 64


@checked
def save(path: str | os.PathLike, object: Any) -> None:
    """Write a predictor, a flow, a configuration or any tree of them to one file.

    Equinox modules, dataclasses, named tuples, lists, tuples, dicts, Python scalars, paths, NumPy and JAX arrays of
    any numeric dtype, typed PRNG keys and named functions come back as they were: floats and arrays bit for bit,
    Python numbers as Python numbers, static fields and weak types included. JAX arrays come back on the default device.

    The file appears under its name only when it is complete, so a crash leaves the old one as it was. Equal trees give
    equal bytes. Where `path` is a link, the file it leads to is written.

    Raises `TypeError` for a leaf that cannot be stored (a lambda, a local class, an open file), with its place in the
    tree, and `FileNotFoundError`, `IsADirectoryError`, `NotADirectoryError`, `PermissionError` or another `OSError`
    (a full disk, a device in its place) with the path.

    ```python
    hf.save("predictor.safetensors", predictor)
    predictor = hf.load("predictor.safetensors")
    ```
    """
    tensors: dict[str, np.ndarray] = {}
    try:
        structure = json.dumps(encode(object, "object", tensors), allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("The object contains itself, or is nested too deeply to be saved.") from None
    metadata = {"format": FORMAT, "version": str(VERSION), "structure": structure, "sha256": _NO_DIGEST}
    content = _with_sorted_metadata(safetensors.numpy.save(tensors, metadata))
    # In the header every quotation mark of the structure is escaped, so this text can stand there only once.
    place = content.index(f'"sha256":"{_NO_DIGEST}"'.encode()) + len('"sha256":"')
    digest = hashlib.sha256(content).hexdigest().encode()
    write_atomically(path, content[:place] + digest + content[place + len(digest) :])


@checked
def load(path: str | os.PathLike, *, trust: Sequence[str] = ()) -> Any:
    """Read what `save` wrote.

    Nothing in the file is executed. Classes are taken from hamflow, Equinox, Diffrax, Lineax and Optax, and from
    modules you have imported already; functions only from the mathematical modules of JAX, from Equinox and hamflow.
    For a network that uses functions of your own, name their package in `trust`.

    **Arguments:** `path`, and `trust`: names of packages or modules, such as `("mypackage", "__main__")`, whose
    functions may be used and whose modules may be imported.

    Raises `FileNotFoundError`, `IsADirectoryError` or `PermissionError` for a path that cannot be read, and
    `ValueError` for a file that was not written by `save`, is damaged, is of a newer format, names a class that
    cannot be found or is not trusted, or whose class has other fields now.
    """
    if isinstance(trust, str):
        raise TypeError(f"trust is the string {trust!r}: give a sequence of names, trust=({trust!r},).")
    path = as_path(path)
    structure, tensors = _open(_read(path), path)
    try:
        tree = decode(json.loads(structure), "object", tensors, tuple(trust))
    except Refusal as refusal:
        raise ValueError(f"{path}: {refusal}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, StopIteration, RecursionError) as error:
        raise ValueError(f"{path}: its structure makes no sense ({type(error).__name__}: {error}).") from error
    if tensors:  # `decode` takes out what it uses
        raise ValueError(f"{path} holds the tensor {min(tensors)!r}, which its structure does not mention.")
    return tree


def _with_sorted_metadata(content: bytes) -> bytes:
    """The same file with the metadata in the order of their names: safetensors writes them in a new one every time."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _read(path: pathlib.Path) -> bytes:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the file itself.")
    refuse_special(path)
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} does not exist.") from None
    except PermissionError:
        raise PermissionError(f"{path} cannot be read: its permissions forbid it.") from None


def _open(content: bytes, path: pathlib.Path) -> tuple[str, dict[str, StoredArray]]:
    """The structure and every tensor as it is stored, after the checks that need no knowledge of either."""
    not_ours = f"{path} was not written by hamflow.save: it is no safetensors file with a hamflow structure in it."
    try:
        (header_size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + header_size])
        metadata = header.pop("__metadata__")
        start = 8 + header_size
        end = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        version, structure, digest = (metadata[name] for name in ("version", "structure", "sha256"))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{not_ours} Or it is damaged or cut short: copy it again.") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(not_ours)
    if len(content) < end:
        raise ValueError(f"{path} is cut short: {len(content)} of {end} bytes are there. Copy it again.")
    if version != str(VERSION):
        raise ValueError(
            f"{path} has format version {version}, and this hamflow reads version {VERSION}. "
            "It was written by another version of hamflow (or is damaged): upgrade hamflow."
        )
    check = hashlib.sha256(content[:start].replace(f'"{digest}"'.encode(), f'"{_NO_DIGEST}"'.encode(), 1))
    check.update(memoryview(content)[start:])
    if check.hexdigest() != digest:
        raise ValueError(f"{path} is damaged: its content does not match its checksum. Copy it again.")
    try:
        stored = safetensors.deserialize(content)
        return structure, {name: StoredArray(t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in stored}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a sound safetensors file: {error}.") from None
