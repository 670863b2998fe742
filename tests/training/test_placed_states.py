"""A state that is made in its place on many devices: the same numbers, and never four models on one of them."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec

from hamflow.training import device_mesh, init_state

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def found():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", str(HERE / "placed_states.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_it_is_the_state_that_was_made_whole_and_then_split(found):
    """Bit for bit, with its types and places."""
    assert found["same"] == {"1 x 8": True, "2 x 4": True, "8 x 1": True}


def test_the_model_it_was_made_of_is_no_part_of_it(found):
    assert len(found["survives"]) == 3 * 4
    assert set(found["survives"].values()) == {True}, found["survives"]


def test_only_the_model_itself_is_whole_on_a_device(found):
    """Eight devices hold an eighth of parameters, average and two moments each; the first has the model it was given.

    The bias of 400 bytes is left whole by the rule.
    """
    whole, placed = found["whole"], found["placed"]
    model, small = placed["model"], 10_000
    during, after = placed["held"][-2:]  # what the optimiser sees last, and the end
    assert len(placed["held"]) >= 2
    for held in placed["held"]:
        assert held[0] <= 1.5 * model + small
        assert max(held[1:]) <= 0.5 * model + small
    assert abs(during[0] - 1.125 * model) < small
    assert abs(after[0] - 1.5 * model) < small
    assert all(abs(held - 0.5 * model) < small for held in after[1:])
    # The program that makes the rest has no more of its own: an eighth goes in, three eighths come out.
    assert placed["programs"] == [pytest.approx(0.5 * model, abs=small)]
    # Made whole, there were the model and four more on one device: this is what the looks would have seen.
    assert abs(whole["held"][-1][0] - 5 * model) < small
    assert whole["held"][-1][1:] == [0] * 7


def test_a_rule_of_ones_own():
    mesh = device_mesh(devices=jax.devices()[:1])
    seen = []

    def rule(path, shape):
        seen.append(path)
        return PartitionSpec("fsdp") if shape == (8, 2) else PartitionSpec()

    state = init_state({"w": jnp.ones((8, 2)), "f": jnp.tanh}, optax.sgd(0.1), mesh=mesh, rule=rule, num_averages=2)
    assert state.model["w"].sharding.spec == state.other_averages[0]["w"].sharding.spec == PartitionSpec("fsdp")
    assert state.step.sharding.spec == PartitionSpec()
    assert state.model["f"] is jnp.tanh
    assert {".model['w']", ".ema['w']", ".other_averages[0]['w']", ".step"} <= set(seen)
    with pytest.raises(ValueError, match=r"\.model\['w'\] has the shape \(8, 2\), and its rule says"):
        init_state(
            {"w": jnp.ones((8, 2))}, optax.sgd(0.1), mesh=mesh, rule=lambda *_: PartitionSpec(None, None, "fsdp")
        )


def test_nothing_to_train_is_said_here_too():
    mesh = device_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="Nothing to train"):
        init_state({"b": jnp.arange(3)}, optax.sgd(0.1), mesh=mesh)
