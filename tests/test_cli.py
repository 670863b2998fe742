"""`hamflow check`, as a user runs it: in a folder with a module of one's own."""

import subprocess
import sys

import numpy as np
import pytest

from hamflow import cli

MODULE = """
import hamflow as hf

flow = hf.oscillation(1.0)

def build():
    return hf.oscillation(1.0)

wrong = hf.Flow(flow.system, flow.coupling, flow.horizon, hf.NormalPrior(0.0, 0.7))
number = 3

def raises():
    raise RuntimeError("no such bottle")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_systems.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_systems", raising=False)
    return tmp_path


def test_the_command_itself(here):
    """The installed script: a table, and the status that a shell can ask for."""
    done = subprocess.run(
        [sys.executable, "-m", "hamflow.cli", "check", "my_systems:wrong"], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "FAIL            law at T = prior" in done.stdout
    assert "broken are law at T = prior" in done.stdout.splitlines()[-1]


def test_flows_and_functions(here, capsys):
    assert cli.main(["check", "my_systems:build", "--data-std", "0.5", "--shape", "3"]) == 0
    assert "laws hold" in capsys.readouterr().out
    np.savez(here / "points.npz", data=np.random.default_rng(0).normal(size=(50, 2)))
    assert cli.main(["check", "my_systems:flow", "--data", "points.npz"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my_systems"], "must be module:flow"),
        (["my_systems.py:flow"], "without .py"),
        (["nowhere:flow"], "no module 'nowhere' from"),
        (["my_systems:lost"], "my_systems has no 'lost'; its flows are flow, wrong"),
        (["my_systems:number"], "my_systems:number is a int, and must be a hamflow.Flow"),
        (["my_systems:flow", "--data", "lost.npy"], "there is nothing at"),
        (["my_systems:flow", "--data", "my_systems.py"], "is not a .npy or .npz of NumPy. A table in text becomes one"),
        (["my_systems:flow", "--data", "words.npy"], "give numbers of shape (n, *event)"),
        (["my_systems:flow", "--data", "two.npz"], "holds a, b: call the data `data`"),
        (["my_systems:raises"], "RuntimeError: no such bottle"),
        (["my_systems:flow", "--shape", "0"], "--shape must be positive whole numbers, got 0"),
        (["my_systems:flow", "--data-std", "-1"], "--data-std must be positive, got -1.0"),
    ],
)
def test_bad_input(here, arguments, message, capsys):
    np.save(here / "words.npy", np.array(["a", "b"]))
    np.savez(here / "two.npz", a=np.ones(2), b=np.ones(2))
    assert cli.main(["check", *arguments]) == 2
    assert message in capsys.readouterr().err
