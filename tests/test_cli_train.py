"""`hamflow train`: which recipes there are, one's own, and what is refused."""

import json
import os
import subprocess
import sys

import pytest

import hamflow as hf
from hamflow import cli
from hamflow.runs.named import ABOUT, RECIPES

MINE = '''
import dataclasses
import jax, jax.numpy as jnp, numpy as np
import hamflow as hf
from hamflow.data import epoch_order, stream_indices
from hamflow.runs import AbstractRecipe, AbstractTask, Problem


@dataclasses.dataclass(frozen=True)
class Ring(AbstractRecipe):
    """Points on a ring."""

    radius: float = 2.0  # of it
    duration: float = 24e-6
    held_out: float = 0.0

    def open(self):
        return RingTask(self)


class RingTask(AbstractTask):
    def __init__(self, recipe):
        self.recipe = recipe
        angle = np.linspace(0, 6.28, 50)
        self.points = recipe.radius * np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
        self.name, self.about = "ring", "on a ring"
        self.num_examples, self.num_held_out = 50, 0
        self.identity, self.measured = {"number": 50}, {"data_std": float(self.points.std())}

    def batches(self, start_step):
        while True:
            index = stream_indices(self.recipe.seed, 50, start_step * 8, start_step * 8 + 8)
            yield {"x": self.points[index], "index": index}
            start_step += 1

    def held_out_batches(self):
        return []

    def problem(self, measured, keys):
        flow = hf.oscillation(1 / measured["data_std"])
        network = hf.networks.MLP((2,), width=8, depth=1, key=keys[0])
        model = hf.Preconditioned.from_data(network, flow, jnp.asarray(self.points), keys[1])

        def loss(model, batch, key):
            return hf.velocity_matching_loss(model, flow, batch["x"], key), {}

        return Problem(model, model.trainable(), loss, loss, "a ring")

    def draw(self, model, key, number):
        return np.asarray(hf.generate(model, model.flow, key, (number, 2), 2))

    def snapshot_samples(self, number):
        return number

    def picture(self, samples, path):
        path.write_bytes(samples.tobytes())

    def report(self, samples, folder):
        return f"mean radius {np.linalg.norm(samples, axis=1).mean():.1f}"


class Quartic(hf.AbstractPotential):
    def energy(self, t, position):
        return jnp.sum(position**2) / 2 + 0.1 * jnp.sum(position**4)


def anharmonic(data_std, data_mean):
    system = hf.Hamiltonian(Quartic(), hf.GaussianKinetic(data_std**2))
    return hf.Flow(system, hf.IndependentCoupling(), 1.0, hf.NormalPrior(), hf.Leapfrog(step_size=0.25))


LARGE = Ring(radius=30.0)
NUMBER = 3
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "rings.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("rings", None)


def run(*arguments):
    return cli.main(["train", *map(str, arguments)])


def test_a_recipe_of_ones_own_trains_and_goes_on(here, capsys):
    assert run("rings:Ring", "--radius", 3, "--outdir", "runs", "--num-samples", 5) == 0
    out = capsys.readouterr().out
    assert out.startswith("50 examples on a ring, 3 steps of 8 on 1 device\na ring\n")
    assert "mean radius " in out
    (folder,) = (here / "runs").iterdir()
    assert folder.name == "00000-ring-batch8-seed0"
    assert json.loads((folder / "config.json").read_text())["radius"] == 3.0
    assert run("rings:Ring", "--resume", folder, "--duration", 32e-6) == 0
    assert "resumed" in capsys.readouterr().out
    assert len((folder / "stats.jsonl").read_text().splitlines()) == 4
    with pytest.raises(SystemExit, match=r"radius: 3\.0 in the run, 4\.0 now"):
        run("rings:Ring", "--resume", folder, "--radius", 4)


def test_an_instance_has_defaults_of_its_own(here, capsys):
    run("rings:LARGE", "--dry-run")
    assert '"radius": 30.0' in capsys.readouterr().out
    assert os.listdir(here) == ["rings.py"] or sorted(os.listdir(here)) == ["__pycache__", "rings.py"]


def test_a_flow_of_ones_own(here, capsys):
    """Trained, exported and drawn from by its name; the file of the model names its module, which has to be trusted."""
    small = ["--num-points", 60, "--width", 4, "--depth", 1, "--batch", 8, "--duration", 16e-6, "--num-samples", 4]
    assert run("moons", "--flow", "rings:anharmonic", "--sampling-steps", 1, "--steps-together", 1, *small) == 0
    (folder,) = (here / "runs").iterdir()
    assert folder.name == "00000-two-moons-rings-anharmonic-batch8-seed0"
    std = json.loads((folder / "config.json").read_text())["data_std"]
    code = (
        "import sys; from hamflow import cli; "
        f"one = cli.main(['export', {str(folder)!r}, 'y.safetensors']); "
        f"two = cli.main(['export', {str(folder)!r}, 'x.safetensors', '--trust', 'rings']); sys.exit(10 * one + two)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert done.returncode == 20, done.stderr
    assert "trust" in done.stderr
    assert (here / "x.safetensors").exists()
    assert not (here / "y.safetensors").exists()
    mass = hf.load("x.safetensors", trust=("rings",)).flow.system.kinetic.mass
    assert mass == pytest.approx(std**2)


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ("osculation", "--flow osculation: give oscillation, diffusion, flow-matching, reflection, or module:flow"),
        ("rings:nothing", "rings has no 'nothing'"),
        ("rings:NUMBER", "--flow rings:NUMBER is a int: it must be a hamflow.Flow, or return one"),
        ("nowhere:flow", "no module 'nowhere' from "),
    ],
)
def test_what_is_no_flow(here, flow, message):
    with pytest.raises(SystemExit, match=f"^ValueError: {message}"):
        run("moons", "--flow", flow, "--num-points", 600)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "'nonsense' is no recipe: give faces, ffhq, cifar10, moons, checkerboard, or module:recipe"),
        (["nomodule:Ring"], "no module 'nomodule' from "),
        (["rings:Square"], "rings has no 'Square'"),
        (["rings:NUMBER"], "rings:NUMBER is a int, and must be a hamflow.runs.AbstractRecipe"),
        (["--resume", "x"], "RECIPE comes first, as in hamflow train faces --resume; `hamflow train` lists them"),
    ],
)
def test_what_is_no_recipe(here, capsys, arguments, message):
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_flag_that_is_none_has_status_2(here, capsys):
    with pytest.raises(SystemExit) as stop:
        run("rings:Ring", "--radios", 3)
    assert stop.value.code == 2
    assert "--radios" in capsys.readouterr().err


def test_every_recipe_is_listed(capsys):
    assert run() == 2
    listed = capsys.readouterr().err
    assert run("--help") == 0
    assert RECIPES.keys() == ABOUT.keys()
    assert all(f"  {name} " in listed and about in listed for name, about in ABOUT.items())
    assert capsys.readouterr().out == listed


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_help_and_fits_its_own_ranges(name, capsys):
    with pytest.raises(SystemExit) as stop:
        run(name, "--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"hamflow train {name}" in out
    for field in ("batch", "duration", "lr", "ema-width", "resume", "mesh", "dry-run"):
        assert f"--{field}" in out
    recipe = RECIPES[name]
    for field, (low, high) in recipe.RANGES.items():
        assert low <= getattr(recipe, field) < high


def test_published_settings():
    """Karras et al. 2022, table 7: batch, learning rate, dropout; 61.80 and 55.73 million parameters."""
    ffhq, cifar10 = RECIPES["ffhq"], RECIPES["cifar10"]
    assert (ffhq.batch, ffhq.lr, ffhq.dropout, ffhq.resolution) == (256, 2e-4, 0.05, 64)
    assert (cifar10.batch, cifar10.lr, cifar10.dropout, cifar10.resolution) == (512, 1e-3, 0.13, 32)


def test_without_the_extra_it_says_what_to_install():
    code = (
        "import sys; sys.modules['tyro'] = None; from hamflow import cli; "
        "sys.exit(cli.main(['train', 'moons']) * 10 + cli.main(['export', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 22
    assert "hamflow train needs tyro: pip install 'hamflow[examples]'" in done.stderr
    assert "hamflow export needs tyro: pip install 'hamflow[examples]'" in done.stderr
