"""`hamflow data PATH` looks at a data set of pictures, and prepares it for training."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .rows import Progress, import_data
from .values import at_least

_DESCRIPTION = """Decode every picture of a data set and say what it holds: how many, their sizes and classes, mean and
standard deviation in the unit of training (black -1, white 1), a fingerprint of every byte, and what is damaged, by
name. With --convert the pictures are written as they are trained on, cut and resized once. Exit status: 0 if all is
well, 1 if a picture is damaged (then nothing is written without --skip-corrupt), 2 if it cannot be run."""
_FLAGS = {
    "Pass resolution=": "Give --resolution",
    "resolution=": "--resolution ",
    "resolution is": "--resolution is",
    "Pass labels=False": "Give --no-labels",
    "pass skip_corrupt=True": "give --skip-corrupt",
    "overwrite=True": "--force",
    "path is": "--convert is",
}
_MOST_SIZES = 5


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "data", help="look at a data set of pictures, and prepare it", description=_DESCRIPTION, allow_abbrev=False
    )
    add = parser.add_argument
    add("data", metavar="PATH", help="a folder, a zip, a .npy, a .npz, or `faces` (the embedded ones)")
    add(
        "--resolution",
        type=at_least(1),
        metavar="N",
        help="cut the centre to a square and resize it to N pixels; not given, as stored",
    )
    add("--no-labels", action="store_true", help="leave the labels alone; not given, they are read where there are any")
    add("--convert", metavar="OUT", help="write OUT.npz, the fastest to read, or OUT.zip, PNGs as EDM lays them out")
    add("--skip-corrupt", action="store_true", help="with --convert: leave the damaged ones out")
    add("--force", action="store_true", help="with --convert: replace a file that is there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look, write if asked to, and print; 1 if a picture is damaged."""
    data = import_data()
    try:
        return _run(data, options)
    except (ValueError, OSError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(_in_flags(str(error))) from None


def _run(data: Any, options: argparse.Namespace) -> int:
    from ..data.saving import check_target

    for flag in ("skip_corrupt", "force"):
        if getattr(options, flag) and options.convert is None:
            raise ValueError(f"--{flag.replace('_', '-')} says how to write: give --convert OUT.npz or OUT.zip too")
    out = None if options.convert is None else Path(options.convert).expanduser()
    if out is not None:  # said before hours of reading
        check_target(out, options.resolution or 64, overwrite=options.force)
    source = _open(data, options)
    damaged = bool(source.skipped)
    print(f"{len(source)} pictures from {options.data}, as {source.resolution}x{source.resolution}")
    _row("as stored", _sizes(source.sizes))
    _row("classes", _classes(source.labels))
    _row("fingerprint", data.fingerprint(source, full=True))
    writes = out is not None and (options.skip_corrupt or not damaged)
    measured = source
    if out is not None and writes:
        data.save_images(source, out, overwrite=options.force, progress=Progress(len(source), "pictures").update)
        measured = data.open_images(out, labels=source.has_labels)  # so the numbers are of what was written
    mean, std = _moments(measured)
    _row("mean", f"{mean:.6f}")
    _row("standard deviation", f"{std:.6f}")
    _row("damaged", str(len(source.skipped)) if damaged else "none")
    if others := getattr(source, "passed_over", ()):
        _row("passed over", f"{len(others)}: {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}")
    for said in source.skipped.values():
        print(f"  {_in_flags(said)}")
    if writes:
        print(f"{out}: {len(measured)} pictures, fingerprint {data.fingerprint(measured, full=True)}")
    elif out is not None:
        print(
            f"hamflow: {out} was not written, since {len(source.skipped)} of its pictures are damaged: mend them, or "
            "give --skip-corrupt to leave them out",
            file=sys.stderr,
        )
    return int(damaged and not writes)


def _open(data: Any, options: argparse.Namespace) -> Any:
    path = data.embedded_faces() if options.data == "faces" else Path(options.data).expanduser()
    if not options.no_labels:
        try:
            return data.open_images(path, options.resolution, labels=True, skip_corrupt=True)
        except data.MissingLabelsError:
            pass
    return data.open_images(path, options.resolution, skip_corrupt=True)


def _moments(source: Any) -> tuple[float, float]:
    """Mean and standard deviation over all values, exactly: from how often each of the 256 levels comes."""
    from ..data.saving import in_order

    counts, progress = np.zeros(256, np.int64), Progress(len(source), "pictures")
    for done, found in enumerate(in_order(source, lambda picture: np.bincount(picture.ravel(), minlength=256)), 1):
        counts += found
        progress.update(done)
    share, values = counts / counts.sum(), np.arange(256) / 127.5 - 1.0
    mean = float(share @ values)
    return mean, float(share @ (values - mean) ** 2) ** 0.5


def _sizes(sizes: dict[tuple[int, int], int]) -> str:
    common = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{width}x{height} ({count})" for (width, height), count in common[:_MOST_SIZES]]
    rest = len(sizes) - _MOST_SIZES
    return ", ".join(words) + (f" and {rest} more sizes" if rest > 0 else "")


def _classes(labels: np.ndarray | None) -> str:
    if labels is None:
        return "no labels"
    counts = np.bincount(labels)
    missing = int((counts == 0).sum())
    words = f"{len(counts)}, of {counts[counts > 0].min()} to {counts.max()} pictures"
    return words + (f"; {missing} of them without any" if missing else "")


def _row(name: str, said: str) -> None:
    print(f"{name:<20}{said}")


def _in_flags(message: str) -> str:
    """The room of data speaks of its own arguments."""
    for said, flag in _FLAGS.items():
        message = message.replace(said, flag)
    return message
