"""How many operations a second a device can do at best, to compare with what a training does."""

import time
from typing import Any

import jax
import jax.numpy as jnp

# Dense matrix products of bfloat16 (float16 where there is no bfloat16), operations a second, of one jax device.
# The makers' figures; where theirs is "with sparsity", half of it. More words may follow a name.
_PEAK_RATES = {
    "NVIDIA GB200": 2.5e15,  # NVIDIA GB200 NVL72 data sheet, a 72nd of it
    "NVIDIA B200": 2.25e15,  # NVIDIA Blackwell architecture technical brief, HGX B200 per GPU
    "NVIDIA GH200": 989.5e12,  # NVIDIA GH200 Grace Hopper Superchip data sheet
    "NVIDIA H200 NVL": 835.5e12,  # NVIDIA H200 Tensor Core GPU data sheet
    "NVIDIA H200": 989.5e12,
    "NVIDIA H100 NVL": 835.5e12,  # NVIDIA H100 Tensor Core GPU data sheet
    "NVIDIA H100 PCIe": 756.5e12,
    "NVIDIA H100": 989.5e12,  # SXM
    "NVIDIA A100": 312e12,  # NVIDIA A100 Tensor Core GPU data sheet, all forms
    "NVIDIA A30": 165e12,  # NVIDIA A30 Tensor Core GPU data sheet
    "NVIDIA A40": 149.7e12,  # NVIDIA A40 data sheet
    "NVIDIA A10": 125e12,  # NVIDIA A10 Tensor Core GPU data sheet
    "NVIDIA L40S": 362.05e12,  # NVIDIA L40S data sheet
    "NVIDIA L40": 181.05e12,  # NVIDIA L40 data sheet
    "NVIDIA L4": 121e12,  # NVIDIA L4 Tensor Core GPU data sheet
    "Tesla V100": 125e12,  # NVIDIA V100 Tensor Core GPU data sheet, float16, SXM2
    "Tesla T4": 65e12,  # NVIDIA T4 Tensor Core GPU data sheet, float16
    "AMD Instinct MI325X": 1307.4e12,  # AMD Instinct MI325X data sheet
    "AMD Instinct MI300X": 1307.4e12,  # AMD Instinct MI300X data sheet
    "AMD Instinct MI250X": 191.5e12,  # AMD Instinct MI250X data sheet: two devices have 383e12
    "TPU v6 lite": 918e12,  # Google Cloud TPU v6e, system architecture, per chip
    "TPU v6e": 918e12,
    "TPU v5 lite": 197e12,  # Google Cloud TPU v5e
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,  # Google Cloud TPU v5p
    "TPU v5": 459e12,
    "TPU v4 lite": 138e12,  # Jouppi et al. 2021, "Ten lessons from three generations": TPU v4i
    "TPU v4": 275e12,  # Google Cloud TPU v4
    "TPU v3": 61.5e12,  # Google Cloud TPU v3: two devices a chip of 123e12
}


def peak_rate(device: Any = None) -> float | None:
    """Operations a second of dense bfloat16 products that the maker states for a device; None if it is not known here.

    `device` is one of `jax.devices()`, by default the first. The list goes by `device.device_kind`.
    """
    kind = (jax.devices()[0] if device is None else device).device_kind
    if "MIG" in kind:
        return None  # a part of a device, of any size
    known = [name for name in _PEAK_RATES if kind == name or kind.startswith((f"{name} ", f"{name}-"))]
    return _PEAK_RATES[max(known, key=len)] if known else None


def measure_peak_rate(device: Any = None, *, size: int = 2048, repeats: int = 5) -> float:
    """Operations a second that a device really does in a product of two (size, size) matrices, the best of `repeats`.

    In float32 on a CPU, in bfloat16 elsewhere. It takes a second or so on a CPU; on a large accelerator take
    `size=8192`, for a smaller product does not fill it.
    """
    if size < 1 or repeats < 1:
        raise ValueError(f"size is {size} and repeats {repeats}: both must be 1 or more.")
    device = jax.devices()[0] if device is None else device
    dtype = jnp.float32 if device.platform == "cpu" else jnp.bfloat16
    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(repeats + 1):  # the first compiles
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])
