"""A potential from noisy paths, on tiny settings: what it writes and prints, and that each model is what it says."""

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

import hamflow as hf

SCRIPT = Path(__file__).parents[2] / "examples" / "learn_dynamics.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("learn_dynamics", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["learn_dynamics"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(script, tmp_path):
    return script.Config(
        outdir=tmp_path / "dynamics",
        num_paths=2,
        window=4,
        windows=2,
        width=8,
        steps=3,
        num_tests=2,
        horizon=3,
    )


def test_fitted_followed_drawn(script, tiny, capsys):
    with jax.numpy_dtype_promotion("standard"):  # as a user has it: diffrax and optax promote
        script.main(tiny)
    assert {path.name for path in tiny.outdir.iterdir()} == {"potential.png", "horizon.png", "paths.png"}
    for path in tiny.outdir.iterdir():
        with Image.open(path) as picture:
            assert picture.width > picture.height > 300
    printed = capsys.readouterr().out
    assert "4 windows of 5 observations, each 1 long" in printed
    table = {
        line[:44].strip(): [float(value) for value in re.findall(r"[\d.]+", line[44:])] for line in printed.split("\n")
    }
    # The networks map 2 -> 1, 2 -> 2 and 4 -> 4 through two layers of 8.
    assert table["parameters"] == [8 * 3 + 8 * 9 + 9, 8 * 3 + 8 * 9 + 2 * 9, 8 * 5 + 8 * 9 + 4 * 9]
    assert all(1.0 < loss < 100.0 for loss in table["training loss (the noise alone: 0.800)"])  # three steps
    assert len(table["distance from the true path, after 3 windows"]) == 3
    assert len(table["potential, RMS error / its spread"]) == 1


def test_observed_windows_follow_the_truth(script, tiny):
    """Windows of one path touch, the noise has the stated size, and the truth keeps its energy to rounding."""
    config = dataclasses.replace(tiny, num_paths=8, windows=20, noise=0.5)
    paths = script.simulate(jr.key(0), 8, 80, config)
    windows = script.observe(jr.key(1), paths, config)
    assert windows.position.shape == windows.momentum.shape == (160, 5, 2)
    energy = script.energy_along(paths)
    np.testing.assert_allclose(energy, jnp.broadcast_to(energy[:, :1], energy.shape), rtol=1e-4)
    assert script.ENERGIES[0] <= energy.min()
    assert energy.max() <= script.ENERGIES[1] * (1 + 1e-4)
    seen = windows.position.reshape(8, 20, 5, 2)
    np.testing.assert_array_equal(seen[:, :-1, -1], seen[:, 1:, 0])
    error = seen[:, :, :-1].reshape(8, 80, 2) - paths.position[:, :-1]
    np.testing.assert_allclose(error.std(), 0.5, rtol=0.08)  # 1280 draws: 4 of their standard errors


def test_the_exact_models_follow_the_truth(script, tiny):
    """Both kinds of path, of the true system and of its vector field as a neural ODE, within their own step errors."""
    with jax.numpy_dtype_promotion("standard"):  # of diffrax
        truth = jax.tree.map(lambda values: values[0], script.simulate(jr.key(0), 1, 8, tiny))
        start = jax.tree.map(lambda values: values[0], truth)

        def field(z):
            change = script.TRUTH.vector_field(0.0, hf.PhaseState(z[:2], z[2:]))
            return jnp.concatenate([change.position, change.momentum])

        for model in (script.TRUTH, script.NeuralODE(field)):
            path = script.follow(model, start, 8, tiny)
            np.testing.assert_allclose(path.position, truth.position, atol=5e-3)
            np.testing.assert_allclose(path.momentum, truth.momentum, atol=5e-3)


def test_bad_input(script, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file"):
        script.main(dataclasses.replace(tiny, outdir=tmp_path / "file"))
    for name, value in {"noise": 0.0, "interval": 2.0, "steps": 0, "horizon": 0, "lr": float("nan")}.items():
        with pytest.raises(ValueError, match=f"--{name} is .*: it must be in "):
            script.main(dataclasses.replace(tiny, **{name: value}))


def test_a_fit_that_diverges_is_no_result(script, tiny, monkeypatch):
    at_rest = hf.PhaseState(jnp.zeros((2, 13, 2)), jnp.zeros((2, 13, 2)))
    monkeypatch.setattr(script, "simulate", lambda *_: at_rest)
    monkeypatch.setattr(script, "train", lambda model, *_: (model, float("nan")))
    with pytest.raises(ValueError, match="the loss of the learned energy is nan: take a smaller --lr"):
        script.main(tiny)
    assert not list(tiny.outdir.iterdir())
