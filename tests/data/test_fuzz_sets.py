"""Damaged data sets: each opens and reads as before, or is refused by its name."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hamflow.data import MissingLabelsError, UnreadableImageError, fingerprint, open_images

many_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_all(path: Path, **options) -> list[np.ndarray] | None:
    """All pictures and labels, or None if something is refused by name; anything else fails the test."""
    try:
        source = open_images(path, **options)
        items = [source[i] for i in range(len(source))]
    except (ValueError, OSError) as error:
        refusal = error
    else:
        return _values(items)
    assert type(refusal) in (ValueError, UnreadableImageError, MissingLabelsError) or isinstance(refusal, OSError)
    assert str(path) in str(refusal), repr(refusal)
    return None


def _values(items: list[dict]) -> list[np.ndarray]:
    for item in items:
        assert item["image"].dtype == np.uint8
        assert item["image"].ndim == 3
        assert item["image"].shape[0] == 3
    return [np.append(item["image"].reshape(-1).astype(int), item.get("label", -1)) for item in items]


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def damage_each_byte(path: Path, **options) -> int:
    """One bit, and all bits, of every byte: what is read is what was there, or nothing; how often it was nothing."""
    whole, before = path.read_bytes(), read_all(path, **options)
    assert before is not None
    refused = 0
    with open(path, "r+b") as file:
        for position in range(len(whole)):
            for mask in (1 << position % 8, 0xFF):
                file.seek(position)
                file.write(bytes([whole[position] ^ mask]))
                file.flush()
                after = read_all(path, **options)
                assert after is None or equal(after, before), (position, mask)
                refused += after is None
            file.seek(position)
            file.write(whole[position : position + 1])
            file.flush()
    assert equal(read_all(path, **options) or [], before)
    return refused


def test_no_damaged_byte_of_a_zip_comes_through(write_zip, png, picture):
    files = {"0/a.png": png(picture(0, 3, 3)), "0/b.png": png(picture(1, 3, 3))}
    refused = damage_each_byte(write_zip(files, [["0/a.png", 1], ["0/b.png", 0]]), labels=True)
    assert refused >= 2 * sum(map(len, files.values()))  # every byte of the pictures, damaged twice


def test_no_damaged_byte_of_a_zip_of_jpegs_comes_through(write_zip, png, picture):
    """Where the format has no checksum, that of the zip tells."""
    path = write_zip({"a.jpg": png(picture(0, 3, 3), "JPEG"), "b.bmp": png(picture(1, 3, 3), "BMP")})
    whole, before = path.read_bytes(), read_all(path)
    assert before is not None
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        after = read_all(path)
        assert after is None or equal(after, before), position


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_damaged_byte_of_an_npz_comes_through(tmp_path, save):
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 5), dtype=np.uint8)
    save(tmp_path / "set.npz", images=images, labels=np.array([1, 0, 2], np.int8))
    refused = damage_each_byte(tmp_path / "set.npz", labels=True)
    assert refused >= 2 * images.size  # every pixel, damaged twice: such pixels cannot be compressed


def test_of_an_npy_the_header_is_checked_and_the_pixels_have_their_fingerprint(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 5, 5), dtype=np.uint8)
    path = tmp_path / "set.npy"
    np.save(path, images)
    whole, before = path.read_bytes(), read_all(path)
    full, start = fingerprint(open_images(path), full=True), len(whole) - images.size
    assert before is not None
    for position in range(start):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            after = read_all(path)
            assert after is None or equal(after, before), (position, bit)
    quick = set()
    for position in range(start, len(whole), 97):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert fingerprint(open_images(path), full=True) != full
        quick.add(fingerprint(open_images(path)))
    path.write_bytes(whole)
    assert fingerprint(open_images(path), full=True) == full
    assert fingerprint(open_images(path)) in quick  # which is why there is the full one


@pytest.mark.parametrize("suffix", ["zip", "npz", "npy"])
def test_truncated_at_any_byte(tmp_path, write_zip, png, picture, suffix):
    path = tmp_path / f"set.{suffix}"
    if suffix == "zip":
        write_zip({"a.png": png(picture(0, 3, 3))})
    else:
        (np.savez if suffix == "npz" else np.save)(path, np.zeros((2, 3, 3), np.uint8))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_all(path) is None, length


def test_a_header_with_fewer_pictures_than_the_file_is_named(tmp_path):
    """The checksum is of the whole member; numpy stops where the header says, and never compares it."""
    for save, name in ((np.savez, "set.npz"), (np.save, "set.npy")):
        save(tmp_path / name, np.zeros((50, 64, 64), np.uint8))
        data = (tmp_path / name).read_bytes().replace(b"(50, 64, 64)", b"(40, 64, 64)")
        (tmp_path / name).write_bytes(data)
        with pytest.raises(
            ValueError, match=rf"{name} cannot be read: by its header it holds 163840 bytes .*and there are 204800"
        ):
            open_images(tmp_path / name)


def test_a_member_of_an_npz_is_named(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((5, 8, 8), np.uint8), labels=np.zeros(5, int))
    data = bytearray((tmp_path / "set.npz").read_bytes())
    data[data.index(b"labels.npy") + 160] ^= 1
    (tmp_path / "set.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"labels\.npy in .*set\.npz cannot be read"):
        open_images(tmp_path / "set.npz", labels=True)


def npy(header: str) -> bytes:
    text = header.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296, 1)}",  # 0 in 64 bits
        "{'descr': '|u1', 'fortran_order': True, 'shape': (4294967296, 4294967296, 4294967296)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -8, 8)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, " + 40 * "1, " + ")}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 64}",
        "{'descr': '(1000000,1000)u1', 'fortran_order': False, 'shape': (8, 8)}",
        "{'descr': [('a', '|u1'), ('a', '|u1')], 'fortran_order': False, 'shape': (8, 8)}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (1, 8, 8)}",
        "{'descr': None, 'fortran_order': None, 'shape': None}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1L, 8L, 9L)}",
        "{'descr': '''",
        100 * "(",
        100 * "-" + "1",
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional")
def test_headers_that_lie(tmp_path, header, suffix):
    path = tmp_path / f"set.{suffix}"
    content = npy(header) + bytes(64)
    if suffix == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"set\.{suffix}"):
        open_images(path)


@many_files
@given(header=st.text(st.characters(max_codepoint=127), max_size=100), pixels=st.binary(max_size=80))
def test_any_header(tmp_path, header, pixels):
    (tmp_path / "set.npy").write_bytes(npy(header) + pixels)
    assert read_all(tmp_path / "set.npy") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["a.png", "b.png", "labels", "../a.png"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["labels", "a.png"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.fixture
def labelled(write_folder, png, picture):
    return write_folder({"a.png": png(picture(0)), "b.png": png(picture(1))})


@many_files
@given(
    content=JSON
    | st.fixed_dictionaries({"labels": JSON})
    | st.lists(st.tuples(JSON, JSON)).map(lambda x: {"labels": x})
)
def test_any_json_for_labels(labelled, content):
    (labelled / "dataset.json").write_text(json.dumps(content))
    found = read_all(labelled, labels=True)
    assert found is None or {int(item[-1]) for item in found} <= set(range(1001))


@many_files
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-16")))
def test_any_bytes_for_labels(labelled, content):
    (labelled / "dataset.json").write_bytes(content)
    assert read_all(labelled, labels=True) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"labels": ' + 200_000 * b"[", "is not valid JSON"),
        (b'{"labels": [["a.png", ' + 5000 * b"1" + b'], ["b.png", 0]]}', "is not valid JSON"),
        (
            b'{"labels": [["a.png", ' + 4000 * b"1" + b'], ["b.png", 0]]}',
            r"label of a\.png in dataset\.json is 111.*\.\.\.",
        ),
        (b'{"labels": [["a.png", 1e999], ["b.png", 0]]}', r"label of a\.png in dataset\.json is inf"),
        (b'{"labels": ["' + 1_000_000 * b"x" + b'"]}', r"holds 'xxx.*\.\.\..*x' where"),
        (b'{"labels": [["' + 1_000_000 * b"x" + b'", 0]]}', r"no picture for the label of xxx.*\.\.\."),
        (b'{"labels": [], "other": "' + 5_000_000 * b"x" + b'"}', r"has more than 4196352 bytes for 2 pictures"),
    ],
)
def test_labels_that_are_too_much(labelled, content, reason):
    (labelled / "dataset.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{labelled}: .*{reason}") as refusal:
        open_images(labelled, labels=True)
    assert len(str(refusal.value)) < 2000


PLAIN = ["a.png", "b.png", "a.png/", "x/", ".", "ü.png", "\N{SNOWMAN}.png", "a.zip", "a\nb.png", ".a.png", "CON.png"]
TRICKS = ["../a.png", "/a.png", "a/../b.png", "..", "a\\..\\b.png", "C:a.png"]
NAMES = st.sampled_from([*PLAIN, *TRICKS, "a" * 300 + ".png", "dataset.json", "a.png\0b"])


@many_files
@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(names=st.lists(NAMES, max_size=5), mode=st.sampled_from([0o100644, 0o120777, 0o040755, 0o010644, 0]))
def test_any_names_in_a_zip(tmp_path, png, picture, names, mode):
    """Nothing is written anywhere, whatever the names are; the pictures are those of plain names."""
    path = tmp_path / "in" / "set.zip"
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            archive.writestr(info, png(picture(0)))
    found = read_all(path)
    assert found is None or (not set(TRICKS).intersection(names) and len(set(names)) == len(names))
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    assert [entry.name for entry in path.parent.iterdir()] == ["set.zip"]


def test_names_of_another_encoding(tmp_path, png, picture):
    """Without the mark of UTF-8 a name is read as code page 437, as the format says; with it, it must be UTF-8."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("\N{SNOWMAN}.png", png(picture(0)))
    data = (tmp_path / "set.zip").read_bytes()
    (tmp_path / "set.zip").write_bytes(data.replace("\N{SNOWMAN}".encode(), b"\xe2\xff\xff"))
    with pytest.raises(ValueError, match=r"set\.zip is not a zip, or a zip that was cut short .*utf-8"):
        open_images(tmp_path / "set.zip")
    local, central = data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8
    unmarked = bytearray(data)
    unmarked[local + 1] &= ~8
    unmarked[central + 1] &= ~8
    (tmp_path / "set.zip").write_bytes(unmarked)
    assert len(open_images(tmp_path / "set.zip")) == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, png, picture, method):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", method) as archive:
        archive.writestr("a.png", png(picture(0)))
    with pytest.raises(ValueError, match=r"a\.png in .*set\.zip cannot be read: it is compressed by (bzip2|lzma)"):
        open_images(tmp_path / "set.zip")
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 8, 8), np.uint8))
    with zipfile.ZipFile(tmp_path / "set.npz", "w", method) as archive:
        archive.writestr("images.npy", buffer.getvalue())
    with pytest.raises(ValueError, match=r"images\.npy in .*set\.npz cannot be read .*compressed by (bzip2|lzma)"):
        open_images(tmp_path / "set.npz")


def test_a_zip_in_a_zip_is_no_picture(write_zip, seven):
    inner = write_zip(seven, name="inner.zip").read_bytes()
    with pytest.raises(ValueError, match=r"outer\.zip holds no picture"):
        open_images(write_zip({"inner.zip": inner}, name="outer.zip"))


def test_a_part_of_a_zip_of_many_without_its_suffix_is_named(tmp_path):
    """The locator of a 64-bit directory on the second of two disks: `is_zipfile` raises on it."""
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 1, 0, 2)
    (tmp_path / "set").write_bytes(locator + b"PK\x05\x06" + bytes(18))
    with pytest.raises(ValueError, match=r"set is not a zip.*multiple disks"):
        open_images(tmp_path / "set")


def test_folders_deeper_than_python_recurses(tmp_path, png, picture):
    here, depth = os.getcwd(), 1100
    try:
        os.chdir(tmp_path)
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("a.png").write_bytes(png(picture(0)))
        assert len(read_all(tmp_path) or []) == 1
    finally:
        Path("a.png").unlink(missing_ok=True)
        for _ in range(depth):  # pytest's own cleaning recurses
            os.chdir("..")
            os.rmdir("d")
        os.chdir(here)


def test_an_npy_that_is_cut_short_while_it_is_open_is_named(tmp_path):
    """A memory map would end the process with a bus error."""
    np.save(tmp_path / "set.npy", np.zeros((500, 64, 64), np.uint8))
    source = open_images(tmp_path / "set.npy")
    os.truncate(tmp_path / "set.npy", 100_000)
    assert source[3]["image"].shape == (3, 64, 64)
    with pytest.raises(OSError, match=r"set\.npy was cut short since it was opened: picture 499 is gone"):
        source[499]


@pytest.mark.parametrize("shape", [(6, 5, 5, 3), (6, 3, 5, 5), (6, 5, 5)])
def test_the_order_of_fortran_reads_alike(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "c.npy", pixels)
    np.save(tmp_path / "f.npy", np.asfortranarray(pixels))
    np.savez(tmp_path / "f.npz", np.asfortranarray(pixels))
    expected = read_all(tmp_path / "c.npy")
    assert expected is not None
    assert equal(read_all(tmp_path / "f.npy") or [], expected)
    assert equal(read_all(tmp_path / "f.npz") or [], expected)


def test_an_archive_larger_than_memory_is_told_to_become_an_npy(tmp_path, monkeypatch):
    np.savez(tmp_path / "set.npz", np.zeros((2, 8, 8), np.uint8))
    monkeypatch.setattr("os.sysconf", lambda name: 8)  # 64 bytes
    with pytest.raises(
        ValueError, match=r"arr_0\.npy in .* do not fit in the 64 of this machine's memory.*numpy\.save"
    ):
        open_images(tmp_path / "set.npz")
