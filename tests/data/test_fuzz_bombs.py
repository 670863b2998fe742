"""Small files that claim or unpack to much: refused by name, in little memory and time.

All in one process of its own, whose peak is measured before and after.
"""

import io
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

GIB = 1 << 30
READ = """
import resource, sys, time, warnings
from pathlib import Path
from hamflow.data import open_images

warnings.simplefilter("ignore")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for path in map(Path, sys.argv[1:]):
    before, start = peak(), time.perf_counter()
    try:
        source = open_images(path, 8, labels=path.suffix == ".labelled")
        source[0]
        outcome = "read"
    except (ValueError, OSError) as error:
        outcome = str(error).replace("\\n", " ")
    print(path.name, peak() - before, time.perf_counter() - start, outcome, sep="\\t")
"""


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(side: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(side * (bytes(1 + 3 * side)) if side < 100 else bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def zeros(size: int, first: bytes = b"") -> bytes:
    """`first` and zeros, `size` bytes of them, by deflate: one block of 16 MiB over and over, in a few milliseconds."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + (size >> 24) * block + packer.flush()


def pack(path: Path, members: dict[str, tuple[bytes, int]]) -> None:
    """A zip of members that are deflated already, each with the size that it claims to unpack to."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, (data, _) in members.items():
            archive.writestr(name, data)
    data = bytearray(path.read_bytes())
    for name, (_, size) in members.items():
        for signature, method, length, named in ((b"PK\x03\x04", 8, 22, 30), (b"PK\x01\x02", 10, 24, 46)):
            at = data.index(signature)
            while data[at + named : at + named + len(name)] != name.encode():
                at = data.index(signature, at + 1)
            struct.pack_into("<H", data, at + method, zipfile.ZIP_DEFLATED)
            struct.pack_into("<L", data, at + length, size)
    path.write_bytes(data)


def deflated(data: bytes) -> tuple[bytes, int]:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush(), len(data)


@pytest.fixture(scope="module")
def bombs(tmp_path_factory) -> dict[str, tuple[int, float, str]]:
    """Of each bomb: the memory that it took (MiB), the time, and what was said."""
    top = tmp_path_factory.mktemp("bombs")
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8)).save(jpeg, "JPEG")
    frame = jpeg.getvalue().index(b"\xff\xc0") + 5  # height and width
    large = jpeg.getvalue()[:frame] + struct.pack(">HH", 65500, 65500) + jpeg.getvalue()[frame + 4 :]
    extended = b"VP8X" + struct.pack("<L", 10) + bytes(4) + 2 * (16382).to_bytes(3, "little")
    pictures = {
        "png": png(60_000),
        "webp": b"RIFF" + struct.pack("<L", 4 + len(extended)) + b"WEBP" + extended,
        "bmp": b"BM"
        + struct.pack("<LHHL", 1000, 0, 0, 54)
        + struct.pack("<LllHH", 40, 50_000, 50_000, 1, 24)
        + bytes(900),
        "jpg": large,
    }
    paths = []
    for kind, data in pictures.items():
        (top / kind).mkdir()
        (top / kind / f"a.{kind}").write_bytes(data)
        paths.append(top / kind)
    text = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(1 << 28)))
    (top / "text").mkdir()
    (top / "text" / "a.png").write_bytes(png(8, text))
    (top / "sparse").mkdir()
    with open(top / "sparse" / "a.png", "wb") as file:
        file.truncate(1 << 40)
    sound = deflated(png(8))
    pack(top / "claims.zip", {"a.png": (zeros(2 * GIB), 2 * GIB)})
    pack(top / "hides.zip", {"a.png": (zeros(2 * GIB, png(8)), 1000)})
    pack(top / "labels.labelled", {"a.png": sound, "dataset.json": (zeros(2 * GIB, b'{"labels": '), 2 * GIB)})
    pack(top / "hidden.labelled", {"a.png": sound, "dataset.json": (zeros(2 * GIB, b'{"labels": '), 11)})
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 15, 1 << 8, 1 << 8)}
    )
    head = header.getvalue()
    pack(top / "claims.npz", {"images.npy": (zeros(2 * GIB, head), 2 * GIB + len(head))})
    pack(top / "hides.npz", {"images.npy": (zeros(2 * GIB, head), len(head) + 40_000)})
    (top / "claims.npy").write_bytes(head + bytes(640))
    paths += [top / name for name in ("text", "sparse")] + sorted(top.glob("*.*"))
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths)], capture_output=True, text=True, check=True, timeout=300
    )
    lines = (line.split("\t") for line in done.stdout.splitlines())
    return {name: (int(memory), float(seconds), said) for name, memory, seconds, said in lines}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("png", r"a\.png in .*claims more than"),
        ("jpg", r"a\.jpg in .*claims more than"),
        ("bmp", r"a\.bmp in .*claims more than"),
        ("webp", r"a\.webp in "),
        ("text", r"a\.png in .*Decompressed data too large"),
        ("sparse", r"a\.png in .* has 1099511627776 bytes; a picture has at most"),
        ("claims.zip", r"a\.png in .*claims\.zip has 2147483648 bytes; a picture has at most"),
        ("hides.zip", r"a\.png in .*hides\.zip "),
        ("labels.labelled", r"labels\.labelled: dataset\.json has more than \d+ bytes for 1 pictures"),
        ("hidden.labelled", r"dataset\.json in .*hidden\.labelled cannot be read"),
        ("claims.npz", r"images\.npy in .*claims\.npz cannot be read: \d+ bytes would unpack to 214748\d+"),
        ("hides.npz", r"images\.npy in .*hides\.npz cannot be read: by its header it holds 2147483648 bytes"),
        ("claims.npy", r"claims\.npy cannot be read: by its header it holds 2147483648 bytes .*there are 640"),
    ],
)
def test_a_bomb_is_refused_by_name_in_little_memory(bombs, name, reason):
    memory, seconds, said = bombs[name]
    assert re.search(reason, said), said
    assert memory < 64, f"{memory} MiB"
    assert seconds < 20


def test_all_together_take_little(bombs):
    """A peak hides what comes after it, so the sum of the rises is what counts."""
    assert len(bombs) == 13
    assert sum(memory for memory, _, _ in bombs.values()) < 128
