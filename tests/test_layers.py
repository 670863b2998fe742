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
# physics, so they see the types, the errors and the rule for whole numbers (and `training` what writes files) and
# nothing else.
ORDER = [
    "_types",
    "_errors",
    "_numbers",
    "_paths",
    "_module",
    "_parameters",
    "_factorisations",
    "_linear",
    "_modes",
    "_matrix_scalings",
    "state",
    "kinetics",
    "domains",
    "propagators",
    "potentials",
    "system",
    "_times",
    "energies",
    "integrators",
    "priors",
    "couplings",
    "optimal_transport",
    "schedules",
    "rescheduled",
    "noise_scale",
    "flow",
    "recipes",
    "schedule_change",
    "predictors",
    "conversions",
    "objectives",
    "sampling",
    "distances",
    "fitted_prior",
    "conformance",
    "_array_files",
    "_lookup",
    "plotting",
    "runs",
    "cli",
]
BASE = {"_types", "_errors", "_numbers", "_paths"}
ALLOWED = {room: set(ORDER[:i]) for i, room in enumerate(ORDER)} | {
    "networks": BASE,
    "data": BASE,
    "serialization": BASE,
    "training": BASE | {"serialization"},
}
ALLOWED["runs"] |= {"networks", "data", "training", "serialization"}
ALLOWED["cli"] |= {"serialization", "data"}  # the commands open models and pictures


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
        "import hamflow, sys; tools = 'optax grain PIL orbax rich tyro matplotlib ott jaxopt'.split(); "
        "print([tool for tool in tools if tool in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_import_starts_no_device():
    """Else several processes could not find each other after it, and a GPU's memory would be taken by a `--help`."""
    code = (
        "import hamflow, hamflow.training, hamflow.data, hamflow.networks, hamflow.plotting, hamflow.cli, jax; "
        "jax.config.update('jax_num_cpu_devices', 3); print(len(jax.devices()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"


def modules_imported(path: Path) -> set[str]:
    """First names of every module that a file imports, by either form of the statement."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {
        (node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level
    }


def test_nothing_pickles():
    assert "safetensors" in set().union(*(modules_imported(path) for path in FILES))  # the reader sees both forms
    for path in FILES:
        assert not modules_imported(path) & {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}, path
        assert "allow_pickle=True" not in path.read_text(encoding="utf-8"), path


def classes():
    """Every module class of the package that `import hamflow` knows, exported or not."""
    todo, found = [eqx.Module], set()
    while todo:
        for cls in todo.pop().__subclasses__():
            if cls not in found:
                found.add(cls)
                todo.append(cls)
    return sorted((c for c in found if c.__module__.startswith("hamflow")), key=lambda c: (c.__module__, c.__name__))


def concrete_methods(cls) -> set[str]:
    """What a class defines itself and does not leave to its subclasses, the dataclass machinery aside."""
    return {
        name
        for name, value in vars(cls).items()
        if (not name.startswith("__") or name == "__call__")
        and (callable(value) or isinstance(value, (property, classmethod, staticmethod)))
        and not getattr(value, "__isabstractmethod__", False)
    }


def test_the_reader_of_methods_sees_them():
    # Else the test below could not fail.
    assert "force" in concrete_methods(hf.AbstractPotential)
    assert "energy" not in concrete_methods(hf.AbstractPotential)
    assert {"is_linear", "evolve", "noise_scale"} <= concrete_methods(hf.Flow)
    assert "__call__" in concrete_methods(hf.AbstractLinearPropagator)


def test_no_concrete_method_is_overridden():
    """Abstract or final: what a base class does is what its subclasses do."""
    assert len(classes()) > 30
    for cls in classes():
        for base in cls.__mro__[1:]:
            if base.__module__.startswith("hamflow"):
                twice = concrete_methods(base) & set(vars(cls))
                assert not twice, f"{cls.__name__} overrides {twice} of {base.__name__}"


def test_abstract_classes_say_so_and_the_rest_are_final():
    for cls in classes():
        abstract = cls.__name__.startswith("Abstract")
        for base in cls.__mro__[1:]:
            if base.__module__.startswith("hamflow"):
                assert base.__name__.startswith("Abstract"), f"{cls.__name__} inherits from the final {base.__name__}"
        assert abstract or not inspect.isabstract(cls), (
            f"{cls.__name__} cannot be built: call it Abstract{cls.__name__}"
        )


def own_docstring(value) -> str:
    """The docstring that somebody wrote: a dataclass without one gets its signature."""
    text = (value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__) or ""
    return "" if inspect.isclass(value) and text.startswith(f"{value.__name__}(") else text.strip()


PUBLIC = {name: value for name, value in vars(hf).items() if not name.startswith("_") and not inspect.ismodule(value)}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring(name):
    """Its public methods too, or the method that they implement."""
    value = PUBLIC[name]
    assert own_docstring(value)
    if inspect.isclass(value) and value.__module__.startswith("hamflow"):
        for method in concrete_methods(value):
            if not method.startswith("_"):
                assert inspect.getdoc(getattr(value, method)), f"{name}.{method}"
