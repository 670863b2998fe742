"""The file is read back with a reader of its own: frames by the book (TFRecord, CRC-32C), messages by protobuf."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from hamflow.training import TensorBoardWriter


def crc32c(data: bytes) -> int:
    """RFC 3720, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked(data[:8])
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked(body)
        events.append(event_pb2.Event.FromString(body))
        data = data[16 + length :]
    return events


def test_the_checksum_of_the_reader():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C


@pytest.fixture
def tensorboard_x():
    return pytest.importorskip("tensorboardX")


def test_numbers_lie_at_their_steps(tmp_path, tensorboard_x):
    with TensorBoardWriter(tmp_path / "board") as board:
        board.write({"step": 0, "images": 64, "loss": 0.1, "note": "words"})
        board.write({"step": 1000, "loss": float("nan"), "seconds": 2.5})
    (path,) = (tmp_path / "board").iterdir()
    version, first, second = read_events(path)
    assert version.file_version == "brain.Event:2"
    assert {v.tag: v.simple_value for v in first.summary.value} == {"images": 64.0, "loss": float(np.float32(0.1))}
    assert (first.step, second.step) == (0, 1000)
    assert np.isnan(second.summary.value[0].simple_value)
    assert first.wall_time <= second.wall_time


def test_a_record_is_on_the_disk_without_closing(tmp_path, tensorboard_x):
    board = TensorBoardWriter(tmp_path, flush_seconds=0)
    board.write({"step": 3, "loss": 1.0})
    assert [event.step for event in read_events(next(tmp_path.iterdir()))] == [0, 3]
    board.close()


def test_a_resumed_run_hides_what_it_repeats_and_overwrites_nothing(tmp_path, tensorboard_x):
    for first_step in (0, 5):  # within the second that names the files
        with TensorBoardWriter(tmp_path, first_step=first_step) as board:
            board.write({"step": first_step, "loss": 1.0})
    files = {path: read_events(path) for path in tmp_path.iterdir()}
    assert len(files) == 2
    started = [event for events in files.values() for event in events if event.HasField("session_log")]
    assert [(event.step, event.session_log.status) for event in started] == [(5, 1)]  # SessionLog.START


def test_a_picture_keeps_its_pixels(tmp_path, tensorboard_x):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with TensorBoardWriter(tmp_path) as board:
        board.picture("samples", pixels, 12)
    event = read_events(next(tmp_path.iterdir()))[-1]
    value = event.summary.value[0]
    assert (event.step, value.tag) == (12, "samples")
    np.testing.assert_array_equal(Image.open(io.BytesIO(value.image.encoded_image_string)), pixels)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    for name in [name for name in sys.modules if name.startswith("tensorboardX.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"needs tensorboardX.*pip install 'hamflow\[tensorboard\]'"):
        TensorBoardWriter(tmp_path)
