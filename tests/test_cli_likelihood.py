"""`hamflow likelihood`: against densities in closed form, and what bad input gets."""

import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cli_models import MEAN, STD, Still, crooked, gaussian

import hamflow as hf
from hamflow import cli


class Drawn(eqx.Module):
    """A prior that loses its density in a test."""

    def sample(self, key, shape):
        return jr.normal(key, shape)

    def log_prob(self, x):
        return -0.5 * jnp.sum(x**2)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    crooked(folder / "plain.safetensors")
    crooked(folder / "classes.safetensors", num_classes=3)
    walls = hf.reflection(lower=-1.0, upper=1.0)
    hf.save(folder / "still.safetensors", Still(walls))
    network = hf.networks.MLP((3, 8, 8), width=4, depth=1, key=jr.key(0))  # at its start the best linear predictor
    hf.save(folder / "pictures.safetensors", hf.Preconditioned(network, hf.oscillation(2.0), 0.5, 0.1))
    rng = np.random.default_rng(0)
    points = rng.normal(size=(7, 2))
    np.save(folder / "points.npy", points)
    np.savez(folder / "labelled.npz", data=points, labels=np.array([0, 1, 2, 0, 1, 2, 0]))
    np.savez(folder / "labels_up_to_3.npz", data=points, labels=np.array([0, 1, 2, 3, 1, 2, 0]))
    np.savez(folder / "short.npz", data=points, labels=np.array([0, 1]))
    np.save(folder / "nan.npy", np.where(np.arange(14).reshape(7, 2) == 4, np.nan, points))
    np.save(folder / "far.npy", np.full((2, 3, 4, 4), 1.5, np.float32))
    np.save(folder / "bytes.npy", rng.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8))
    np.save(folder / "white.npy", np.full((3, 4, 4), 255, np.uint8))
    np.savez(folder / "floats.npz", data=rng.uniform(-1, 1, (5, 3, 8, 8)).astype(np.float32))
    return folder


@pytest.fixture
def measure(models, tmp_path, capsys):
    """Flags -> what `--out` holds, and what was printed."""

    def run(name, data, *flags):
        network = models / f"{name}.safetensors"
        arguments = ["--network", network, "--data", models / data, "--out", tmp_path / "out.npz", *flags]
        assert cli.main(["likelihood", *map(str, arguments)]) == 0, capsys.readouterr().err
        with np.load(tmp_path / "out.npz") as found:
            return dict(found), capsys.readouterr().out

    return run


def normal_log_prob(x, mean, std):
    axes = tuple(range(1, x.ndim))
    return (-0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)).sum(axes)


@pytest.mark.parametrize("flags", [[], ["--steps", "80"]])
def test_the_exact_model_of_a_gaussian_has_its_density(models, measure, flags, tmp_path):
    """Its prior is the law at the horizon, so log pi is that of N(MEAN, STD^2)."""
    gaussian(hf.oscillation(), models / "gaussian.safetensors")
    found, printed = measure("gaussian", "points.npy", *flags)
    expected = normal_log_prob(np.load(models / "points.npy"), np.asarray(MEAN), STD)
    np.testing.assert_allclose(found["log_likelihood"], expected, atol=0.02 if flags else 2e-3)
    assert set(found) == {"log_likelihood"}
    lines = printed.splitlines()
    assert lines[0].startswith("7 rows of shape (2,) from ")
    mean, error = (float(word) for word in lines[2].removeprefix("log-likelihood, nats").split())
    assert mean == pytest.approx(found["log_likelihood"].mean(), rel=1e-4)
    assert error == pytest.approx(expected.std(ddof=1) / 7**0.5, rel=1e-2)
    assert lines[3] == "the divergence is exact"


def test_bits_of_pictures_lie_where_the_noise_can_put_them(models, measure):
    """192 coordinates: Hutchinson's estimate, exact here, as the Jacobian is a number times 1 (signs square to 1).

    Noise moves x = (u + noise) / 127.5 - 1 by less than 1 / 127.5, which bounds the density of every value."""
    found, printed = measure("pictures", "bytes.npy", "--probes", "2", "--batch", "2")
    pixels = np.load(models / "bytes.npy").astype(float)
    ends = [
        -0.5 * (((pixels + noise) / 127.5 - 1.0 - 0.1) / 0.5) ** 2 - math.log(0.5) - 0.5 * math.log(2 * math.pi)
        for noise in (0.0, 1.0)
    ]
    # The largest density may lie between the ends, by less than (1 / 127.5 / s)^2 / 2 = 1.3e-4.
    low = np.minimum(*ends).sum((1, 2, 3))
    high = (np.maximum(*ends) + 1.3e-4).sum((1, 2, 3))
    assert (low - 0.05 < found["log_likelihood"]).all()  # .05: tolerance of the steps
    assert (found["log_likelihood"] < high + 0.05).all()
    bits = -found["log_likelihood"] / 192 / math.log(2) + math.log2(127.5)
    np.testing.assert_allclose(found["bits_per_dimension"], bits, rtol=1e-5)
    np.testing.assert_allclose(found["standard_error"], 0.0, atol=1e-2)
    assert printed.splitlines()[3].split()[:3] == ["bits", "per", "dimension"]
    again, _ = measure("pictures", "bytes.npy", "--probes", "2", "--batch", "4", "--limit", "3")
    np.testing.assert_allclose(again["log_likelihood"], found["log_likelihood"][:3], atol=0.02)
    other, _ = measure("pictures", "bytes.npy", "--probes", "2", "--batch", "2", "--seed", "1")
    assert np.abs(other["log_likelihood"] - found["log_likelihood"]).min() > 0.01  # the noise is another


def test_a_uniform_law_of_bytes_takes_eight_bits(measure):
    """A model that does nothing in the box [-1, 1], where white with its noise would be outside at 127.5 a unit."""
    found, _ = measure("still", "white.npy", "--shape", "3", "4", "4")
    np.testing.assert_allclose(found["bits_per_dimension"], 8.0, rtol=1e-6)


def test_floating_pictures_are_taken_as_they_are(models, measure):
    found, printed = measure("pictures", "floats.npz", "--limit", "1")
    with np.load(models / "floats.npz") as file:
        expected = normal_log_prob(file["data"][:1].astype(float), 0.1, 0.5)
    np.testing.assert_allclose(found["log_likelihood"], expected, atol=0.05)
    assert "bits" not in printed
    assert printed.splitlines()[2].split()[-1] == "-"  # no standard error of one row


def test_the_word_faces(models, capsys):
    network = models / "pictures.safetensors"
    flags = ["--data", "faces", "--limit", "2", "--steps", "2", "--probes", "2"]
    assert cli.main(["likelihood", "--network", str(network), *flags]) == 0
    assert capsys.readouterr().out.startswith("2 rows of shape (3, 8, 8) from faces, under ")


def test_rows_do_not_depend_on_the_batch_and_probes_agree_with_the_exact_value(models, measure):
    """Within four of the standard errors that the probes give, each row by itself."""
    flags = ["--steps", "16"]  # steps chosen by tolerance may differ by a rounding, and the value by the tolerance then
    exact, _ = measure("plain", "points.npy", *flags)
    one, printed = measure("plain", "points.npy", "--probes", "64", "--batch", "1", *flags)
    three, _ = measure("plain", "points.npy", "--probes", "64", "--batch", "3", *flags)
    for name in ("log_likelihood", "standard_error"):
        np.testing.assert_allclose(three[name], one[name], atol=1e-5, rtol=1e-5)
    assert (np.abs(one["log_likelihood"] - exact["log_likelihood"]) < 4 * one["standard_error"] + 1e-3).all()
    assert (one["standard_error"] > 1e-3).all()  # else this could not fail
    share = float(np.sqrt(np.mean(one["standard_error"] ** 2) / 7))
    assert f"the probes alone leave an error of {share:.3g} nats" in printed


def test_classes_from_the_data_or_from_the_flag(models, measure):
    model = hf.load(models / "classes.safetensors")
    x = jnp.asarray(np.load(models / "points.npy"), float)
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    found, _ = measure("classes", "labelled.npz", "--steps", 8)
    direct = hf.log_likelihood(model, model.flow, x, condition=jnp.asarray(labels), num_steps=8)
    np.testing.assert_allclose(found["log_likelihood"], direct, atol=1e-5, rtol=1e-5)
    twos, _ = measure("classes", "points.npy", "--steps", 8, "--class", 2)
    null, _ = measure("classes", "labels_up_to_3.npz", "--steps", 8, "--class", "null")
    np.testing.assert_allclose(twos["log_likelihood"][labels == 2], found["log_likelihood"][labels == 2], atol=1e-5)
    for other in (found, null):
        assert np.abs(twos["log_likelihood"] - other["log_likelihood"])[labels != 2].max() > 1e-3


@pytest.mark.parametrize(
    ("name", "data", "flags", "message"),
    [
        ("plain", "lost.npy", [], "there is nothing at {models}/lost.npy"),
        ("plain", "plain.safetensors", [], "holds square pictures of three channels, and {models}/plain.safetensors"),
        ("plain", "bytes.npy", [], "--data {models}/bytes.npy holds examples of shape (8, 8, 3), and {models}/plain"),
        ("pictures", "points.npy", [], "holds examples of shape (2,), and {models}/pictures.safetensors has examples"),
        ("pictures", "lost", [], "--data {models}/lost: there is nothing. Give a folder, a .zip"),
        (
            "pictures",
            "plain.safetensors",
            [],
            "--data {models}/plain.safetensors: {models}/plain.safetensors is a file",
        ),
        ("plain", "nan.npy", [], "--data {models}/nan.npy: row 2 (one of 1) holds NaN"),
        ("still", "far.npy", ["--shape", "3", "4", "4"], "far.npy: row 0 lies outside the Box of the model"),
        ("classes", "points.npy", [], "has no labels, and the model has classes: give --class K or --class null"),
        ("classes", "short.npz", [], "labels must be whole numbers of shape (7,)"),
        ("classes", "labels_up_to_3.npz", [], "row 3 has the label 3, and {models}/classes.safetensors the classes 0"),
        ("classes", "points.npy", ["--class", "3"], "--class 3: {models}/classes.safetensors has the classes 0 to 2"),
        ("plain", "points.npy", ["--class", "0"], "--class 0: {models}/plain.safetensors was trained without classes"),
        ("plain", "points.npy", ["--probes", "1"], "argument --probes: '1' must be a whole number of at least 2"),
        ("plain", "points.npy", ["--limit", "0"], "argument --limit: '0' must be"),
        ("plain", "points.npy", ["--tolerance", "0"], "argument --tolerance: '0' must be positive"),
        ("plain", "points.npy", ["--steps", "3", "--tolerance", "1"], "--tolerance: not allowed with argument --steps"),
        ("plain", "points.npy", ["--seed", "-1"], "argument --seed: -1 must be a whole number from 0"),
        ("plain", "points.npy", ["--out", "values.txt"], "--out values.txt must end in .npz"),
        (
            "plain",
            "points.npy",
            ["--out", "/nowhere/values.npz"],
            "--out /nowhere/values.npz: there is no folder /nowhere",
        ),
    ],
)
def test_bad_input_is_one_line_that_names_it(models, name, data, flags, message, capsys):
    try:
        arguments = ["--network", str(models / f"{name}.safetensors"), "--data", str(models / data), *flags]
        status = cli.main(["likelihood", *arguments])
    except SystemExit as stop:  # argparse's own
        status = stop.code
    shown = capsys.readouterr()
    assert status == 2
    assert shown.out == ""
    assert shown.err.startswith("hamflow: ")
    assert shown.err.count("\n") == 1
    assert message.format(models=models) in shown.err


def test_a_prior_without_a_density(models, tmp_path, monkeypatch, capsys):
    """A flow refuses such a prior, but a class may have changed since its object was saved."""
    flow = hf.oscillation()
    prior = Drawn()
    hf.save(tmp_path / "model.safetensors", Still(hf.Flow(flow.system, flow.coupling, flow.horizon, prior)))
    monkeypatch.delattr(Drawn, "log_prob")
    flags = ["--data", str(models / "points.npy"), "--shape", "2"]
    assert cli.main(["likelihood", "--network", str(tmp_path), *flags]) == 2
    assert "its prior, a Drawn, has no log_prob, so the model has no density" in capsys.readouterr().err


def test_arrays_that_cannot_be_meant(models, tmp_path, capsys):
    """Levels saved as int64, an array without rows, and a file to write where a folder stands."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "levels.npy", rng.integers(0, 256, (3, 3, 8, 8)))
    np.save(tmp_path / "none.npy", np.zeros((0, 2), np.float32))
    (tmp_path / "there.npz").mkdir()
    for network, data, flags, message in (
        ("pictures", "levels.npy", [], "holds whole numbers, and the model draws pictures: save levels of 8 bits as"),
        ("plain", "none.npy", [], "none.npy has no rows"),
        ("plain", "none.npy", ["--out", tmp_path / "there.npz"], "there.npz is a folder: give the name of a file"),
    ):
        command = ["--network", models / f"{network}.safetensors", "--data", tmp_path / data, *flags]
        assert cli.main(["likelihood", *map(str, command)]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.startswith("hamflow: --")
