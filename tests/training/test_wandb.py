"""W&B through a stand-in for its module, which takes what the real one takes and notes it; there is no network here."""

import sys
import types

import numpy as np
import pytest

from hamflow.training import WandbWriter


class Run:
    def __init__(self, **settings):
        self.settings, self.metrics, self.lines, self.finished = settings, [], [], False

    def define_metric(self, name, *, step_metric=None, hidden=None):
        self.metrics.append((name, step_metric))

    def log(self, line):
        assert not self.finished
        self.lines.append(line)

    def finish(self):
        self.finished = True


@pytest.fixture
def runs(monkeypatch):
    made = []

    def init(*, project, id, name, dir, config, mode, resume):
        made.append(Run(project=project, id=id, name=name, dir=dir, config=config, mode=mode, resume=resume))
        return made[-1]

    stand_in = types.ModuleType("wandb")
    vars(stand_in).update(init=init, Image=lambda pixels: ("picture", pixels.shape))
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return made


def test_records_go_to_the_run(runs, tmp_path):
    with WandbWriter("faces", run_id="00003-x", folder=tmp_path, config={"lr": 0.1}, mode="offline") as writer:
        writer.write({"step": 5, "loss": 0.5, "note": "words"})
        writer.write({"step": 4, "loss": 0.25})  # repeated after a crash: taken too
        writer.picture("samples", np.zeros((4, 6, 3), np.uint8), 5)
    (run,) = runs
    assert run.settings == {
        "project": "faces", "id": "00003-x", "name": "00003-x", "dir": str(tmp_path), "config": {"lr": 0.1},
        "mode": "offline", "resume": "allow",
    }  # fmt: skip
    assert run.metrics[-1] == ("*", "step")
    assert run.lines == [
        {"step": 5, "loss": 0.5},
        {"step": 4, "loss": 0.25},
        {"samples": ("picture", (4, 6, 3)), "step": 5},
    ]
    assert run.finished


def test_without_it_the_message_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"needs wandb: pip install wandb\."):
        WandbWriter("faces", run_id="a", folder=tmp_path)
