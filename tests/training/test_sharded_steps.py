"""The same steps on one device and on eight, whole and in microbatches: `sharded_steps.py` in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hamflow.training import device_mesh, init_state, make_step, replicated

HERE = pathlib.Path(__file__).parent
ARRANGEMENTS = ("1 x 8", "2 x 4", "8 x 1", "4, 2 x 1", "2, 4 x 2", "stacked")


@pytest.fixture(scope="module", params=["float64", "float32"])
def found(request):
    command = [sys.executable, str(HERE / "sharded_steps.py"), request.param]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), {"float64": 1e-12, "float32": 1e-6}[request.param]


def test_no_arrangement_changes_a_number(found):
    numbers, tolerance = found
    np.testing.assert_allclose(numbers["1 x 8"]["losses"][0], numbers["by hand"], rtol=tolerance)
    for name in ARRANGEMENTS:
        for what in ("losses", "weights", "average", "other average", "means"):
            np.testing.assert_allclose(numbers[name][what], numbers["1 x 8"][what], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(numbers["pairs 1"]["losses"], numbers["pairs 4"]["losses"], rtol=tolerance)
    assert abs(numbers["pairs 1"]["losses"][0] / numbers["by hand"] - 1) > 1e-3  # other groups draw other numbers


def test_metrics_are_means_over_the_batch(found):
    numbers, tolerance = found
    means = [np.random.default_rng(n).normal(size=(32, 2)).mean() for n in range(4)]
    np.testing.assert_allclose(numbers["8 x 1"]["means"], means, rtol=max(tolerance, 1e-6))


def test_each_device_keeps_its_share(found):
    """Of parameters, averages and moments (the script compares their shardings): one of `fsdp`."""
    numbers, _ = found
    shares = {name: numbers[name]["share"] for name in ARRANGEMENTS}
    assert shares == {"1 x 8": 1, "2 x 4": 1, "8 x 1": 1, "4, 2 x 1": 1 / 2, "2, 4 x 2": 1 / 4, "stacked": 1 / 2}


def mean_of_squares(model, batch, key):
    return jnp.mean((model["w"] * batch["x"]) ** 2), {}


def step_of(batch_size, **options):
    optimizer = optax.sgd(0.1)
    step = make_step(mean_of_squares, optimizer, **options)
    return step(init_state({"w": jnp.ones(())}, optimizer), {"x": np.ones(batch_size, np.float32)}, jax.random.key(0))


def test_microbatches_by_hand():
    """d/dw mean (w x)^2 = 2 mean x^2, in any number of pieces."""
    optimizer = optax.sgd(0.1)
    x = np.arange(12, dtype=np.float32) / 10
    step = make_step(mean_of_squares, optimizer, microbatches=3, rows_together=2)
    state, metrics = step(init_state({"w": jnp.ones(())}, optimizer), {"x": x}, jax.random.key(0))
    np.testing.assert_allclose(metrics["loss"], np.mean(x**2), rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], 2 * np.mean(x**2), rtol=1e-6)
    np.testing.assert_allclose(state.model["w"], 1 - 0.1 * 2 * np.mean(x**2), rtol=1e-6)
    assert int(state.images) == 12


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_added_up_in_single(dtype):
    """512 microbatches of equal gradients 1: added in bfloat16 they would end at 256, where 1 is lost."""

    def loss(model, batch, key):
        return jnp.sum(model["w"]) * jnp.mean(batch["x"]), {}

    optimizer = optax.sgd(1.0)
    step = make_step(loss, optimizer, microbatches=512, rows_together=1)
    state = init_state({"w": jnp.zeros(1, dtype)}, optimizer)
    _, metrics = step(state, {"x": np.ones(512, dtype)}, jax.random.key(0))
    assert float(metrics["grad_norm"]) == pytest.approx(1.0, rel=0.01)


def test_numbers_that_do_not_fit_together():
    with pytest.raises(ValueError, match="microbatches is 0: it must be 1 or more"):
        step_of(8, microbatches=0, rows_together=1)
    with pytest.raises(ValueError, match=r"microbatches=4 needs rows_together, .* 1 for a loss whose rows are indep"):
        step_of(8, microbatches=4)
    with pytest.raises(ValueError, match=r"batch of 10 .* 1 device in 4 microbatches with 2 rows .* multiple of 8"):
        step_of(10, microbatches=4, rows_together=2)
    with pytest.raises(ValueError, match="metric 'x' of the loss has the shape"):
        make_step(lambda m, b, k: (jnp.sum(m), {"x": b}), optax.sgd(0.1), rows_together=1)(
            init_state(jnp.ones(2), optax.sgd(0.1)), np.ones(4, np.float32), jax.random.key(0)
        )


def test_one_device_is_a_mesh_too():
    mesh = device_mesh(devices=jax.devices()[:1])
    _, metrics = step_of(8, sharding=replicated(mesh), microbatches=2, rows_together=1)
    assert float(metrics["loss"]) == 1.0


def test_stacked_steps_are_steps():
    optimizer = optax.sgd(0.1)
    x = np.linspace(0, 1, 24, dtype=np.float32).reshape(3, 8)
    one, many = (make_step(mean_of_squares, optimizer, stacked=stacked) for stacked in (False, True))
    state, losses = init_state({"w": jnp.ones(())}, optimizer), []
    for rows in x:
        state, metrics = one(state, {"x": rows}, jax.random.key(0))
        losses.append(metrics["loss"])
    other, metrics = many(init_state({"w": jnp.ones(())}, optimizer), {"x": x}, jax.random.key(0))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    np.testing.assert_array_equal(metrics["step"], [0, 1, 2])
    np.testing.assert_array_equal(metrics["images"], [8, 16, 24])
    np.testing.assert_allclose(other.model["w"], state.model["w"], rtol=1e-6)
    assert (int(other.step), int(other.images)) == (3, 24)
