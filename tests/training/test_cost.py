"""The cost of a step by hand, and that what was compiled to measure it is what the loop then runs."""

import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hamflow.training import (
    init_state,
    make_step,
    measure_cost,
    measure_peak_rate,
    model_flop_utilisation,
    peak_rate,
)

WIDTH, BATCH = 256, 32


def loss(model, batch, key):
    return jnp.mean((batch["x"] @ model["w"]) ** 2), {}


@pytest.fixture(scope="module")
def arguments():
    optimizer = optax.sgd(0.1)
    state = init_state({"w": jnp.ones((WIDTH, WIDTH)), "name": "a line"}, optimizer)
    return make_step(loss, optimizer), state, {"x": np.ones((BATCH, WIDTH), np.float32)}, jax.random.key(0)


def test_it_is_compiled_once_and_the_loop_runs_that(arguments, caplog):
    step, state, batch, key = arguments
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        cost = measure_cost(step, state, batch, key)
        compiled = [r for r in caplog.records if "Finished XLA compilation of jit(compiled)" in r.getMessage()]
        assert len(compiled) == 1  # else the assertion below says nothing
        caplog.clear()
        assert not state.model["w"].is_deleted()
        for _ in range(2):
            state, metrics = step(state, batch, key)
        assert [r.getMessage() for r in caplog.records if "jit(compiled)" in r.getMessage()] == []
    assert int(metrics["step"]) == 1
    assert cost.compile_seconds > 0

    # One product, and one for the gradient of the weights.
    assert cost.flops == 2 * (2 * BATCH * WIDTH * WIDTH)
    # Model and average in float32; step, images and `finite`.
    assert cost.state_bytes == cost.state_bytes_per_device == 2 * 4 * WIDTH**2 + 4 + 4 + 1
    assert cost.num_devices == 1
    # At least what goes in, whose place the new state takes; at most that and a few copies of the weights.
    arguments_bytes = cost.state_bytes + 4 * BATCH * WIDTH
    assert arguments_bytes <= cost.peak_bytes <= arguments_bytes + 4 * (4 * WIDTH**2)
    assert cost.compiled_flops is None or cost.compiled_flops >= cost.flops
    assert str(cost).startswith("compiled in ")
    assert "a step: 0.008389 GFLOP" in str(cost)


def test_only_a_step_is_measured(arguments):
    with pytest.raises(TypeError, match="step is a function: give what make_step returns"):
        measure_cost(lambda state, batch, key: (state, {}), *arguments[1:])


def device(kind, platform="gpu"):
    return types.SimpleNamespace(device_kind=kind, platform=platform)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L40S", 362.05e12),
        ("NVIDIA L4", 121e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A10G", None),  # no A10
        ("NVIDIA L400", None),
        ("cpu", None),
    ],
)
def test_peak_rates_go_by_the_whole_name(kind, expected):
    assert peak_rate(device(kind)) == expected


def test_utilisation_by_hand():
    eight = [device("NVIDIA A100-SXM4-80GB")] * 8
    # 8 x 312 TFLOP/s at best; 2.5 steps of 499.2 TFLOP a second are half of it.
    assert model_flop_utilisation(499.2e12, 2.5, eight) == pytest.approx(0.5)
    assert model_flop_utilisation(10, 2, [device("x")] * 4, peak=10.0) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="devices is empty"):
        model_flop_utilisation(1.0, 1.0, [])
    with pytest.raises(ValueError, match=r"peak is 0\.0"):
        model_flop_utilisation(1.0, 1.0, eight, peak=0.0)


def test_a_cpu_is_measured():
    rate = measure_peak_rate(size=256, repeats=2)
    assert 1e8 < rate < 1e15  # some unit, not seconds a product
    with pytest.raises(ValueError, match="size is 0"):
        measure_peak_rate(size=0)
