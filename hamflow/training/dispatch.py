"""Start a compiled step on a tree that also holds functions and Python numbers, and do not wait for it.

`eqx.filter_jit` compiles any function of such trees. But it waits for each call to end, so that an `eqx.error_if` is
raised where it happened, and it rebuilds the trees several times. In a loop of thousands of steps the host should
rather run ahead: here the arrays go to `jax.jit` as they are, and all else is part of what the step is compiled for.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, final

import equinox as eqx
import jax

from hamflow._types import PyTree
from hamflow.training.last_state import LastState

_Static = tuple[jax.tree_util.PyTreeDef, tuple[Any, ...]]


def compile_step(step: Callable[[Any, Any, Any], tuple[Any, Any]]) -> "CompiledStep":
    """Compile `step(state, batch, key) -> (state, metrics)`; the arrays of the state given are overwritten.

    The state may hold anything, but its arrays are JAX arrays and everything else is hashable. Batch and metrics are
    trees of arrays.
    """
    return CompiledStep(step)


@final
class CompiledStep:
    """A step that is compiled when it is first called, or before that through `trace`."""

    def __init__(self, step: Callable[[Any, Any, Any], tuple[Any, Any]]):
        _silence_failed_checks()

        @functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
        def compiled(arrays: tuple[Any, ...], batch: PyTree, key: Any, static: _Static) -> tuple[Any, PyTree]:
            state, metrics = step(_join(arrays, static), batch, key)
            arrays, after = _part(state)
            if after != static:
                raise TypeError(f"A step may not change the structure of the state: from {static} to {after}.")
            return arrays, metrics

        self._compiled = compiled
        self._last = LastState()

    def __call__(self, state: Any, batch: PyTree, key: Any) -> tuple[Any, Any]:
        arrays, static = self._last.parts_of(state) or _part(state)
        with failed_checks_named():
            arrays, metrics = self._compiled(arrays, batch, key, static)
        state = _join(arrays, static)
        self._last.remember(state, (arrays, static), static[0])
        return state, metrics

    def trace(self, state: Any, batch: PyTree, key: Any) -> jax.stages.Traced:
        """The program for these arguments: `.jaxpr` is its text, `.lower().compile()` compiles it and runs nothing.

        A call with like arguments then uses what was compiled. The arguments are not touched, and may be
        `ShapeDtypeStruct`s with shardings.
        """
        arrays, static = _part(state)
        return self._compiled.trace(arrays, batch, key, static)


@contextlib.contextmanager
def failed_checks_named() -> Iterator[None]:
    """Raise what an `eqx.error_if` says as `eqx.EquinoxRuntimeError`, without the pages that XLA puts around it.

    Wherever the host waits for the device: a step that is only started fails later.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        _, found, message = str(error).partition("_EquinoxRuntimeError: ")
        if not found:
            raise
        raise eqx.EquinoxRuntimeError(message.partition("\n\n\n")[0]) from None


def _silence_failed_checks() -> None:
    """jax logs a traceback for each failed check, which is raised as well."""
    logger = logging.getLogger("jax._src.callback")
    if _is_no_failed_check not in logger.filters:
        logger.addFilter(_is_no_failed_check)


def _is_no_failed_check(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[0] and record.exc_info[0].__name__ == "_EquinoxRuntimeError")


def _part(tree: PyTree) -> tuple[tuple[Any, ...], _Static]:
    """The leaves that are arrays, and the structure with the leaves that are not; None stands in the other's places."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = tuple(leaf if isinstance(leaf, jax.Array) else None for leaf in leaves)
    # The type tells 1 from 1.0 and True, which are equal.
    rest = tuple(None if isinstance(leaf, jax.Array) else (type(leaf), leaf) for leaf in leaves)
    return arrays, (structure, rest)


def _join(arrays: tuple[Any, ...], static: _Static) -> PyTree:
    structure, rest = static
    leaves = [array if other is None else other[1] for array, other in zip(arrays, rest, strict=True)]
    return jax.tree.unflatten(structure, leaves)
