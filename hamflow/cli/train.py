"""`hamflow train RECIPE` trains from the data to a folder of results."""

import argparse
import sys
from typing import Any

from .._lookup import look_up
from .extras import needs

_DESCRIPTION = """Train a recipe. `hamflow train RECIPE --help` lists its settings. The run folder holds samples, the
curve of the loss, model.safetensors for `hamflow sample`, and checkpoints; `--resume RUN` goes on with it. Exit status:
130 after Ctrl-C, 143 after SIGTERM and 129 after a hang-up, all steps saved; 1 with a message if it cannot go on; 2 for
a flag that is none."""
_NO_FLAGS = "\0"


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "train",
        help="train a flow on pictures or points",
        allow_abbrev=False,
        add_help=False,  # `hamflow train RECIPE --help` is the recipe's
        prefix_chars=_NO_FLAGS,  # they are the recipe's, which reads them itself
    )
    parser.add_argument("words", nargs="*")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train; 0 when the run has ended. Other endings leave with their status."""
    with needs("train", "examples"):
        from ..runs import command_line
        from ..runs.named import ABOUT, RECIPES
    listed = "\n".join(f"  {name:14}{about}" for name, about in ABOUT.items())
    listed += "\n  module:recipe a recipe of your own, an instance or a class without required fields"
    name, settings = (options.words[0], options.words[1:]) if options.words else (None, [])
    if name in (None, "-h", "--help"):
        text = f"usage: hamflow train RECIPE [--SETTING VALUE ...]\n\n{_DESCRIPTION}\n\nrecipes:\n{listed}"
        if name is None:
            print(text, file=sys.stderr)
            return 2
        print(text)
        return 0
    if name.startswith("-"):
        raise ValueError(f"RECIPE comes first, as in hamflow train faces {name}; `hamflow train` lists them")
    recipe = RECIPES[name] if name in RECIPES else _own(name, list(RECIPES))
    command_line(recipe, arguments=settings, words=("hamflow", "train", name))
    return 0


def _own(where: str, names: list[str]) -> Any:
    """The recipe at `module:name`, the working directory first."""
    from ..runs import AbstractRecipe

    if ":" not in where:
        raise ValueError(f"{where!r} is no recipe: give {', '.join(names)}, or module:recipe for one of your own")
    recipe = look_up(where, AbstractRecipe)
    if isinstance(recipe, type) and issubclass(recipe, AbstractRecipe):
        recipe = recipe()
    if not isinstance(recipe, AbstractRecipe):
        kind = f"the class {recipe.__name__}" if isinstance(recipe, type) else f"a {type(recipe).__name__}"
        raise TypeError(f"{where} is {kind}, and must be a hamflow.runs.AbstractRecipe")
    return recipe
