"""One line a step, each step once, whatever happened."""

import json

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
