"""What a step costs, told before the first one is made: compilation, arithmetic, memory."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import jax

from hamflow._types import PyTree, checked
from hamflow.training.dispatch import CompiledStep
from hamflow.training.flops import count_flops
from hamflow.training.peak_rates import measure_peak_rate, peak_rate


@final
@dataclass(frozen=True)
class StepCost:
    """What `measure_cost` found; `str` of it is a line to be shown.

    - `compile_seconds`: tracing and compiling.
    - `flops`: floating-point operations of a step, over all devices: products and convolutions (`count_flops`).
    - `compiled_flops`: what the compiler says of one device's program, if it does. It counts a loop's body once.
    - `peak_bytes`: memory of one device while a step runs: arguments, results that do not lie in their place, and what
      is in between; None if the compiler does not say.
    - `state_bytes`: the whole train state, once; `state_bytes_per_device`: the part of it on one device.
    - `num_devices`: that the state lies on.
    """

    compile_seconds: float
    flops: int
    compiled_flops: float | None
    peak_bytes: int | None
    state_bytes: int
    state_bytes_per_device: int
    num_devices: int

    def __str__(self) -> str:
        peak = "unknown" if self.peak_bytes is None else _size(self.peak_bytes)
        return (
            f"compiled in {self.compile_seconds:.1f} s; a step: {self.flops / 1e9:.4g} GFLOP, memory {peak} "
            f"a device; state {_size(self.state_bytes)}, {_size(self.state_bytes_per_device)} a device"
        )


@checked
def measure_cost(step: Any, state: PyTree, batch: PyTree, key: Any) -> StepCost:
    """Compile a step for these arguments, as the loop will call it, and say what it costs. Nothing is run or changed.

    - `step`: of `make_step`. Its first call with like arguments uses what was compiled here, so a loop starts no later.
    - `state`, `batch`, `key`: as for the step, in their places on the devices: give the batch of the first step. Of a
      `stacked` step the first stack, and the cost is that of all its steps together.

    ```python
    cost = measure_cost(step, state, shard_batch(batch, mesh), key)
    print(cost)
    ```
    """
    if not isinstance(step, CompiledStep):
        raise TypeError(f"step is a {type(step).__name__}: give what make_step returns.")
    start = time.perf_counter()
    traced = step.trace(state, batch, key)
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - start
    arrays = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)]
    devices = max((len(a.sharding.device_set) for a in arrays if a.sharding is not None), default=1)
    return StepCost(
        compile_seconds=seconds,
        flops=count_flops(traced.jaxpr),
        compiled_flops=_compiled_flops(compiled),
        peak_bytes=_peak_bytes(compiled),
        state_bytes=sum(_bytes(a, a.shape) for a in arrays),
        state_bytes_per_device=sum(_bytes(a, _shard_shape(a)) for a in arrays),
        num_devices=devices,
    )


@checked
def model_flop_utilisation(
    flops_per_step: float | int,
    steps_per_second: float | int,
    devices: Sequence[Any] | None = None,
    *,
    peak: float | None = None,
) -> float:
    """The share of the devices' best rate that a training makes use of: 1 is perfect, .4 is good.

        flops_per_step steps_per_second / (sum over the devices of their peak rates)

    Chowdhery et al. 2022, "PaLM: scaling language modeling with pathways", appendix B.

    - `flops_per_step`: over all devices, `StepCost.flops`.
    - `devices`: those that train, by default all.
    - `peak`: operations a second of one device. By default the maker's figure for dense bfloat16 (`peak_rate`), also
      where a training uses float32 and so cannot come near; for a CPU or a device not known here one is measured
      (`measure_peak_rate`), which takes a second.
    """
    devices = jax.devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("devices is empty: give those that train.")
    if peak is None:
        # All CPU devices of a process share its cores, and are measured as one.
        kinds = {device.device_kind: device for device in devices}
        known = {kind: peak_rate(device) or _measured(device) for kind, device in kinds.items()}
        total = sum(known[device.device_kind] for device in devices if device.platform != "cpu")
        total += max((known[device.device_kind] for device in devices if device.platform == "cpu"), default=0.0)
    else:
        total = peak * len(devices)
    if not total > 0:
        raise ValueError(f"peak is {peak}: it must be positive.")
    return flops_per_step * steps_per_second / total


_MEASURED: dict[str, float] = {}


def _measured(device: Any) -> float:
    if device.device_kind not in _MEASURED:
        _MEASURED[device.device_kind] = measure_peak_rate(device)
    return _MEASURED[device.device_kind]


def _compiled_flops(compiled: Any) -> float | None:
    try:
        analysis = compiled.cost_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    flops = (analysis or {}).get("flops", -1.0)
    return float(flops) if flops >= 0 else None


def _peak_bytes(compiled: Any) -> int | None:
    try:
        memory = compiled.memory_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    if memory is None:
        return None
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def _bytes(array: Any, shape: tuple[int, ...]) -> int:
    if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        return 0  # of a size that only its implementation knows, and a few bytes
    size = 1
    for length in shape:
        size *= length
    return size * array.dtype.itemsize


def _shard_shape(array: Any) -> tuple[int, ...]:
    return array.shape if array.sharding is None else array.sharding.shard_shape(array.shape)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
