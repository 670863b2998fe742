"""Run folders: numbered, named, whole; and what a changed setting is told."""

import dataclasses
import json
import os
import pathlib
import tempfile

import pytest

from hamflow.training import (
    check_outdir,
    check_ranges,
    check_same_config,
    make_run_folder,
    read_config,
    update_config,
)


@dataclasses.dataclass(frozen=True)
class Network:
    channels: tuple[int, ...] = (32, 64)
    dropout: float = 0.1


@dataclasses.dataclass(frozen=True)
class Knobs:
    outdir: pathlib.Path
    lr: float = 2e-4
    horizon: float = float("inf")
    network: Network = Network()
    duration: float = 0.03
    cond: bool = False
    resume: str | None = None


def test_folders_are_numbered_and_named(tmp_path):
    first = make_run_folder(tmp_path / "runs", "faces-32-oscillation-batch64-seed0", {})
    assert first == tmp_path / "runs" / "00000-faces-32-oscillation-batch64-seed0"
    (tmp_path / "runs" / "00041-other").mkdir()
    (tmp_path / "runs" / "notes").mkdir()
    assert make_run_folder(tmp_path / "runs", "my data/../lr=1e-3", {}).name == "00042-my-data-..-lr-1e-3"


def test_two_runs_at_once_get_two_folders(tmp_path, monkeypatch):
    (tmp_path / "00000-x").mkdir()
    real, seen = pathlib.Path.iterdir, []

    def stale(self):  # the first look misses the folder that another run has just made
        seen.append(self)
        return iter([]) if len(seen) == 1 else real(self)

    monkeypatch.setattr(pathlib.Path, "iterdir", stale)
    assert make_run_folder(tmp_path, "x", {}).name == "00001-x"


def test_the_settings_are_plain_json(tmp_path):
    folder = make_run_folder(tmp_path, "x", Knobs(tmp_path))
    assert json.loads((folder / "config.json").read_text()) == read_config(folder) == {
        "outdir": str(tmp_path),
        "lr": 2e-4,
        "horizon": "inf",
        "network": {"channels": [32, 64], "dropout": 0.1},
        "duration": 0.03,
        "cond": False,
        "resume": None,
    }  # fmt: skip
    check_same_config(folder, Knobs(tmp_path))


def test_some_settings_may_change(tmp_path):
    folder = make_run_folder(tmp_path, "x", Knobs(tmp_path))
    check_same_config(folder, Knobs(pathlib.Path("elsewhere"), duration=200.0, resume=str(folder)))


def test_a_changed_setting_is_shown_field_by_field(tmp_path):
    folder = make_run_folder(tmp_path, "x", {"lr": 2e-4, "network": {"channels": [32, 64]}, "old": 1, "duration": 1})
    with pytest.raises(ValueError, match="was made with other settings") as error:
        check_same_config(folder, {"lr": 1e-3, "network": {"channels": [32]}, "new": "a", "duration": 2})
    assert str(error.value).splitlines()[1:5] == [
        "  lr: 0.0002 in the run, 0.001 now",
        "  network.channels: [32, 64] in the run, [32] now",
        '  new: (absent) in the run, "a" now',
        "  old: 1 in the run, (absent) now",
    ]
    check_same_config(folder, {"lr": 1e-3, "network": 0}, free={"lr", "network", "old", "duration"})


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not the folder of a run: there is no config\.json"):
        read_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not the folder of a run"):
        read_config(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read as JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no settings"):
        read_config(tmp_path)


def test_a_setting_that_is_no_json_is_named_and_nothing_is_made(tmp_path):
    with pytest.raises(TypeError, match=r"config\.network\[1\] is a function"):
        make_run_folder(tmp_path, "x", {"network": [1, lambda: 0]})
    assert os.listdir(tmp_path) == []


def test_an_outdir_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    for outdir in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(NotADirectoryError, match=r"outdir .*file.* is not a folder"):
            make_run_folder(outdir, "x", {})


@pytest.fixture
def read_only():
    """A folder that may be entered but not written; root steps down to another user to feel it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)
            yield pathlib.Path(folder)
            os.seteuid(0)
        else:
            yield pathlib.Path(folder)
        os.chmod(folder, 0o755)


def test_an_outdir_that_cannot_be_written(read_only):
    for outdir in (read_only, read_only / "runs"):
        with pytest.raises(PermissionError, match=r"outdir .* cannot be written by you"):
            make_run_folder(outdir, "x", {})


@pytest.mark.parametrize(
    ("outdir", "kind", "message"),
    [
        ("/proc/x", OSError, r"outdir /proc/x cannot be written \(No such file"),
        ("/proc/x/y", OSError, r"outdir /proc/x/y cannot be written"),
        ("/dev/null", NotADirectoryError, "outdir /dev/null is not a folder"),
        ("/tmp/" + "x" * 300, OSError, r"outdir /tmp/x+ cannot be written \(File name too long\): give another"),
    ],
)
@pytest.mark.parametrize("check", [lambda outdir: make_run_folder(outdir, "x", {}), check_outdir])
def test_an_outdir_that_can_be_none_is_named(outdir, kind, message, check):
    with pytest.raises(kind, match=message):
        check(outdir)


def test_a_full_disk_is_named_with_the_outdir(tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=rf"outdir {tmp_path} cannot be written \(No space left on device"):
        make_run_folder(tmp_path, "x", {})


def test_checking_an_outdir_leaves_nothing(tmp_path):
    check_outdir(tmp_path / "a" / "b")
    check_outdir(tmp_path)
    assert os.listdir(tmp_path) == []


def test_checking_an_outdir_that_cannot_be_written(read_only):
    with pytest.raises(PermissionError, match="cannot be written by you"):
        check_outdir(read_only / "runs")


def test_what_may_change_is_handed_back_in_words(tmp_path):
    folder = make_run_folder(tmp_path, "x", {"lr": 2e-4, "seed": 0, "data": {"number": 3, "name": "x"}})
    changes = check_same_config(
        folder, {"lr": 1e-4, "seed": 0, "data": {"number": 2, "name": "x"}}, free={"lr", "data"}
    )
    assert changes == {"lr": "0.0002 in the run, 0.0001 now", "data.number": "3 in the run, 2 now"}


def test_what_may_not_change_is_accepted_with_override(tmp_path):
    folder = make_run_folder(tmp_path, "x", {"lr": 2e-4, "channels": 4})
    with pytest.raises(ValueError, match=r"channels: 4 in the run, 8 now\n.* or accept them with override=True"):
        check_same_config(folder, {"lr": 2e-4, "channels": 8})
    changes = check_same_config(folder, {"lr": 2e-4, "channels": 8}, override=True)
    assert changes == {"channels": "4 in the run, 8 now"}


def test_new_settings_replace_the_old_which_are_kept(tmp_path):
    folder = make_run_folder(tmp_path, "x", {"lr": 2e-4})
    update_config(folder, {"lr": 2e-4}, 3)
    assert os.listdir(folder) == ["config.json"]
    update_config(folder, {"lr": 1e-4}, 7)
    assert read_config(folder) == {"lr": 1e-4}
    assert json.loads((folder / "config-until-7.json").read_text()) == {"lr": 2e-4}


@pytest.mark.parametrize("lr", [-1.0, 1.0, float("nan")])
def test_a_setting_out_of_its_range_is_named_as_a_flag(tmp_path, lr):
    check_ranges(Knobs(tmp_path), {"lr": (0, 1)})
    with pytest.raises(ValueError, match=rf"^--lr is {lr}: it must be in \[0, 1\)\.$"):
        check_ranges(Knobs(tmp_path, lr=lr), {"lr": (0, 1)})
