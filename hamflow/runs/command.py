"""A recipe on the command line: its fields are the flags."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from .. import training
from .._errors import ArgumentError
from .._paths import as_path
from .options import Options
from .recipe import AbstractRecipe
from .settings import recipe_of
from .train import train


def command_line(
    recipe: AbstractRecipe,
    *,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
    words: Sequence[str] = (),
) -> Path | None:
    """Train a recipe with what the command line says of it; what a person can mend is said in a few lines.

    Args:
        recipe: its fields are the flags, and their defaults. With `--resume RUN` those of the run are the defaults, so
            that they need not be said again.
        description: of `--help`; by default that of the recipe.
        arguments: those of the process by default.
        words: of the command itself, before the flags, such as `hamflow train faces`; by default the script.

    Raises:
        SystemExit: 130 after Ctrl-C, 143 after SIGTERM, 2 for a flag that is none, 1 with a message otherwise.

    ```python
    if __name__ == "__main__":
        command_line(Pictures(flow="reflection"))
    ```
    """
    try:
        with training.exit_on_interrupt("Stopped before the training began: nothing was lost."):
            return train(*parse(recipe, description, arguments, words), words=words)
    except (ValueError, OSError) as error:
        kind = ValueError if isinstance(error, ArgumentError) else type(error)
        sys.exit(f"{kind.__name__}: {training.in_flags(str(error), recipe.FLAGS)}")


def parse(
    recipe: AbstractRecipe,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
    words: Sequence[str] = (),
) -> tuple[AbstractRecipe, Options]:
    """The recipe and the options that a command line asks for."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--resume", nargs="?")
    run = finder.parse_known_args(arguments)[0].resume
    default = recipe if run is None else recipe_of(as_path(run), recipe)
    kind = type(recipe)
    fields = [("recipe", kind, default), ("command", Options, Options())]
    both = dataclasses.make_dataclass(
        "Command", [(name, of, dataclasses.field(default=value)) for name, of, value in fields], frozen=True
    )
    found: Any = tyro.cli(
        tyro.conf.OmitArgPrefixes[both],  # pyright: ignore[reportInvalidTypeArguments]
        args=arguments,
        prog=" ".join(words) or None,
        description=description or kind.__doc__,
    )
    recipe = dataclasses.replace(found.recipe, **kind.SMALLER) if found.command.smoke else found.recipe
    return recipe, found.command
