"""`hamflow export RUN` writes the weights in a run folder to a file."""

import argparse
import sys
from pathlib import Path
from typing import Any

from .extras import needs
from .values import at_least, positive

_DESCRIPTION = """Write the weights of a run to a .safetensors file, for `hamflow.load`, `hamflow sample`, or any reader
of safetensors: of the latest checkpoint or another, of a run that was cut off or still goes on, of the average or of
what is trained."""


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "export", help="write the weights of a run to a file", description=_DESCRIPTION, allow_abbrev=False
    )
    add = parser.add_argument
    add("run_folder", metavar="RUN", help="the folder of the run")
    add("out", metavar="OUT", nargs="?", help="the file (default RUN/model.safetensors)")
    add("--step", type=at_least(0), metavar="N", help="of the checkpoint; not given, the latest")
    add("--weights", choices=["average", "model"], default="average", help="which of the two (default average)")
    add(
        "--ema-width",
        type=positive,
        metavar="W",
        help="the average over this share of the training, made of those that --averages-every kept",
    )
    add("--trust", action="append", default=[], metavar="MODULE", help="of yours, which the model may use")
    add("--force", action="store_true", help="replace a file that is there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the file, and say where it is."""
    with needs("export", "examples"):
        from ..runs import export
    if options.trust:
        sys.path.insert(0, str(Path.cwd()))
    try:
        out = export(
            options.run_folder,
            options.out,
            step=options.step,
            weights=options.weights,
            ema_width=options.ema_width,
            trust=options.trust,
            replace=options.force,
        )
    except ValueError as error:
        hint = "; for a class or a function of your own give --trust MODULE" if "trust" in str(error) else ""
        said = str(error).replace("relative_width", "--ema-width").rstrip(".")
        raise ValueError(f"{said}{hint}") from None
    print(out)
    return 0
