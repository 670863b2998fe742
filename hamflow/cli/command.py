"""The command line itself: which command is meant, and what its errors look like."""

import argparse
import importlib.metadata
import platform
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from . import check, data, export, likelihood, sample, train


class _Parser(argparse.ArgumentParser):
    """argparse's own refusals in the words of all others: one line, status 2."""

    def error(self, message: str) -> NoReturn:
        print(f"hamflow: {message} (`{self.prog} --help` shows what there is)", file=sys.stderr)
        raise SystemExit(2)


class _Version(argparse.Action):
    """Print the versions of hamflow and of what it stands on, looked up only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        found = [f"{name} {importlib.metadata.version(name)}" for name in ("hamflow", "jax", "equinox")]
        print(f"{', '.join(found)}, Python {platform.python_version()}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if all is well, 1 if a law is broken, 2 if the command cannot be run, 130 after Ctrl-C.

    Args:
        arguments: the words after `hamflow`; those of the process unless given.
    """
    parser = _Parser(prog="hamflow", description="Hamiltonian mechanics as generative models.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions of hamflow, jax and Python")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (check, train, sample, likelihood, export, data):
        command.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("hamflow: stopped; every file that was written is whole", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:  # a module or a network is the user's: whatever it raises, status 1 has another meaning
        print(f"hamflow: {_in_one_line(error)}", file=sys.stderr)
        return 2


def _in_one_line(error: Exception) -> str:
    """What an error says, without the pages that a compiler adds to it."""
    _, failed_check, said = str(error).partition("EquinoxRuntimeError: ")  # its stack stands before it
    said = " ".join((said if failed_check else str(error)).partition("\n\n")[0].split())
    plain = failed_check or isinstance(error, (ValueError, TypeError, OSError, ImportError))
    return said if plain and said else f"{type(error).__name__}: {said}"
