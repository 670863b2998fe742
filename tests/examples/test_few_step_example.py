"""The example that counts evaluations: what its table says, on numbers that are given, and a tiny run of a network."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

import hamflow as hf

SCRIPT = Path(__file__).parents[2] / "examples" / "few_step.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("few_step", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["few_step"] = module
    spec.loader.exec_module(module)
    return module


def test_the_smallest_number(script):
    """From which on the distance stays within 5% of the last one, not the first that happens to be near."""
    config = script.Config(evaluations=(5, 9, 17, 35))
    found = {
        "Heun": {5: (1.04, 0.1), 9: (1.2, 0.1), 17: (1.03, 0.1), 35: (1.0, 0.1)},
        "DDIM": {5: (3.0, 0.1), 9: (2.0, 0.1), 17: (1.2, 0.1), 35: (1.0, 0.1)},
        "learned": {4: (1.5, 0.1), 6: (1.01, 0.1)},
    }
    assert [script.smallest(found, name, config) for name in found] == [17, 35, 6]
    assert script.smallest({"Heun": found["Heun"], "learned": {4: (1.5, 0.1)}}, "learned", config) is None
    lines = script.table_of(found, config).splitlines()
    assert [line.split()[-1] for line in lines] == ["smallest", "17", "35", "6"]
    assert lines[3].split()[1] == "1.5000"  # of at most 5 evaluations, those with 4


@pytest.mark.parametrize("name", ["Euler", "Heun", "midpoint, diffrax", "DDIM", "UniPC 3", "churn"])
def test_evaluations_are_counted_right(script, name):
    """Against a predictor that counts its calls."""
    solver, cost = script.SOLVERS[name]
    calls = []

    def predictor(t, x, condition=None, key=None):
        jax.debug.callback(lambda _: calls.append(1), t)
        return -x

    flow = hf.oscillation()
    jax.block_until_ready(hf.generate(predictor, flow, jr.key(0), (1, 2), 4, solver))
    jax.effects_barrier()
    assert len(calls) == cost(4)


def test_a_run_of_pictures(script, tmp_path, capsys, monkeypatch):
    """A network that was never trained, in a folder as examples/ffhq.py leaves it: each kind of solver has its row."""
    kinds = ("Heun", "midpoint, diffrax", "UniPC 3")  # `.ci/run` has a smoke run with all
    monkeypatch.setattr(script, "SOLVERS", {name: script.SOLVERS[name] for name in kinds})
    run = tmp_path / "run"
    run.mkdir()
    network = hf.networks.MLP((3, 8, 8), width=8, depth=1, key=jr.key(0))
    hf.save(run / "model.safetensors", hf.Preconditioned(network, hf.oscillation(2.0), 0.5))
    (run / "config.json").write_text(json.dumps({"data": None, "resolution": 8, "cond": False}))
    config = script.Config(
        network=run,
        outdir=tmp_path / "out",
        number=3,
        evaluations=(3, 4),
        learned=(2,),
        paths=16,
        iterations=1,
        batch=2,
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a user has it
        script.main(config)
    names = [*script.SOLVERS, "learned"]
    table = (config.outdir / "table.txt").read_text()
    assert all(name in table for name in names)
    assert np.asarray(Image.open(config.outdir / "samples.png")).shape[0] == (8 + 2) * (len(names) + 1) - 2
    assert np.asarray(Image.open(config.outdir / "few_step.png").convert("L")).std() > 10
    assert "rows of samples.png: fine, Heun" in capsys.readouterr().out


def test_bad_input(script, tmp_path):
    config = script.Config(outdir=tmp_path, network=tmp_path)
    with pytest.raises(SystemExit, match="is no finished run"):
        script.main(config)
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"cond": true}')
    with pytest.raises(SystemExit, match="train without --cond"):
        script.main(config)
    with pytest.raises(SystemExit, match="--evaluations must be at least 2"):
        script.main(script.Config(outdir=tmp_path, evaluations=(1,)))
    with pytest.raises(ValueError, match="--paths is 3"):
        script.main(dataclasses.replace(config, paths=3))
