"""The example of steering: three pictures from a tiny run; what it is told is kept; what is refused."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

import hamflow as hf
from hamflow.data import open_images

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("guidance", EXAMPLES / "guidance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["guidance"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder by hand: twelve pictures of independent normal pixels in three classes, and their exact model."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    pixels = np.clip(127.5 * (1.0 + 0.3 * rng.standard_normal((12, 3, 8, 8))), 0, 255).astype(np.uint8)
    np.savez(folder / "data.npz", images=pixels, labels=np.arange(12) % 3)
    network = hf.networks.MLP((3, 8, 8), width=4, depth=1, num_classes=3, key=jr.key(0))
    hf.save(folder / "model.safetensors", hf.Preconditioned(network, hf.oscillation(1.0 / 0.3), 0.3))
    settings = {"cond": True, "label_dropout": 0.1, "resolution": 8, "data": str(folder / "data.npz")}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def tiny(script, run, tmp_path):
    return script.Config(
        network=run, outdir=tmp_path / "out", pictures=(3, 7), per_class=2, tries=3, block=2, sampling_steps=2
    )


def plain(function, *arguments):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a user has it
        return function(*arguments)


def test_writes_three_pictures(script, tiny, run, capsys):
    plain(script.main, dataclasses.replace(tiny, weaker=run))
    assert sorted(path.name for path in tiny.outdir.iterdir()) == ["classes.png", "inpainting.png", "sharpening.png"]
    for path in tiny.outdir.iterdir():
        assert np.asarray(Image.open(path).convert("L")).std() > 10
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["told pixels", "told means"]


@pytest.mark.parametrize("known", ["left", "top"])
def test_the_told_half_is_kept_and_the_other_drawn_anew(script, tiny, run, known):
    """Normal pixels of deviation .3: told ones keep an error of about std = .05, of the others nothing is known."""
    config = dataclasses.replace(tiny, known=known, sampling_steps=30, tries=8)
    model, _ = script.open_run(run, "--network")
    source = open_images(run / "data.npz", labels=True)
    pictures, _, mask, samples = plain(script.in_part, config, model, source, None)
    half = np.zeros((8, 8))
    half[(slice(None), slice(4)) if known == "left" else slice(4)] = 1.0
    np.testing.assert_array_equal(mask, np.broadcast_to(half, pictures.shape))
    error = samples - np.asarray(pictures)[:, None]
    assert error[..., half == 1].std() == pytest.approx(0.05, rel=0.1)
    # A posterior draw shrinks by (std / .3)^2 = 3%; elsewhere two independent pixels differ by .3 * 2^1/2.
    assert error[..., half == 0].std() == pytest.approx(0.3 * 2**0.5, rel=0.1)


def test_told_means_are_kept(script, tiny, run):
    """The mean of four pixels has a deviation of .15, so a draw given it has .05 / (1 + (.05 / .15)^2)^1/2."""
    model, _ = script.open_run(run, "--network")
    source = open_images(run / "data.npz", labels=True)
    config = dataclasses.replace(tiny, sampling_steps=30, tries=8)
    measure = script.BlockMeans(2)
    _, told, _, samples = plain(script.in_part, config, model, source, measure)
    ratio = 1.0 / (1.0 + (0.05 / 0.15) ** 2)
    seen = np.asarray(jax.vmap(jax.vmap(measure))(jnp.asarray(samples)))
    assert (seen - ratio * np.asarray(told)[:, None]).std() == pytest.approx(0.05 * ratio**0.5, rel=0.1)


def test_block_means(script):
    x = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
    expected = [[x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(script.BlockMeans(2)(jnp.asarray(x)), np.moveaxis(expected, 2, 0), rtol=1e-5, atol=1e-6)


def test_without_a_network_it_trains_one_with_classes(script, tiny, run, monkeypatch):
    asked = []
    monkeypatch.setattr(script.runs, "train", lambda recipe, options: asked.append((recipe, options)) or run)
    assert script.train(dataclasses.replace(tiny, network=None, duration=1e-3, seed=5)) == run
    ((recipe, options),) = asked
    assert (recipe.cond, recipe.label_dropout, recipe.duration, recipe.seed) == (True, 0.1, 1e-3, 5)
    assert options.outdir == tiny.outdir


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pictures": (12,)}, "--pictures 12: .*has the pictures 0 to 11"),
        ({"block": 3}, "--block 3 does not divide 8 pixels"),
        ({"std": 0.0}, "--std is 0.0"),
        ({"network": Path("nowhere")}, "nowhere is not the folder of a run"),
    ],
)
def test_values_out_of_range(script, tiny, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        script.main(dataclasses.replace(tiny, **changes))


def test_a_run_without_classes(script, tiny, run, tmp_path):
    (tmp_path / "config.json").write_text((run / "config.json").read_text().replace("true", "false"))
    with pytest.raises(ValueError, match=r"--network .* is a run without classes: give one of `ffhq.py --cond`"):
        script.main(dataclasses.replace(tiny, network=tmp_path))
