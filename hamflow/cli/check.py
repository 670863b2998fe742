"""`hamflow check module:flow` measures a flow of one's own."""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._lookup import look_up
from ..conformance import check as measure
from ..flow import Flow
from .arrays import read_points


def add_to(commands: Any) -> None:
    """Declare the command."""
    check = commands.add_parser(
        "check",
        help="measure whether a flow keeps the laws that training and sampling rely on",
        description="Measure whether a flow keeps the laws that training and sampling rely on. Exit status: 0 if all "
        "hold, 1 if one is broken, 2 if it cannot be run.",
        allow_abbrev=False,
    )
    check.add_argument("flow", metavar="module:flow", help="a Flow, or a function without arguments that returns one")
    law = check.add_mutually_exclusive_group()
    law.add_argument("--data", metavar="PATH", help=".npy, or .npz with an array `data` or one array: (n, *event)")
    law.add_argument("--data-std", type=float, default=1.0, metavar="S", help="two bumps of this deviation (default 1)")
    check.add_argument("--shape", type=int, nargs="+", default=[2], help="of one example, with --data-std (default 2)")
    check.add_argument("--seed", type=int, default=0)
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report; 1 if a law is broken."""
    report = measure(_flow(options.flow), _data(options), jax.random.key(options.seed))
    print(report)
    return 0 if report.passed else 1


def _flow(where: str) -> Any:
    """The flow at `module:name`, the working directory first."""
    flow = look_up(where, Flow)
    if not isinstance(flow, Flow) and callable(flow):
        flow = flow()
    if not isinstance(flow, Flow):
        raise TypeError(
            f"{where} is a {type(flow).__name__}, and must be a hamflow.Flow or a function that returns one"
        )
    return flow


def _data(options: argparse.Namespace) -> np.ndarray:
    if options.data is not None:
        return read_points(options.data)[0]
    if not options.data_std > 0:
        raise ValueError(f"--data-std must be positive, got {options.data_std}")
    if any(size < 1 for size in options.shape):
        raise ValueError(f"--shape must be positive whole numbers, got {' '.join(map(str, options.shape))}")
    keys = jax.random.split(jax.random.key(options.seed + 1))
    shape = (4000, *options.shape)
    bumps = jnp.where(jax.random.bernoulli(keys[0], 0.5, shape), 0.9, -0.9)
    return np.asarray(options.data_std * (bumps + 0.19**0.5 * jax.random.normal(keys[1], shape)))
