"""Paths as users write them: `~` is the home folder, in a flag with an equals sign and in a program too."""

import os
import pathlib


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """Return `path` with `~` or `~name` at its start replaced by that home folder.

    A shell does this to a word that begins with `~`, but not to `--outdir=~/runs`, and Python never does.
    """
    return pathlib.Path(path).expanduser()
