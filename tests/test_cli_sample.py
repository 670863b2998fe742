"""`hamflow sample`: against laws in closed form, against `generate` itself, and what bad input gets."""

import json
import subprocess
import sys

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cli_models import MEAN, STD, Still, crooked, gaussian
from PIL import Image

import hamflow as hf
from hamflow import cli
from hamflow.cli import sample
from hamflow.cli.solvers import find_solver
from hamflow.cli.values import LARGEST_SEED, seeds


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of models; `faces` is a run folder with a U-Net of pictures in it, of three classes."""
    folder = tmp_path_factory.mktemp("models")
    crooked(folder / "plain.safetensors")
    crooked(folder / "weaker.safetensors", seed=1)
    crooked(folder / "classes.safetensors", num_classes=3)
    crooked(folder / "other_flow.safetensors", flow=hf.oscillation(3.0))
    crooked(folder / "other_shape.safetensors", shape=(3,))
    hf.save(folder / "flow.safetensors", hf.oscillation(1.0))
    hf.save(folder / "still.safetensors", Still(hf.oscillation(1.0)))
    hf.save(folder / "walls.safetensors", Still(hf.reflection()))
    network = hf.networks.UNet(
        8,
        base_channels=4,
        channel_multipliers=(1,),
        blocks_per_level=1,
        attention_resolutions=(),
        num_classes=3,
        key=jr.key(0),
    )
    (folder / "faces").mkdir()
    hf.save(folder / "faces" / "model.safetensors", hf.Preconditioned(network, hf.oscillation(2.0), 0.5))
    (folder / "unfinished").mkdir()
    (folder / "notes.safetensors").write_text("no model")
    return folder


@pytest.fixture
def draw(models, tmp_path, capsys):
    """Flags -> what `samples.npz` holds."""

    def run(name, *flags):
        out = tmp_path / "out"
        status = cli.main(["sample", "--network", str(models / name), "--outdir", str(out), *map(str, flags)])
        assert status == 0, capsys.readouterr().err
        with np.load(out / "samples.npz") as found:
            return dict(found)

    return run


def keys(*numbers):
    return jnp.stack([jr.key(number) for number in numbers])


@pytest.mark.parametrize("make", [hf.oscillation, hf.flow_matching])
def test_samples_are_the_known_map_of_the_prior_draws(make, tmp_path):
    """x_t = a m + S(t) xi with one xi all the way, S^2 = a^2 s^2 + b^2: so x_0 = m + s (x_T - a m) / S(T)."""
    flow = make()
    network = gaussian(flow, tmp_path / "model.safetensors")
    a, b, _, _ = (float(c) for c in flow.coefficients(float(flow.horizon)))
    ends = np.stack([flow.prior.sample(jr.key(seed), (2,)) for seed in (7, 0, LARGEST_SEED)])
    expected = np.asarray(MEAN) + STD * (ends - a * np.asarray(MEAN)) / np.hypot(a * STD, b)
    error = []
    for steps in (20, 40):
        flags = ["--seeds", f"7,0,{LARGEST_SEED}", "--steps", str(steps)]
        assert cli.main(["sample", "--network", str(network), "--outdir", str(tmp_path), *flags]) == 0
        with np.load(tmp_path / "samples.npz") as found:
            assert found["seeds"].tolist() == [7, 0, LARGEST_SEED]
            error.append(np.abs(found["samples"] - expected).max())
    assert error[1] < 0.01
    assert error[0] > 2.5 * error[1]  # Heun's method is of order 2; Euler's would give 2


def test_a_row_depends_on_its_seed_alone(draw, models):
    """Also in a last short batch, in another order, and with noise on the way."""
    flags = ["--solver", "churn", "--steps", 4, "--seeds", "0-7"]
    alone, three, all_of_them = (draw("classes.safetensors", *flags, "--batch", b) for b in (1, 3, 8))
    for other in (three, all_of_them):
        np.testing.assert_allclose(other["samples"], alone["samples"], atol=1e-5)
        np.testing.assert_array_equal(other["labels"], alone["labels"])
    some = draw("classes.safetensors", *flags[:-1], "5,2-3,2", "--batch", 3)
    assert some["seeds"].tolist() == [5, 2, 3]
    np.testing.assert_allclose(some["samples"], alone["samples"][[5, 2, 3]], atol=1e-5)
    model = hf.load(models / "classes.safetensors")
    labels = jnp.asarray(alone["labels"])
    direct = hf.generate(model, model.flow, keys(*range(8)), (8, 2), 4, hf.Churn(), condition=labels)
    np.testing.assert_allclose(alone["samples"], direct, atol=1e-5)


def test_the_last_batch_is_padded_and_not_compiled_anew(draw, monkeypatch):
    shapes = []

    def recorded(predictor, flow, key, shape, *arguments, **named):
        shapes.append(shape)
        return jnp.zeros(shape)

    monkeypatch.setattr(sample, "generate", recorded)
    assert draw("plain.safetensors", "--seeds", "0-7", "--batch", 3)["samples"].shape == (8, 2)
    assert shapes == [(3, 2)] * 3
    draw("plain.safetensors", "--seeds", "0-1", "--batch", 64)
    assert shapes[3:] == [(2, 2)]


def test_classes(draw, models):
    """One class, none, or one a seed: over 300 seeds each of three has 100, with a deviation of 8.2."""
    model = hf.load(models / "classes.safetensors")
    for flag, condition in (("1", jnp.full(2, 1)), ("null", None)):
        found = draw("classes.safetensors", "--seeds", "0-1", "--steps", 2, "--class", flag)
        direct = hf.generate(model, model.flow, keys(0, 1), (2, 2), 2, condition=condition)
        np.testing.assert_allclose(found["samples"], direct, atol=1e-6)
        assert ("labels" in found) == (flag == "1")
    labels = draw("classes.safetensors", "--seeds", "0-299", "--steps", 1, "--batch", 300)["labels"]
    assert np.abs(np.bincount(labels, minlength=3) - 100).max() < 4 * 8.2
    assert "labels" not in draw("plain.safetensors", "--seeds", 0, "--steps", 1)


def test_guidance_by_class_and_by_a_weaker_model(draw, models):
    model, plain, weaker = (hf.load(models / f"{name}.safetensors") for name in ("classes", "plain", "weaker"))
    found = draw("classes.safetensors", "--seeds", "0-1", "--steps", 2, "--class", 2, "--guidance", 2.5)
    direct = hf.generate(hf.Guided(model, 2.5), model.flow, keys(0, 1), (2, 2), 2, condition=jnp.full(2, 2))
    np.testing.assert_allclose(found["samples"], direct, atol=1e-6)
    weak = models / "weaker.safetensors"
    found = draw("plain.safetensors", "--seeds", "0-1", "--steps", 2, "--guidance", 2, "--weaker", weak)
    direct = hf.generate(hf.Guided(plain, 2.0, weaker), plain.flow, keys(0, 1), (2, 2), 2)
    np.testing.assert_allclose(found["samples"], direct, atol=1e-6)


def test_pictures_of_a_run_folder(models, tmp_path, capsys):
    """One PNG a seed, as `generate` and `image_grid` make them, and nothing else; an older one is replaced."""
    out = tmp_path / "new" / "out"
    out.mkdir(parents=True)
    (out / "000003.png").write_text("older")
    arguments = ["sample", "--network", str(models / "faces"), "--outdir", str(out), "--class", "0", "--steps", "3"]
    assert cli.main([*arguments, "--seeds", "3,1200000", "--batch", "1", "--grid"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert sorted(path.name for path in out.iterdir()) == ["000003.png", "1200000.png", "grid.png"]
    model = hf.load(models / "faces" / "model.safetensors")
    condition = jnp.zeros(2, jnp.int32)
    direct = hf.generate(model, model.flow, keys(3, 1200000), (2, 3, 8, 8), 3, condition=condition)
    expected = np.clip(np.round((np.asarray(direct) + 1) * 127.5), 0, 255).transpose(0, 2, 3, 1)
    for name, picture in zip(("000003.png", "1200000.png"), expected, strict=True):
        with Image.open(out / name) as image:
            assert image.mode == "RGB"
            assert np.abs(np.asarray(image, float) - picture).max() <= 1
    with Image.open(out / "grid.png") as image:
        assert image.size == (8 + 2 + 8, 8)


def test_progress_and_a_model_that_diverges(models, tmp_path, capsys):
    arguments = ["sample", "--network", str(models / "plain.safetensors"), "--outdir", str(tmp_path), "--steps", "2"]
    assert cli.main([*arguments, "--seeds", "0-4", "--batch", "2"]) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("5/5 samples, ")
    diverges = [*arguments, "--seeds", "3-4", "--guidance", "1e38", "--weaker", str(models / "weaker.safetensors")]
    before = (tmp_path / "samples.npz").read_bytes()
    assert cli.main(diverges) == 2
    assert "the sample of seed 3 (one of 2 in its batch) is not finite" in capsys.readouterr().err
    assert (tmp_path / "samples.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "expected"), [("0-3", [0, 1, 2, 3]), ("3", [3]), ("1,5,9-12,5", [1, 5, 9, 10, 11, 12]), ("7-7", [7])]
)
def test_seeds(text, expected):
    assert seeds(text) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "9-3"], "argument --seeds: 9-3 is an empty range: give 3-9"),
        (["--seeds", "-3"], "argument --seeds: '-3' is no seed"),
        (["--seeds", "1,,2"], "argument --seeds: '' is no seed"),
        (["--seeds", "1.5"], "argument --seeds: '1.5' is no seed"),
        (["--seeds", "4294967296"], "argument --seeds: 4294967296 is above 4294967295"),
        (["--seeds", "0-4294967295"], "is more than 10000000 seeds"),
        (["--steps", "0"], "argument --steps: '0' must be a whole number of at least 1"),
        (["--batch", "many"], "argument --batch: 'many' must be a whole number"),
        (["--guidance", "nan"], "argument --guidance: 'nan' must be a finite number"),
        (["--class", "-1"], "argument --class: '-1' must be the number of a class"),
        (["--clas", "1"], "unrecognized arguments: --clas"),
        (["--class", "3"], "--class 3: {models}/classes.safetensors has the classes 0 to 2"),
        (
            ["--network", "plain.safetensors", "--class", "0"],
            "--class 0: {models}/plain.safetensors was trained without",
        ),
        (
            ["--network", "plain.safetensors", "--guidance", "2"],
            "--guidance steers towards a class, and {models}/plain",
        ),
        (["--class", "null", "--guidance", "2"], "--class null is none"),
        (["--weaker", "{models}/classes.safetensors"], "--weaker is what --guidance leads away from"),
        (["--guidance", "2", "--weaker", "{models}/plain.safetensors"], "this number of classes: None, and"),
        (["--guidance", "2", "--weaker", "{models}/lost"], "--weaker {models}/lost: {models}/lost does not exist"),
        (
            ["--solver", "Tsi"],
            "--solver Tsi is not known: there are heun, euler, ddim, dpm2m, unipc, sde, churn, and diffrax's",
        ),
        (["--solver", "diffrax.Dopri6"], "such as diffrax.Dopri"),
        (["--solver", "SemiImplicitEuler"], "--solver SemiImplicitEuler is not known"),
        (["--network", "walls.safetensors", "--shape", "2", "--solver", "ddim"], "--solver ddim: DDIM needs a linear"),
        (["--network", "lost"], "--network {models}/lost: {models}/lost does not exist"),
        (["--network", "unfinished"], "--network {models}/unfinished: no model.safetensors is in that folder"),
        (["--network", "notes.safetensors"], "--network {models}/notes.safetensors: "),
        (["--network", "flow.safetensors"], "holds a Flow, no predictor with its flow"),
        (["--network", "still.safetensors"], "does not say what shape one example has: give --shape"),
        (["--shape", "3"], "--shape 3: the examples of {models}/classes.safetensors have shape 2"),
        (["--grid"], "--grid: examples of shape (2,) are no pictures"),
        (["--outdir", "{models}/notes.safetensors"], "is not a folder"),
        (["--outdir", "/proc/x"], "--outdir /proc/x cannot be written"),
    ],
)
def test_bad_input_is_one_line_that_names_it(models, tmp_path, flags, message, capsys):
    flags = [flag.format(models=models) for flag in flags]
    if "--network" in flags:
        place = flags.index("--network") + 1
        flags[place] = str(models / flags[place])
    else:
        flags = ["--network", str(models / "classes.safetensors"), *flags]
    out = tmp_path / "out"
    try:
        status = cli.main(["sample", "--outdir", str(out), *flags])
    except SystemExit as stop:  # argparse's own
        status = stop.code
    shown = capsys.readouterr()
    assert status == 2
    assert shown.out == ""
    assert shown.err.startswith("hamflow: ")
    assert shown.err.count("\n") == 1
    assert message.format(models=models) in shown.err
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("name", ["other_flow", "other_shape"])
def test_a_weaker_model_of_something_else(models, tmp_path, name, capsys):
    flags = ["--guidance", "2", "--weaker", str(models / f"{name}.safetensors"), "--outdir", str(tmp_path)]
    assert cli.main(["sample", "--network", str(models / "plain.safetensors"), *flags]) == 2
    expected = {"other_flow": "with another flow than", "other_shape": "examples of shape (3,), and --network"}
    assert expected[name] in capsys.readouterr().err


def test_a_network_of_ones_own_with_a_shape(draw):
    """V = 0 leaves the draws of the prior."""
    found = draw("still.safetensors", "--seeds", "1-2", "--steps", 1, "--shape", 3)
    np.testing.assert_allclose(found["samples"], np.stack([jr.normal(jr.key(seed), (3,)) for seed in (1, 2)]))


def test_pictures_without_pillow(models, tmp_path):
    """In a process of its own: said before anything is drawn, and points need none of it."""
    code = (
        "import sys; sys.modules['PIL'] = None; from hamflow.cli import main; n, o = sys.argv[1:]; "
        "a = ['sample', '--outdir', o, '--seeds', '0', '--steps', '1', '--network', n]; "
        "sys.exit(10 * main([*a[:-1], n + '/faces']) + main([*a[:-1], n + '/plain.safetensors']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(models), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 20, done.stderr
    assert done.stderr.splitlines()[0] == "hamflow: pictures need PIL: pip install 'hamflow[train]'"


def test_ctrl_c(models, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "generate", interrupted)
    assert cli.main(["sample", "--network", str(models / "plain.safetensors"), "--outdir", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "hamflow: stopped; every file that was written is whole\n"


def test_keys_of_an_array_of_seeds_are_those_of_each():
    some = jnp.asarray([0, 5, 2**31, LARGEST_SEED], jnp.uint32)
    data = jax.random.key_data(jax.vmap(jr.key)(some))
    np.testing.assert_array_equal(data, jax.random.key_data(keys(0, 5, 2**31, LARGEST_SEED)))


def test_a_run_without_label_dropout_says_so(models, tmp_path, capsys):
    """The null class is drawn from all the same, with a note that the network never met it."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes((models / "classes.safetensors").read_bytes())
    for dropout, noted in ((0.0, True), (0.1, False)):
        (run / "config.json").write_text(json.dumps({"cond": True, "label_dropout": dropout}))
        command = ["sample", "--network", str(run), "--outdir", str(tmp_path / "o"), "--seeds", "1", "--steps", "1"]
        assert cli.main([*command, "--class", "null"]) == 0
        assert ("trained with all labels in place" in capsys.readouterr().err) == noted


def test_a_file_in_the_way(models, tmp_path, capsys):
    (tmp_path / "samples.npz").mkdir()
    command = ["sample", "--network", str(models / "plain.safetensors"), "--outdir", str(tmp_path), "--steps", "1"]
    assert cli.main([*command, "--seeds", "0"]) == 2
    assert f"hamflow: --outdir {tmp_path}: samples.npz cannot be written" in capsys.readouterr().err


def test_our_samplers_go_before_those_of_diffrax():
    assert type(find_solver("Heun")) is hf.Heun
    assert type(find_solver("UniPC")) is hf.UniPC
    assert type(find_solver("diffrax.Heun")) is diffrax.Heun
