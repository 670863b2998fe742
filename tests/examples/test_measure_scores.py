"""The example that measures other people's scores: its laws are the true ones; a table and a picture are written."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

import hamflow as hf

SCRIPT = Path(__file__).parents[2] / "examples" / "measure_scores.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("measure_scores", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure_scores"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(script, tmp_path):
    return script.Config(outdir=tmp_path / "scores", num_points=400, width=8, batch=16, steps=2)


def test_writes_a_table_and_a_picture(script, tiny, capsys, monkeypatch):
    """With the discrepancy a stand-in, since `.ci/run` has a smoke run with the real one, which compiles long."""

    def found(score, data, key):
        return hf.Discrepancy(2.0, 0.1, np.array([0.1]), np.array([0.02]), np.array([0.001]))

    monkeypatch.setattr(script.hf, "hamiltonian_score_discrepancy", found)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a user has it
        script.main(tiny)
    table = (tiny.outdir / "table.txt").read_text()
    assert capsys.readouterr().out == table
    names = [row[:24].strip() for row in table.splitlines()[1:]]
    assert names == ["the true score, no noise", "denoising", "diffusion, converted", "flow matching, converted"]
    assert table.splitlines()[1].split()[-1] == "0.0000"  # the true score against clean data
    assert np.asarray(Image.open(tiny.outdir / "scores.png").convert("L")).std() > 10


def test_a_flow_is_read_at_its_noise_and_in_the_unit_of_the_data(script, tiny, monkeypatch):
    """With the exact velocity of N(0, s^2), what comes out is the score of x_0 + sigma e: -x / (s^2 + sigma^2)."""
    s, flow = 0.6, hf.flow_matching()
    law = hf.GaussianMixturePotential(jnp.zeros((1, 2)), jnp.full(1, s), jnp.ones(1))
    exact = hf.MixtureVelocity(law, flow)
    monkeypatch.setattr(script, "train", lambda *arguments: exact)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        score = script.flow_model(tiny, flow, s * jr.normal(jr.key(0), (400, 2)), jr.key(1))
        np.testing.assert_allclose(score(jnp.array([1.0, -0.3])), [-1.0 / 0.4, 0.3 / 0.4], rtol=1e-4)


def test_values_out_of_range(script, tiny):
    with pytest.raises(ValueError, match="--sigma is 0"):
        script.main(dataclasses.replace(tiny, sigma=0.0))
