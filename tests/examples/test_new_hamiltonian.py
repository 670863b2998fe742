"""One's own Hamiltonian in a page, on tiny settings: what it writes and prints, and when it refuses to train."""

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import hamflow as hf

SCRIPT = Path(__file__).parents[2] / "examples" / "new_hamiltonian.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("new_hamiltonian", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["new_hamiltonian"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(script, tmp_path):
    return script.Config(
        outdir=tmp_path / "bottle",
        components=8,
        prior_draws=4000,
        width=8,
        depth=1,
        batch=16,
        steps=3,
        num_points=4000,
        num_samples=500,
        sampling_steps=2,
    )


def numbers(pattern, text):
    found = re.search(pattern, text)
    assert found is not None, text
    return map(float, found.groups())


def verdict(monkeypatch, script, name):
    """Give the script this report; a real one takes longer than all the rest, and the smoke run of `.ci/run` has it."""
    report = hf.Report((hf.Finding("energy drift", name, 1e-3, 2e-2),))
    monkeypatch.setattr(script.hf, "check", lambda *_: report)
    return report


def test_checked_trained_sampled_drawn(script, tiny, capsys, monkeypatch):
    report = verdict(monkeypatch, script, "pass")
    with jax.numpy_dtype_promotion("standard"):  # as a user has it: optax promotes inside Adam
        script.main(tiny)
    with Image.open(tiny.outdir / "bottle.png") as picture:
        assert picture.width > picture.height > 300
    printed = capsys.readouterr().out
    assert f"{report}\n" in printed
    assert (tiny.outdir / "report.txt").read_text() == f"{report}\n"
    misfit, floor = numbers(r"misfit ([\d.]+) \S+ \S+ noise floor ([\d.]+)", printed)
    assert misfit < floor + 0.03  # as `hf.check` allows
    # Three steps learn nothing, so the samples are far from the moons; two sets of 500 draws are about 500^-1/2 apart.
    distance, floor = numbers(r"distance of the samples ([\d.]+) .* floor ([\d.]+)", printed)
    assert 0.02 < floor < 0.25 < distance
    variation, floor = numbers(r"of their histogram ([\d.]+), noise floor ([\d.]+)", printed)
    assert 0 < floor < variation <= 1


def test_the_force_is_that_of_the_bottle(script):
    """-dU/dx = -strength (|x|^2 - radius^2) x: away from the top, and nothing in the valley."""
    bottle = script.WineBottle(strength=0.3, radius=2.0)
    np.testing.assert_allclose(bottle.force(0.0, jnp.array([1.0, 1.0])), [0.6, 0.6], rtol=1e-6)
    np.testing.assert_allclose(bottle.force(0.0, jnp.array([1.2, -1.6])), [0.0, 0.0], atol=1e-6)


def test_a_broken_law_stops_it(script, tiny, monkeypatch):
    verdict(monkeypatch, script, "FAIL")
    monkeypatch.setattr(script.hf, "fit_prior", lambda flow, *_, **__: hf.FittedPrior(flow, 0.0, 0.0))
    monkeypatch.setattr(script, "train", None)  # not reached
    with pytest.raises(SystemExit, match="not trained, since this flow breaks energy drift"):
        script.main(tiny)
    assert "FAIL" in (tiny.outdir / "report.txt").read_text()
    assert not (tiny.outdir / "bottle.png").exists()


def test_bad_input(script, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file"):
        script.main(dataclasses.replace(tiny, outdir=tmp_path / "file"))
    with pytest.raises(ValueError, match=r"horizon must be positive, got -1\.0"):
        script.main(dataclasses.replace(tiny, horizon=-1.0))
    with pytest.raises(ValueError, match="step_size must be positive"):
        script.main(dataclasses.replace(tiny, step_size=0.0))
