"""The poster's pictures on tiny settings: what is written, and what the numbers must say even there."""

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

SCRIPT = Path(__file__).parents[2] / "examples" / "score_matching.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("score_matching", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["score_matching"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(script, tmp_path):
    return script.Config(
        outdir=tmp_path / "scores",
        num_points=600,
        width=16,
        batch=64,
        steps=4,
        rates=(1e-3, 1e-2),
        sigmas=(0.01, 0.1),
        gradients=8,
    )


def measured(force, data, key, *, times, **options):
    """What a discrepancy would say; the smoke run of `.ci/run` has real ones, which compile long."""
    times, error = np.asarray(times), float(jnp.mean(jax.vmap(lambda x: jnp.sum(force_of(force)(x) ** 2))(data)))
    return hf.Discrepancy(error, 0.1 * error, times, times**2 * error, 0.1 * times**2 * error)


def force_of(force):
    return (lambda x: force.force(0.0, x)) if isinstance(force, hf.AbstractForce) else force


def test_writes_pictures_and_numbers(script, tiny, capsys, monkeypatch):
    monkeypatch.setattr(script.hf, "hamiltonian_score_discrepancy", measured)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a user has it
        script.main(tiny)
    table = (tiny.outdir / "table.txt").read_text()
    assert capsys.readouterr().out == table
    assert [row[:3] for row in table.splitlines() if row.startswith("(")] == ["(a)", "(b)", "(c)", "(d)"]
    for name in ("discrepancy", "gradients", "mixture"):
        assert np.asarray(Image.open(tiny.outdir / f"{name}.png").convert("L")).std() > 10


def test_the_ring_is_its_own_score(script):
    """At a component of a wide ring the score is that of the component alone."""
    with jax.numpy_dtype_promotion("standard"):
        truth = script.ring(2, 0.1)
    np.testing.assert_allclose(truth.force(0.0, jnp.array([2.03, 0.01])), [-3.0, -1.0], rtol=1e-4)


def test_signal_to_noise_of_a_known_gradient(script, tiny, monkeypatch):
    """For S = -a x and N(0, 1) the gradient of E|S|^2 + 2 div S in a is 2 a E[x^2] - 2."""
    data = jr.normal(jr.key(0), (20_000, 1))

    class Pull(hf.AbstractForce):
        a: jax.Array

        def force(self, t, position):
            return -self.a * position

    monkeypatch.setattr(script, "objectives", lambda config: {"Hamiltonian": hf.implicit_score_matching_loss})
    config = dataclasses.replace(tiny, gradients=400, batch=100, sigmas=())
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        mean, std, ratio = script.gradient_noise(config, Pull(jnp.array(2.0)), data, jr.key(1))["Hamiltonian, no noise"]
    # The gradient of a minibatch is 2 a mean(x^2) - 2: mean 2, deviation 2 a sqrt(2 / 100).
    assert mean == pytest.approx(2.0, rel=0.1)
    assert std == pytest.approx(4.0 * np.sqrt(0.02), rel=0.1)
    assert ratio == pytest.approx(2.0 / (4.0 * np.sqrt(0.02)), rel=0.15)


def test_values_out_of_range(script, tiny):
    with pytest.raises(ValueError, match="--std is 0"):
        script.main(dataclasses.replace(tiny, std=0.0))
