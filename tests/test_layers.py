"""The order of the house: a file imports only from rooms above it, and `import hamflow` pulls no training tools."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import pytest

import hamflow as hf

PACKAGE = Path(hf.__file__).parent

# Top to bottom. A room may import from those before it; `training`, `data`, `networks` and `serialization` hold no
# physics, so they see the type vocabulary (and `training` what writes files) and nothing else.
ORDER = [
    "_types",
    "_parameters",
    "_linear",
    "state",
    "kinetics",
    "domains",
    "propagators",
    "potentials",
    "system",
    "priors",
    "couplings",
    "noise_scale",
    "flow",
    "recipes",
    "predictors",
    "objectives",
    "sampling",
    "plotting",
]
ALLOWED = {room: set(ORDER[:i]) for i, room in enumerate(ORDER)} | {
    "networks": {"_types"},
    "data": {"_types"},
    "serialization": {"_types"},
    "training": {"_types", "serialization"},
}


def rooms_imported(path: Path) -> set[str]:
    """The rooms of hamflow that a file imports at any place in it."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = list(("hamflow", *parts)[: -node.level]) if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            names = [module] if len(module) > 1 else [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "hamflow" and len(name) > 1}
    return found


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.name != "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_rooms_above(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert rooms_imported(path) - {room} <= ALLOWED[room]


def test_the_reader_of_imports_sees_them():
    # Else the test above could not fail.
    assert rooms_imported(PACKAGE / "flow.py") >= {"system", "couplings", "_parameters", "_linear"}
    assert rooms_imported(PACKAGE / "sampling" / "generate.py") >= {"domains", "flow"}
    assert "serialization" in rooms_imported(PACKAGE / "training" / "stats.py")


def test_import_pulls_no_training_tools():
    code = (
        "import hamflow, sys; tools = 'optax grain PIL orbax rich tyro matplotlib'.split(); "
        "print([tool for tool in tools if tool in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_pickles():
    for path in FILES:
        names = {alias.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)
                 for alias in node.names}  # fmt: skip
        assert not names & {"pickle", "cloudpickle", "dill"}, path


def classes():
    return [value for value in vars(hf).values() if inspect.isclass(value) and issubclass(value, eqx.Module)]


def test_no_concrete_method_is_overridden():
    """Abstract or final: what a base class does is what its subclasses do."""
    for cls in classes():
        for base in cls.__mro__[1:]:
            if not base.__module__.startswith("hamflow"):
                continue
            for name, method in vars(base).items():
                if name.startswith("__") or not inspect.isfunction(
                    inspect.unwrap(method) if callable(method) else None
                ):
                    continue
                if getattr(method, "__isabstractmethod__", False):
                    continue
                assert name not in vars(cls), f"{cls.__name__} overrides {base.__name__}.{name}"


def test_every_public_name_has_a_docstring():
    for name, value in vars(hf).items():
        if not name.startswith("_") and not inspect.ismodule(value):
            assert (value.__doc__ or "").strip(), name
