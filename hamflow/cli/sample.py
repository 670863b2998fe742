"""`hamflow sample --network RUN --outdir OUT` draws from a trained model, one file a seed."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._paths import as_path
from ..sampling import AbstractSampler, Guided, generate
from .arrays import write_arrays
from .rows import Devices, Progress, import_data
from .solvers import SAMPLERS, find_solver
from .trained import Trained, open_trained
from .values import at_least, finite, label, seeds

_DESCRIPTION = """Draw from a trained model. Pictures go to OUT, one PNG a seed (000000.png); other examples to
OUT/samples.npz, as `samples` and `seeds` (and `labels`). A sample depends on its seed alone (and on class, steps and
solver), whatever --batch and however many devices there are, to rounding: 1e-5, and as many times that as --guidance
says; a file of the same name is overwritten. A model that takes vectors as conditions is drawn from with the null
vector. Exit status: 0, or 2 if it cannot be run."""


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "sample", help="draw from a trained model", description=_DESCRIPTION, allow_abbrev=False
    )
    add = parser.add_argument
    add("--network", required=True, metavar="RUN", help="a run folder of `hamflow train`, or a file of hamflow.save")
    add("--outdir", required=True, metavar="OUT", help="a folder, made if it is not there")
    add("--seeds", type=seeds, default="0-63", help="0-63 (the default), 3, or 1,5,9-12; one given twice counts once")
    add(
        *("--class",),
        dest="label",
        type=label,
        metavar="K",
        help="of every sample; `null` for none. Not given, a model with classes draws one a seed, from the seed",
    )
    add("--steps", type=at_least(1), default=18, metavar="N", help="default 18")
    add("--solver", default="heun", metavar="NAME", help=f"{', '.join(SAMPLERS)}, or diffrax.Tsit5 ... (default heun)")
    add("--guidance", type=finite, metavar="G", help="1 is none; towards the class, or away from --weaker")
    add("--weaker", metavar="RUN2", help="a smaller or less trained model of the same data, for --guidance")
    add("--batch", type=at_least(1), default=64, metavar="B", help="at once, over all devices (default 64)")
    add("--grid", action="store_true", help="write all pictures on one sheet too, grid.png")
    add("--shape", type=at_least(1), nargs="+", metavar="N", help="of one example, for a network that cannot say")
    add("--trust", action="append", default=[], metavar="MODULE", help="of yours, which the file may use")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draw and write."""
    solver = find_solver(options.solver)
    trained = open_trained(options.network, "--network", options.shape, options.trust)
    trained.require_label(options.label)
    if isinstance(solver, AbstractSampler):
        try:
            solver.require_flow(trained.flow)
        except ValueError as error:
            raise ValueError(f"--solver {options.solver}: {error}") from None
    predictor = _steered(trained, options)
    _warn_of_labels(trained, options)
    pictures = len(trained.shape) == 3 and trained.shape[0] in (1, 3)
    if options.grid and not pictures:
        raise ValueError(f"--grid: examples of shape {trained.shape} are no pictures (1 or 3, height, width)")
    data = import_data() if pictures else None
    outdir = _outdir(options.outdir)
    kept, labels = [], []
    for chosen, samples, classes in _draw(trained, predictor, solver, options, "pictures" if pictures else "samples"):
        if data is not None:
            for number, sample in zip(chosen, samples, strict=True):
                _write(data.save_png, outdir / f"{number:06d}.png", data.image_grid(sample[None]), options.outdir)
        if options.grid or data is None:
            kept.append(samples)
            labels.append(classes)
    if data is not None and options.grid:
        _write(data.save_png, outdir / "grid.png", data.image_grid(np.concatenate(kept)), options.outdir)
    if data is None:
        arrays = {"samples": np.concatenate(kept), "seeds": np.asarray(options.seeds, np.uint32)}
        if labels[0] is not None:
            arrays["labels"] = np.concatenate(labels)
        _write(write_arrays, outdir / "samples.npz", arrays, options.outdir)
    print(outdir if pictures else outdir / "samples.npz")
    return 0


def _write(write: Any, path: Path, content: Any, outdir: str) -> None:
    try:
        write(path, content)
    except OSError as error:
        raise OSError(
            f"--outdir {outdir}: {path.name} cannot be written ({error.strerror}): give another one"
        ) from None


def _draw(
    trained: Trained, predictor: Any, solver: Any, options: argparse.Namespace, noun: str
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray | None]]:
    """Batch by batch: the seeds, their samples and their classes."""
    devices, progress = Devices(), Progress(len(options.seeds), noun)
    predictor, flow = devices.everywhere((predictor, trained.flow))
    done = 0
    for rows, count in devices.batches(len(options.seeds), options.batch):
        chosen = [options.seeds[row] for row in rows]
        keys = jax.vmap(jax.random.key)(jnp.asarray(chosen, jnp.uint32))
        keys, labels = devices.spread((keys, _labels(trained, options.label, keys)))
        shape = (len(rows), *trained.shape)
        samples = np.asarray(generate(predictor, flow, keys, shape, options.steps, solver, condition=labels))[:count]
        broken = [seed for seed, sample in zip(chosen, samples, strict=False) if not np.isfinite(sample).all()]
        if broken:
            raise ValueError(
                f"the sample of seed {broken[0]} (one of {len(broken)} in its batch) is not finite: give more --steps, "
                "another --solver or a smaller --guidance"
            )
        done += count
        progress.update(done)
        yield chosen[:count], samples, None if labels is None else np.asarray(labels)[:count]


def _labels(trained: Trained, label: int | str | None, keys: jax.Array) -> jax.Array | None:
    """One class a key: the one asked for, or one drawn from the key, apart from the draws of prior and solver."""
    if trained.num_classes is None or label == "null":
        return None
    if isinstance(label, int):
        return jnp.full(keys.shape, label)
    number = trained.num_classes
    return jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 2), (), 0, number))(keys)


def _steered(trained: Trained, options: argparse.Namespace) -> Any:
    """The predictor with the guidance asked for."""
    if options.guidance is None:
        if options.weaker is not None:
            raise ValueError("--weaker is what --guidance leads away from: give --guidance too, such as --guidance 2")
        return trained.predictor
    if options.weaker is not None:
        weaker = open_trained(options.weaker, "--weaker", options.shape, options.trust)
        _require_alike(trained, weaker)
        return Guided(trained.predictor, options.guidance, weaker.predictor)
    if trained.num_classes is None:
        raise ValueError(
            f"--guidance steers towards a class, and {trained.path} has none: give --weaker RUN2, a smaller or less "
            "trained model of the same data, or train with classes (examples/ffhq.py --cond)"
        )
    if options.label == "null":
        raise ValueError("--guidance steers towards a class, and --class null is none: give a class, or --weaker")
    return Guided(trained.predictor, options.guidance)


def _warn_of_labels(trained: Trained, options: argparse.Namespace) -> None:
    """A note where the null class is asked for, and the run says that it never met one."""
    asks = options.label == "null" or (options.guidance is not None and options.weaker is None)
    try:
        settings = json.loads((trained.path.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if asks and isinstance(settings, dict) and settings.get("cond") and not settings.get("label_dropout"):
        print(
            f"hamflow: note: {trained.path.parent} was trained with all labels in place, so it has not learned to do "
            "without one, which --guidance and --class null ask for (examples/ffhq.py --label-dropout)",
            file=sys.stderr,
        )


def _require_alike(trained: Trained, weaker: Trained) -> None:
    """Velocities can be subtracted where they belong to one flow, on examples of one shape, with the same classes."""
    for what, one, other in (
        ("examples of shape", weaker.shape, trained.shape),
        ("this number of classes:", weaker.num_classes, trained.num_classes),
    ):
        if one != other:
            raise ValueError(f"--weaker {weaker.path} has {what} {one}, and --network {trained.path} {other}")
    mine, theirs = (jax.tree.flatten(model.flow) for model in (trained, weaker))
    if mine[1] != theirs[1] or not all(map(_close, mine[0], theirs[0])):
        raise ValueError(f"--weaker {weaker.path} was trained with another flow than --network {trained.path}")


def _close(one: Any, other: Any) -> bool:
    """Whether two parameters agree, to what deviations measured on other draws of the same data differ."""
    if callable(one) or callable(other):
        return one == other
    return jnp.shape(one) == jnp.shape(other) and np.allclose(one, other, rtol=0.02)


def _outdir(where: str) -> Path:
    """The folder, made and found open for writing before anything is computed."""
    outdir = as_path(where)
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=outdir):
            pass
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"--outdir {where} is not a folder: give another one") from None
    except OSError as error:
        raise OSError(f"--outdir {where} cannot be written ({error.strerror}): give another one") from None
    return outdir
