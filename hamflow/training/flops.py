"""The multiplications and additions of a program's matrix products and convolutions, counted from its text.

The compiler's own count knows neither how often a loop is run nor what is inside a library's kernel. All that is not a
matrix product or a convolution is left out, as is usual: it is a small part, and hardware runs it elsewhere.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(program: ClosedJaxpr | Jaxpr) -> int:
    """Floating-point operations of a program, two for each product that is summed, over all devices.

    The body of a `scan` counts as often as it is run, that of a `while` once (how often is not known before), of a
    `cond` the costlier branch. A convolution's padding costs nothing, so its gradients cost what it does.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    return sum(_flops(equation) for equation in jaxpr.eqns)


def _flops(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [count_flops(program) for program in _programs(parameters.values())]
    if name == "cond":
        return max(inner, default=0)
    times = 1
    if name == "scan":
        times = parameters["length"]
    elif name == "shard_map":
        times = math.prod(parameters["mesh"].shape.values())  # what is inside is for one device
    return times * sum(inner)


def _of_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation: Any) -> int:
    parameters = equation.params
    numbers = parameters["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    flops = 2 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for i, (low, _) in enumerate(parameters["padding"]):
        stride, image_dilation = parameters["window_strides"][i], parameters["lhs_dilation"][i]
        window = np.arange(kernel[numbers.rhs_spec[2 + i]]) * parameters["rhs_dilation"][i]
        places = np.add.outer(np.arange(out[numbers.out_spec[2 + i]]) * stride - low, window)
        size = (image[numbers.lhs_spec[2 + i]] - 1) * image_dilation + 1
        flops *= int(((places >= 0) & (places < size) & (places % image_dilation == 0)).sum())
    return flops


def _programs(values: Any) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _programs(value)
