"""`hamflow likelihood --network RUN --data PATH` measures how likely data are under a trained model."""

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._paths import as_path
from ..sampling import bits_per_dimension, dequantize, log_likelihood, log_likelihood_and_error
from .arrays import write_arrays
from .examples import Examples, open_examples
from .rows import Devices, Progress
from .trained import Trained, open_trained
from .values import at_least, label, positive, seed

_EXACT_UP_TO = 64  # coordinates: the exact divergence takes one derivative for each
_DESCRIPTION = f"""The log-likelihood of data under a trained model, in nats: mean and standard error over the rows. For
pictures of 8 bits, with uniform noise added to the values, also bits per dimension, an upper bound on average. Exact up
to {_EXACT_UP_TO} coordinates, else with Hutchinson's estimate. Exit status: 0, or 2 if it cannot be run."""


class Values(NamedTuple):
    """One number a row."""

    nats: np.ndarray
    error: np.ndarray | None  # of the probes; None where the divergence is exact
    bits: np.ndarray | None


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "likelihood", help="measure how likely data are", description=_DESCRIPTION, allow_abbrev=False
    )
    add = parser.add_argument
    add("--network", required=True, metavar="RUN", help="a run folder of `hamflow train`, or a file of hamflow.save")
    add(
        "--data",
        required=True,
        metavar="PATH",
        help="`faces` (the embedded ones), a folder, a zip, a .npy, or a .npz with `data` or one array: (n, *event); "
        "pictures of 8 bits in a .npz as `images`, `image`, `x` or `arr_0`. Pictures are cut and resized to those of "
        "the model, as in training",
    )
    add(
        *("--class",),
        dest="label",
        type=label,
        metavar="K",
        help="of all rows; `null` for none. Not given, a model with classes takes the labels of the data",
    )
    add("--limit", type=at_least(1), metavar="N", help="the first N rows only")
    add(
        "--probes",
        type=at_least(2),
        metavar="N",
        help=f"random directions of Hutchinson's estimate (default 8, and none up to {_EXACT_UP_TO} coordinates)",
    )
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument("--steps", type=at_least(1), metavar="N", help="of Heun's method on the flow's grid, instead of")
    steps.add_argument("--tolerance", type=positive, default=1e-5, metavar="E", help="error of a step (default 1e-5)")
    add("--batch", type=at_least(1), default=16, metavar="B", help="at once, over all devices (default 16)")
    add("--seed", type=seed, default=0, metavar="S", help="of the noise and the probes; row i draws from S and i alone")
    add("--out", metavar="FILE.npz", help="write the value of every row")
    add("--skip-corrupt", action="store_true", help="leave out pictures that cannot be read")
    add("--shape", type=at_least(1), nargs="+", metavar="N", help="of one example, for a network that cannot say")
    add("--trust", action="append", default=[], metavar="MODULE", help="of yours, which the file may use")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, print, and write if asked to."""
    out = _out(options.out)
    trained = open_trained(options.network, "--network", options.shape, options.trust)
    trained.require_label(options.label)
    if not callable(getattr(trained.flow.prior, "log_prob", None)):
        raise ValueError(
            f"--network {options.network}: its prior, a {type(trained.flow.prior).__name__}, has no log_prob, so the "
            "model has no density: give the prior's class one"
        )
    by_label = trained.num_classes is not None and options.label is None
    examples = open_examples(options.data, trained, labels=by_label, skip_corrupt=options.skip_corrupt)
    if by_label:
        _require_classes(examples, trained)
    values = _measure(trained, examples, options)
    _print(trained, examples, values)
    if out is not None:
        columns = {
            "log_likelihood": values.nats,
            "standard_error": values.error,
            "bits_per_dimension": values.bits,
        }
        write_arrays(out, {name: column for name, column in columns.items() if column is not None})
    return 0


def _measure(trained: Trained, examples: Examples, options: argparse.Namespace) -> Values:
    number = min(examples.number, options.limit or examples.number)
    size = math.prod(trained.shape)
    exact = options.probes is None and size <= _EXACT_UP_TO
    devices, progress = Devices(), Progress(number, "pictures" if examples.pixels else "rows")
    domain = trained.flow.system.domain
    predictor, flow = devices.everywhere((trained.predictor, trained.flow))
    levels = 128.0 if examples.pixels and _is_narrow(trained) else 127.5
    key_noise, key_probes = jax.random.split(jax.random.key(options.seed))
    how = {"num_steps": options.steps, "tolerance": options.tolerance}
    nats, errors = [], []
    for rows, count in devices.batches(number, options.batch):
        x = examples.read(rows[:count])[np.minimum(np.arange(len(rows)), count - 1)]
        if examples.pixels:
            noise = jax.vmap(lambda i: jax.random.fold_in(key_noise, i))(jnp.asarray(rows))
            x = (jax.vmap(dequantize)(x, noise) + 1.0) * (127.5 / levels) - 1.0
        x = jnp.asarray(x, float)
        outside = np.flatnonzero(~jax.vmap(domain.contains)(x))
        if outside.size:
            raise ValueError(
                f"--data {options.data}: row {rows[outside[0]]} lies outside the {type(domain).__name__} of the model: "
                "rescale the data into it"
            )
        x, probes, labels = devices.spread(
            (
                x,
                jax.vmap(lambda i: jax.random.fold_in(key_probes, i))(jnp.asarray(rows)),
                _labels(trained, examples, options.label, rows),
            )
        )
        if exact:
            nats.append(log_likelihood(predictor, flow, x, condition=labels, **how)[:count])
        else:
            value, error = log_likelihood_and_error(
                predictor, flow, x, probes, num_probes=options.probes or 8, condition=labels, **how
            )
            nats.append(value[:count])
            errors.append(error[:count])
        broken = np.flatnonzero(np.isnan(nats[-1]))
        if broken.size:
            raise ValueError(
                f"--data {options.data}: the likelihood of row {rows[broken[0]]} is not a number: give more --steps"
            )
        progress.update(int(rows[0]) + count)
    value, bits = np.concatenate(nats), None
    if examples.pixels:
        bits = np.asarray(bits_per_dimension(value, size)) + math.log2(levels / 127.5)
    return Values(value, None if exact else np.concatenate(errors), bits)


def _is_narrow(trained: Trained) -> bool:
    """Whether white with its noise, 256 / 127.5 - 1, lies outside the domain, as beyond the wall of a box [-1, 1].

    Then values u with noise are read at (u + noise) / 128 - 1, which lies inside and is u / 127.5 - 1 to 1/128.
    """
    return not bool(trained.flow.system.domain.contains(jnp.full(trained.shape, 256.0 / 127.5 - 1.0)))


def _labels(trained: Trained, examples: Examples, label: int | str | None, rows: np.ndarray) -> jax.Array | None:
    if trained.num_classes is None or label == "null":
        return None
    if isinstance(label, int):
        return jnp.full(rows.shape, label)
    assert examples.labels is not None  # asked for when they were opened
    return jnp.asarray(examples.labels[rows], jnp.int32)


def _require_classes(examples: Examples, trained: Trained) -> None:
    assert examples.labels is not None
    assert trained.num_classes is not None
    wrong = np.flatnonzero((examples.labels < 0) | (examples.labels >= trained.num_classes))
    if wrong.size:
        raise ValueError(
            f"--data {examples.where}: row {wrong[0]} has the label {examples.labels[wrong[0]]}, and {trained.path} "
            f"the classes 0 to {trained.num_classes - 1}: give --class K or --class null"
        )


def _print(trained: Trained, examples: Examples, values: Values) -> None:
    """A table: mean and standard error over the rows; and the share of the probes in that error."""
    n = len(values.nats)
    print(f"{n} rows of shape {trained.shape} from {examples.where}, under {trained.path}")
    print(f"{'':<26}{'mean':>12}{'standard error':>18}")
    for name, column in (("log-likelihood, nats", values.nats), ("bits per dimension", values.bits)):
        if column is not None:
            error = f"{np.std(column, ddof=1, dtype=float) / n**0.5:.4g}" if n > 1 else "-"
            print(f"{name:<26}{np.mean(column, dtype=float):>12.6g}{error:>18}")
    if values.error is None:
        print("the divergence is exact")
    else:
        share = float(np.sqrt(np.mean(values.error.astype(float) ** 2) / n))
        print(f"the probes alone leave an error of {share:.3g} nats in the mean")


def _out(where: str | None) -> Path | None:
    """The file, refused before anything is computed where it could not be written."""
    if where is None:
        return None
    path = as_path(where)
    if path.suffix != ".npz":
        raise ValueError(f"--out {where} must end in .npz")
    if path.is_dir():
        raise IsADirectoryError(f"--out {where} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out {where}: there is no folder {path.parent.absolute()}; make it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(f"--out {where} cannot be written ({error.strerror}): give another one") from None
    return path
