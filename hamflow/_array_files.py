"""Arrays in files: data of one's own."""

import os
import zipfile

import numpy as np

from ._paths import as_path


def read_points(where: str | os.PathLike) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """The examples, floating, of shape (n, *event), the labels of a `.npz` that has some beside its `data`, and
    whether the examples were saved as whole numbers.

    A `.npz` holds its examples as `data`, or as its one array.

    Raises:
        ValueError: with the path, for anything else.
    """
    path = as_path(where)
    if not path.exists():
        raise ValueError(f"there is nothing at {path.absolute()}: give a .npy or .npz")
    labels, unclear = None, ""
    if path.is_dir() or (path.read_bytes()[:6] != b"\x93NUMPY" and not zipfile.is_zipfile(path)):
        raise ValueError(
            f"{path.absolute()} is not a .npy or .npz of NumPy. A table in text becomes one by "
            "numpy.save('points.npy', numpy.loadtxt('points.csv', delimiter=',')); a pickle is not read"
        )
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found as archive:
                names = archive.files
                if "data" not in names and len(names) != 1:
                    unclear = f"{path.absolute()} holds {', '.join(names)}: call the data `data`"
                labels = archive["labels"] if {"data", "labels"} <= set(names) else None
                found = archive["data" if "data" in names else names[0]] if names else np.zeros(())
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.absolute()} is not a .npy or .npz that can be read without pickle: {error}") from None
    if unclear:
        raise ValueError(unclear)
    if found.ndim == 0 or not (np.issubdtype(found.dtype, np.floating) or np.issubdtype(found.dtype, np.integer)):
        raise ValueError(f"{path.absolute()} holds {found.dtype}{list(found.shape)}: give numbers of shape (n, *event)")
    is_whole = np.issubdtype(found.dtype, np.integer)
    return found.astype(np.float64 if found.dtype == np.float64 else np.float32), labels, is_whole
