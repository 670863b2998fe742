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


def test_a_link_stays_a_link_and_the_file_behind_it_is_written(tmp_path):
    save(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "ahead").symlink_to(tmp_path / "later")  # to a file that is not there yet
    for name in ("link", "ahead"):
        save(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
    assert load(tmp_path / "real") == load(tmp_path / "later") == "new"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="loop is a link that leads to itself"):
        save(tmp_path / "loop", "new")
    assert sorted(os.listdir(tmp_path)) == ["ahead", "later", "link", "loop", "real"]


def test_a_pipe_or_a_device_is_refused_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, pathlib.Path("/dev/null")):
        with pytest.raises(OSError, match=rf"{place} is a device or a pipe"):
            save(place, 1)
        with pytest.raises(OSError, match=rf"{place} is a device or a pipe"):
            load(place)
        assert not place.is_file()
        assert place.exists()
    assert os.listdir(tmp_path) == ["pipe"]


def test_equal_trees_give_equal_bytes(tmp_path):
    """safetensors alone writes the four metadata in a random order: one in 24^9 chances that ten agree."""
    tree = {"b": np.arange(3, dtype=np.float32), "a": (1.5, 'text "quoted"', np.zeros((0, 2), np.int8))}
    files = [tmp_path / f"{i}" for i in range(10)]
    for file in files:
        save(file, tree)
    assert len({file.read_bytes() for file in files}) == 1


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


ARRAY = {"array": "x", "dtype": "float32", "shape": [3], "kind": "numpy"}  # what `write_with` stores under x


def test_tensors_that_the_structure_does_not_mention_are_refused(path):
    write_with(path, ARRAY)
    np.testing.assert_array_equal(load(path), [0.0, 1.0, 2.0])
    write_with(path, {"tuple": ["array"]})
    with pytest.raises(ValueError, match=r"object\.safetensors holds the tensor 'x', which its structure does not"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int32"}, r"object is int32\[3\], but its tensor 'x' is stored as F32\[3\] and not as I32\[3\]"),
        ({"shape": [3, 1]}, r"object is float32\[3, 1\], but its tensor 'x' is stored as F32\[3\]"),
        ({"dtype": "complex128", "shape": []}, r"stored as F32\[3\] and not as U8\[16\]"),
    ],
)
def test_a_tensor_that_is_not_stored_as_the_structure_says_is_refused(path, changes, message):
    write_with(path, {**ARRAY, **changes})
    with pytest.raises(ValueError, match=message):
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
