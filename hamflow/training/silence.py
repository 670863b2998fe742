"""What orbax says beside what it raises, for example pages of tracebacks when a disk is full: nobody's business.

An error in one array ends orbax's event loop while the others are still being written. Each of these then finds the
loop closed, in a thread of tensorstore that has no Python above it, so that it comes to `sys.unraisablehook`; or its
task is thrown away, of which asyncio tells its log.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import Any


def silence_orbax() -> None:
    """Orbax says what it raises and nothing else; everybody else's records and errors pass."""
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, _NoOrbax) for each in logger.filters):
            logger.addFilter(_NoOrbax())
    if not isinstance(sys.unraisablehook, _NoClosedLoop):
        sys.unraisablehook = _NoClosedLoop(sys.unraisablehook)


class _NoOrbax(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != "asyncio":
            return _ORBAX not in record.pathname
        # A task is told with where its function is defined, a future with its error, and either with a traceback or
        # without.
        said = logging.Formatter().format(record)
        return not any(mark in said for mark in (_ORBAX, *_TENSORSTORE))


_ORBAX = f"{os.sep}orbax{os.sep}"
_TENSORSTORE = ("[tensorstore_spec=", " in OCDBT database ", ".orbax-checkpoint-tmp")


class _NoClosedLoop:
    def __init__(self, others: Callable[["sys.UnraisableHookArgs"], Any]):
        self._others = others

    def __call__(self, unraisable: "sys.UnraisableHookArgs", /) -> None:
        trace = unraisable.exc_traceback
        told_a_loop = trace is not None and trace.tb_frame.f_code is _TELL_A_LOOP  # and nothing above that
        if not (told_a_loop and unraisable.exc_type is RuntimeError):
            self._others(unraisable)


_TELL_A_LOOP = asyncio.BaseEventLoop.call_soon_threadsafe.__code__
