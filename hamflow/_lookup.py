"""What a command line names as `module:name`: a flow, a recipe of the user's own."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any


def look_up(where: str, kind: type) -> Any:
    """The object at `module:name`, the working directory first.

    Raises:
        ValueError: no such module or name, with those of that kind that the module has.
    """
    module, colon, name = where.partition(":")
    noun = kind.__name__.removeprefix("Abstract").lower()
    if not colon or not module or not name:
        raise ValueError(f"{where!r} must be module:{noun}, as in my_systems:pendulum")
    if module.endswith(".py") or os.sep in module:
        raise ValueError(f"{module!r} must be the name of a module, without .py and with dots for folders")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"no module {error.name!r} from {Path.cwd()}: run in the folder that holds it") from None
    if not hasattr(found, name):
        those = [key for key, value in vars(found).items() if isinstance(value, kind)]
        raise ValueError(f"{module} has no {name!r}" + (f"; its {noun}s are {', '.join(those)}" if those else ""))
    return getattr(found, name)
