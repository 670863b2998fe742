"""Which classes and functions a file may name. A file may come from a stranger, so this is short and closed.

A name is `module:qualified.name`, the shortest public one: files moved inside a package do not break old names. It is
looked up in the dictionaries of modules and classes, so that no property and no module `__getattr__` runs.
"""

import dataclasses
import importlib
import sys
import types
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

# Classes may be imported from here; any other class must have been imported by the user before.
_CLASS_ROOTS = ("hamflow", "equinox", "diffrax", "lineax", "optax")
# Activations and their like: mathematics, from modules that open no file.
_FUNCTION_MODULES = (
    *("jax.nn", "jax.numpy", "jax.lax", "jax.random", "jax.nn.initializers", "jax.scipy.special"),
    *("jax.numpy.linalg", "jax.numpy.fft", "equinox.nn", "equinox.nn._mlp"),
)
_LIBRARIES = ("jax", "jaxlib", "numpy", "equinox", "hamflow")
_FILE_FUNCTIONS = ("load", "fromfile", "save", "savez")  # of jax.numpy
# The rooms of hamflow whose functions a model may hold: mathematics. A room that is not listed is not accepted.
_FUNCTION_ROOMS = tuple(
    f"hamflow.{room}"
    for room in (
        *("couplings", "domains", "energies", "integrators", "kinetics", "networks", "objectives", "potentials"),
        *("predictors", "priors", "propagators", "schedules", "state", "system"),
    )
)


class Refusal(Exception):
    """A file that is sound, but says something that is not accepted."""


def name_class(cls: type, where: str) -> str:
    """The name of a class, checked to lead back to it. Raises `TypeError` with the place in the tree."""
    name = _public_name(cls, _parents(cls.__module__))
    if name is None:
        raise TypeError(_advice(where, f"an object of the class {cls.__qualname__}", cls))
    return name


def name_function(function: Any, where: str) -> str:
    """The name of a function or a scalar type, checked to lead back to it. Raises `TypeError` with the place."""
    module = getattr(function, "__module__", None) or ""
    root = module.partition(".")[0]
    name = _public_name(function, [*(_FUNCTION_MODULES if root == "jax" else ()), *_parents(module)])
    if name is None and module in _FUNCTION_MODULES:  # Equinox's own default activation is a lambda with a name
        members = vars(sys.modules[module]).items()
        name = next((f"{module}:{key}" for key, member in members if member is function), None)
    if name is None:
        raise TypeError(_advice(where, "a function", function))
    if isinstance(function, type) and not _is_scalar_type(function):
        raise TypeError(f"{where} is the class {name}: save an object of it, not the class.")
    if (root in _LIBRARIES or root in sys.stdlib_module_names) and not _accepted(name, function, ()):
        raise TypeError(f"{where} is {name}: save a function of jax.nn, jax.numpy and the like, or of yours.")
    return name


def find_class(name: str, where: str, trust: Sequence[str]) -> Any:
    """A class to rebuild: an `equinox.Module`, a dataclass or a named tuple, importable or already imported."""
    cls = _find(name, where, (*_CLASS_ROOTS, *trust))
    is_named_tuple = isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")
    if not isinstance(cls, type) or not (
        issubclass(cls, eqx.Module) or dataclasses.is_dataclass(cls) or is_named_tuple
    ):
        raise Refusal(f"{where} needs {name}: only equinox modules, dataclasses and named tuples are rebuilt.")
    # An object whose end runs code, or one of the standard library, is no part of a model.
    if hasattr(cls, "__del__") or cls.__module__.partition(".")[0] in sys.stdlib_module_names:
        raise Refusal(f"{where} needs {name}, which is not accepted from a file.")
    return cls


def find_function(name: str, where: str, trust: Sequence[str]) -> Any:
    """A function or scalar type to refer to: mathematical, of hamflow's rooms that hold nothing else, or trusted."""
    module = name.partition(":")[0]
    root = module.partition(".")[0]
    if module != "numpy" and not _within(module, ("hamflow", *_FUNCTION_MODULES, *trust)):
        hint = f": if you trust it, load with trust=({root!r},)" if root not in _LIBRARIES else ""
        raise Refusal(f"{where} is {name}, and a file may not choose functions of {module}{hint}.")
    function = _find(name, where, ("hamflow", *_FUNCTION_MODULES, *trust))
    if not _accepted(name, function, trust):
        raise Refusal(f"{where} is {name}, which is not accepted from a file.")
    return function


def _accepted(name: str, found: Any, trust: Sequence[str]) -> bool:
    module, _, qualname = name.partition(":")
    if isinstance(found, type):
        return _is_scalar_type(found)
    home = getattr(found, "__module__", None) or ""
    # What a module merely imported (`os.system`) is not its own.
    if not callable(found) or home.partition(".")[0] != module.partition(".")[0]:
        return False
    if module in _FUNCTION_MODULES:
        return qualname not in _FILE_FUNCTIONS
    return _within(home, trust) or _within(home, _FUNCTION_ROOMS)


def _is_scalar_type(cls: type) -> bool:
    return issubclass(cls, np.generic) or isinstance(getattr(cls, "dtype", None), np.dtype)  # np.float32, jnp.float32


def _within(module: str, roots: Sequence[str]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _public_name(target: Any, modules: Sequence[str]) -> str | None:
    qualname = getattr(target, "__qualname__", None) or getattr(target, "__name__", None) or "<none>"
    for module in modules:
        if module in sys.modules and _walk(sys.modules[module], qualname) is target:
            return f"{module}:{qualname}"
    return None


def _walk(module: types.ModuleType, qualname: str) -> Any:
    first, *rest = qualname.split(".")
    found = vars(module).get(first)
    for part in rest:
        if not isinstance(found, type):
            return None
        found = vars(found).get(part)
    return found


def _advice(where: str, what: str, target: Any) -> str:
    qualname = getattr(target, "__qualname__", None) or getattr(target, "__name__", None) or repr(target)
    if "<lambda>" in qualname:
        return f"{where} is a lambda: use a named function."
    if "<locals>" in qualname:
        return f"{where} is {what} that is local to another ({qualname}): define it at the top of a module."
    return f"{where} is {what} that cannot be found under its own name ({target.__module__}:{qualname})."


def _find(name: str, where: str, importable: Sequence[str]) -> Any:
    module, _, qualname = name.partition(":")
    private = any(part.startswith("_") for part in module.split("."))  # `package.__main__` would run
    if module not in sys.modules and _within(module, importable) and not private:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise Refusal(f"{where} needs {name}, but {module} cannot be imported: {error}.") from None
    found = _walk(sys.modules[module], qualname) if module in sys.modules else None
    if found is None:
        if module == "__main__":
            first = f"define {qualname} in this script first"
        elif module in sys.modules:
            first = f"{module} has none"
        else:
            first = f"import {module} first, or trust={(module.partition('.')[0],)!r}"
        raise Refusal(f"{where} needs {name}, which cannot be found: {first}.")
    return found
