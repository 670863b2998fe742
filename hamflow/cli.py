"""The command `hamflow`. `hamflow check module:flow` measures a flow of one's own."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if all is well, 1 if a law is broken, 2 if the command cannot be run."""
    parser = argparse.ArgumentParser(prog="hamflow", description="Hamiltonian mechanics as generative models.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="measure whether a flow keeps the laws that training and sampling rely on",
        description="Measure whether a flow keeps the laws that training and sampling rely on. Exit status: 0 if all "
        "hold, 1 if one is broken, 2 if it cannot be run.",
    )
    check.add_argument("flow", metavar="module:flow", help="a Flow, or a function without arguments that returns one")
    law = check.add_mutually_exclusive_group()
    law.add_argument("--data", metavar="PATH", help=".npy, or .npz with an array `data` or one array: (n, *event)")
    law.add_argument("--data-std", type=float, default=1.0, metavar="S", help="two bumps of this deviation (default 1)")
    check.add_argument("--shape", type=int, nargs="+", default=[2], help="of one example, with --data-std (default 2)")
    check.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        flow, data = _flow(options.flow), _data(options)
        from .conformance import check as measure

        report = measure(flow, data, jax.random.key(options.seed))
    except (
        Exception
    ) as error:  # the module is the user's: whatever it raises, the status must not say "a law is broken"
        kind = "" if isinstance(error, (ValueError, TypeError, OSError)) else f"{type(error).__name__}: "
        print(f"hamflow: {kind}{error}", file=sys.stderr)
        return 2
    print(report)
    return 0 if report.passed else 1


def _flow(where: str) -> Any:
    """The flow at `module:name`, the working directory first."""
    from .flow import Flow

    module, colon, name = where.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"{where!r} must be module:flow, as in my_systems:pendulum")
    if module.endswith(".py") or os.sep in module:
        raise ValueError(f"{module!r} must be the name of a module, without .py and with dots for folders")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"no module {error.name!r} from {Path.cwd()}: run in the folder that holds it") from None
    if not hasattr(found, name):
        flows = [key for key, value in vars(found).items() if isinstance(value, Flow)]
        raise ValueError(f"{module} has no {name!r}" + (f"; its flows are {', '.join(flows)}" if flows else ""))
    flow = getattr(found, name)
    if not isinstance(flow, Flow) and callable(flow):
        flow = flow()
    if not isinstance(flow, Flow):
        raise TypeError(
            f"{where} is a {type(flow).__name__}, and must be a hamflow.Flow or a function that returns one"
        )
    return flow


def _data(options: argparse.Namespace) -> np.ndarray:
    if options.data is None:
        if not options.data_std > 0:
            raise ValueError(f"--data-std must be positive, got {options.data_std}")
        if any(size < 1 for size in options.shape):
            raise ValueError(f"--shape must be positive whole numbers, got {' '.join(map(str, options.shape))}")
        keys = jax.random.split(jax.random.key(options.seed + 1))
        shape = (4000, *options.shape)
        bumps = jnp.where(jax.random.bernoulli(keys[0], 0.5, shape), 0.9, -0.9)
        return np.asarray(options.data_std * (bumps + 0.19**0.5 * jax.random.normal(keys[1], shape)))
    path = Path(options.data).expanduser()
    if not path.exists():
        raise ValueError(f"there is nothing at {path.absolute()}: give a .npy or .npz")
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.absolute()} is not a .npy or .npz that can be read without pickle: {error}") from None
    if isinstance(found, np.lib.npyio.NpzFile):
        names = found.files
        if "data" not in names and len(names) != 1:
            raise ValueError(f"{path.absolute()} holds {', '.join(names)}: call the data `data`")
        found = found["data" if "data" in names else names[0]]
    if found.ndim == 0 or not (np.issubdtype(found.dtype, np.floating) or np.issubdtype(found.dtype, np.integer)):
        raise ValueError(f"{path.absolute()} holds {found.dtype}{list(found.shape)}: give numbers of shape (n, *event)")
    return found.astype(np.float64 if found.dtype == np.float64 else np.float32)


if __name__ == "__main__":
    sys.exit(main())
