"""The file on the disk: paths, permissions, crashes, damage, versions."""

import os
import pathlib
import stat
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_objects import Holder, assert_same, write_with

from hamflow.serialization import load, save, write_atomically


def test_paths_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors does not exist"):
        load(tmp_path / "missing.safetensors")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        save(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match=r"make the folder .*nowhere first"):
        save(tmp_path / "nowhere" / "x", 1)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is not a folder"):
        save(tmp_path / "file" / "x", 1)


@pytest.fixture
def someone_else():
    """Root may write anywhere, so as root the test steps down to another user."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that every user may enter (pytest's own are closed to others)."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)
        os.chmod(folder, 0o755)


@pytest.fixture
def locked(open_folder):
    save(open_folder / "old", "old")
    os.chmod(open_folder / "old", 0)
    os.chmod(open_folder, 0o555)
    return open_folder


def test_permissions(locked, someone_else):
    with pytest.raises(PermissionError, match="you may not write in the folder"):
        save(locked / "new", 1)
    with pytest.raises(PermissionError, match="old cannot be read"):
        load(locked / "old")


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(path, monkeypatch):
    save(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device, so nothing was written.*object.safetensors"):
        save(path, "new")
    monkeypatch.undo()
    assert load(path) == "old"
    assert os.listdir(path.parent) == [path.name]


def test_a_written_file_has_the_permissions_of_an_ordinary_one(path):
    write_atomically(path, b"x")
    (path.parent / "plain").write_bytes(b"x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((path.parent / "plain").stat().st_mode)


def test_every_flipped_bit_is_refused(path):
    save(path, {"a": np.arange(3, dtype=np.float32), "b": (1.5, "text")})
    good = path.read_bytes()
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"object\.safetensors"):
            load(path)


def test_every_truncation_and_an_appendix_are_refused(path):
    save(path, {"a": np.arange(3, dtype=np.float32)})
    good = path.read_bytes()
    for size in [*range(0, len(good), 7), len(good) - 1]:
        path.write_bytes(good[:size])
        with pytest.raises(ValueError, match="cut short"):
            load(path)
    path.write_bytes(good + b"x")
    with pytest.raises(ValueError, match="does not match its checksum"):
        load(path)


def test_other_files_are_refused(path):
    import safetensors.numpy

    for content in [
        b"hello, this is text",
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        bytes(range(256)),
        safetensors.numpy.save({"x": np.ones(2)}),
        safetensors.numpy.save({"x": np.ones(2)}, {"format": "pt"}),
        struct.pack("<Q", 4) + b"[[]]",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"was not written by hamflow\.save"):
            load(path)


def test_another_format_version_is_refused(path):
    write_with(path, "1", version="7")
    with pytest.raises(ValueError, match="format version 7, and this hamflow reads version 1"):
        load(path)


def test_write_with_makes_files_that_load(path):
    write_with(path, {"object": "saved_objects:Holder", "fields": {"value": {"tuple": [1, None]}}})
    assert_same(load(path), Holder((1, None)))


@pytest.mark.parametrize(
    "structure",
    [
        "not json", "{}", {"tuple": 5}, {"dict": [1]}, {"wibble": 1}, {"float": "wide"}, {"complex": 5},
        {"bytes": "xy"},
        {"array": "y", "dtype": "float32", "shape": [3], "kind": "numpy"},
        {"array": "x", "dtype": "float32", "shape": [4], "kind": "numpy"},
        {"array": "x", "dtype": "O", "shape": [3], "kind": "numpy"},
        {"array": "x", "dtype": "uint32", "shape": [3], "kind": "key", "impl": "wibble"},
        {"object": 5, "fields": {}}, {"object": "hamflow", "fields": {}}, {"object": "saved_objects:Holder"},
        "[" * 100_000,
    ],
)  # fmt: skip
def test_nonsense_is_refused(path, structure):
    write_with(path, structure)
    with pytest.raises(ValueError, match=r"object\.safetensors: "):
        load(path)


def test_another_version_of_a_class_is_refused_by_class_and_field(path):
    write_with(path, {"object": "saved_objects:Point", "fields": {"x": 1.0}})
    with pytest.raises(ValueError, match=r"object: the class saved_objects:Point has a field 'y' that the file lacks"):
        load(path)
    write_with(path, [{"object": "saved_objects:Holder", "fields": {"value": 1, "old": 2}}])
    with pytest.raises(ValueError, match=r"object\[0\]: .* a field 'old' that the class saved_objects:Holder"):
        load(path)


def test_double_precision_is_not_cut_in_silence(path):
    with jax.enable_x64(True):
        save(path, {"x": jnp.asarray(0.1, jnp.float64)})
    with pytest.raises(ValueError, match=r"object\['x'\] is a JAX array of float64.*jax_enable_x64"):
        load(path)
    with jax.enable_x64(True):
        assert load(path)["x"].dtype == jnp.float64
