"""What the API pages show of an Equinox module."""

import griffe
import pytest

SOURCE = '''"""A package."""
from typing import ClassVar
import equinox as eqx
from jaxtyping import Array, Float

class Base(eqx.Module):
    """A base."""
    mass: Float[Array, "batch *event"]
    order: ClassVar[int] = 1
    name: eqx.AbstractVar[str]

class Derived(Base):
    """A derived one."""
    steps: int = eqx.field(static=True, default=3)
    cache: Array = eqx.field(init=False)

class Explicit(Base):
    """One with its own `__init__`."""
    def __init__(self, speed: Float[Array, ""]) -> None: ...

class Plain:
    """Not a module."""
    width: int
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory, hooks):
    folder = tmp_path_factory.mktemp("source")
    (folder / "tinypackage").mkdir()
    (folder / "tinypackage" / "base.py").write_text(SOURCE)
    (folder / "tinypackage" / "__init__.py").write_text("from .base import Base as Base, Derived\n")
    extensions = griffe.load_extensions(str(hooks / "equinox_signatures.py"))
    return griffe.load("tinypackage", search_paths=[folder], extensions=extensions)


def parameters(package, name):
    return {p.name: (str(p.annotation), p.default) for p in package[f"base.{name}"].parameters if p.name != "self"}


def test_fields_are_arguments(package):
    assert parameters(package, "Base") == {"mass": ("Float[Array, 'batch *event']", None)}
    derived = parameters(package, "Derived")
    assert list(derived) == ["mass", "steps"]
    assert str(derived["steps"][1]) == "3"


def test_an_explicit_init_is_kept(package):
    assert parameters(package, "Explicit") == {"speed": ("Float[Array, '']", None)}


def test_only_modules_get_a_signature(package):
    assert "__init__" not in package["base.Plain"].members


def test_the_redundant_alias_is_public(package):
    assert package["Base"].is_public
    assert not package["Derived"].is_public
