"""One line a step, each step once, whatever happened."""

import json
import os

import pytest

from hamflow.training import StatsLog, read_stats


def test_lines_are_there_at_once(tmp_path):
    with StatsLog(tmp_path / "stats.jsonl") as stats:
        stats.write({"step": 0, "loss": 0.1})
        assert (tmp_path / "stats.jsonl").read_text() == '{"step": 0, "loss": 0.1}\n'


def test_a_resumed_run_repeats_no_step(tmp_path):
    path = tmp_path / "stats.jsonl"
    with StatsLog(path) as stats:
        for n in range(6):
            stats.write({"step": n, "loss": float(n)})
    with open(path, "a") as file:
        file.write('{"step": 6, "lo')  # the crash
    assert [record["step"] for record in read_stats(path)] == [0, 1, 2, 3, 4, 5]
    with StatsLog(path, first_step=4) as stats:
        stats.write({"step": 4, "loss": -1.0})
    assert [(record["step"], record["loss"]) for record in read_stats(path)] == [
        *((n, float(n)) for n in range(4)),
        (4, -1.0),
    ]


def test_a_new_run_starts_empty(tmp_path):
    (tmp_path / "stats.jsonl").write_text('{"step": 0}\n')
    with StatsLog(tmp_path / "stats.jsonl"):
        pass
    assert read_stats(tmp_path / "stats.jsonl") == []


def test_every_line_is_strict_json_and_floats_are_exact(tmp_path):
    with StatsLog(tmp_path / "stats.jsonl") as stats:
        stats.write({"step": 0, "loss": 0.1 + 0.2, "worst": float("inf"), "flag": True})

    def no_constant(name):
        raise AssertionError(name)

    line = json.loads((tmp_path / "stats.jsonl").read_text(), parse_constant=no_constant)
    assert line == {"step": 0, "loss": 0.30000000000000004, "worst": "inf", "flag": True}


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        StatsLog(tmp_path / "nowhere" / "stats.jsonl")


DAMAGED = ['{"step": "1"}', "[1]", "null", '{"loss": 1.0}', '{"step": true}', '{"step": 1, "loss": "big"}', "{", "\x00"]


@pytest.mark.parametrize("line", DAMAGED)
def test_lines_that_are_no_records_are_left_out_and_counted(tmp_path, line):
    path = tmp_path / "stats.jsonl"
    good = [f'{{"step": {n}, "images": {4 * n}, "loss": 1.5}}' for n in range(3)]
    path.write_text("\n".join([good[0], line, *good[1:]]) + "\n")
    with pytest.raises(ValueError, match=r"stats\.jsonl, line 2, is no record of a step"):
        read_stats(path)
    with StatsLog(path, first_step=2) as stats:
        assert stats.num_damaged == 1
    assert path.read_text().splitlines() == good[:2]


def test_bytes_that_are_no_text_are_left_out(tmp_path):
    path = tmp_path / "stats.jsonl"
    path.write_bytes(b'{"step": 0}\n\xff\xfe{\n')
    with StatsLog(path, first_step=1) as stats:
        assert stats.num_damaged == 1
    assert read_stats(path) == [{"step": 0}]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a disk that is always full")
def test_a_full_disk_is_named(tmp_path):
    (tmp_path / "stats.jsonl").symlink_to("/dev/full")
    stats = StatsLog.__new__(StatsLog)  # a device is not read
    stats.path, stats._file = tmp_path / "stats.jsonl", open(tmp_path / "stats.jsonl", "a")  # noqa: SIM115
    with pytest.raises(OSError, match=r"No space left on device: .*stats\.jsonl"), stats:
        stats.write({"step": 0})
