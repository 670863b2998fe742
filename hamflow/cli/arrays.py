"""Arrays in files: what a command found."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .._array_files import read_points as read_points
from ..serialization import write_atomically


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A `.npz`, whole or not at all; one that stood there before is replaced."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_atomically(path, content.getvalue())
