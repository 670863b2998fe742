"""`~` is the home folder in every path that hamflow takes."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_network import TinyNetwork

import hamflow as hf
from hamflow import data, training
from hamflow.runs import export
from hamflow.runs.options import Options
from hamflow.runs.points import Points
from hamflow.runs.train import train


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder of the test's own, and a working directory in which nothing may appear."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert not any((tmp_path / "here").iterdir()), list((tmp_path / "here").iterdir())


def test_files_and_folders_of_the_library(home):
    hf.save("~/model.safetensors", TinyNetwork(2))
    hf.load("~/model.safetensors")
    state, key = training.init_state(jnp.zeros(2), optax.sgd(0.1)), jax.random.key(0)
    with training.Checkpoints("~/checkpoints") as checkpoints:
        checkpoints.save(state, key)
    assert training.read_arrays("~/checkpoints", ".model")
    folder = training.make_run_folder("~/runs", "name", {"a": 1})
    training.check_outdir("~/runs")
    assert training.read_config(f"~/runs/{folder.name}")["a"] == 1
    with training.StatsLog("~/stats.jsonl") as log:
        log.write({"step": 0})
    assert training.read_stats("~/stats.jsonl") == [{"step": 0}]
    pictures = np.zeros((3, 8, 8, 3), np.uint8)
    np.save(home / "pictures.npy", pictures)
    source = data.open_images("~/pictures.npy")
    data.save_images(source, "~/pictures.zip")
    data.save_png("~/grid.png", data.image_grid(np.zeros((1, 3, 8, 8))))
    assert {path.name for path in home.iterdir()} >= {
        *("model.safetensors", "checkpoints", "runs", "stats.jsonl", "pictures.zip", "grid.png")
    }


def test_a_run_and_its_export(home):
    np.save(home / "points.npy", np.random.default_rng(0).normal(size=(64, 2)))
    recipe = Points(
        data=pathlib.Path("~/points.npy"), width=4, depth=1, batch=8, duration=16e-6, steps_together=1, num_samples=8,
        sampling_steps=2, validate_every=0.1, save_every=0.1,
    )  # fmt: skip
    folder = train(recipe, Options(outdir=pathlib.Path("~/x")))
    assert folder.parent == home / "x"
    assert json.loads((folder / "config.json").read_text())["data"] == str(home / "points.npy")
    assert export(f"~/x/{folder.name}", "~/out.safetensors") == home / "out.safetensors"
    assert os.path.exists(home / "out.safetensors")
