"""Small data sets of every kind, written as their formats are."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def encode(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def colours(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def png():
    """pixels -> the bytes of a PNG."""
    return encode


@pytest.fixture
def picture():
    """seed -> random pixels (height, width, 3)."""
    return colours


@pytest.fixture
def write_zip(tmp_path):
    """{name: bytes} -> the path of a zip that holds them, in that order."""

    def write(files: dict[str, bytes], labels: object = None, name: str = "set.zip") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, data in files.items():
                archive.writestr(member, data)
            if labels is not None:
                archive.writestr("dataset.json", json.dumps({"labels": labels}))
        return tmp_path / name

    return write


@pytest.fixture
def write_folder(tmp_path):
    """{name: bytes} -> the path of a folder that holds them."""

    def write(files: dict[str, bytes], labels: object = None) -> Path:
        top = tmp_path / "set"
        top.mkdir()
        for member, data in files.items():
            (top / member).parent.mkdir(parents=True, exist_ok=True)
            (top / member).write_bytes(data)
        if labels is not None:
            (top / "dataset.json").write_text(json.dumps({"labels": labels}))
        return top

    return write


@pytest.fixture(params=["zip", "folder"])
def write_files(request):
    """One test for both kinds of files: {name: bytes} -> path."""
    return request.getfixturevalue(f"write_{request.param}")


@pytest.fixture
def seven():
    """Seven pictures with their names, unsorted."""
    return {f"0000{i % 2}/img{i:08d}.png": encode(colours(i)) for i in (3, 1, 6, 0, 2, 5, 4)}
