"""Which classes and functions a file may name."""

import importlib
import pkgutil
import sys
import types

import equinox as eqx
import pytest
from saved_objects import Holder, Shift, cubed, write_with

from hamflow.serialization import load, names, save


def test_a_users_function_needs_trust(path):
    save(path, Holder(cubed))
    with pytest.raises(ValueError, match=r"object\.value is saved_objects:cubed.*trust=\('saved_objects',\)"):
        load(path)
    assert load(path, trust=("saved_objects",)).value is cubed
    with pytest.raises(TypeError, match="sequence of names"):
        load(path, trust="saved_objects")


class Dangerous(eqx.Module):
    x: int

    def __del__(self):
        Shift.calls.append("ran")


sys.modules["unsafe_names"] = type(sys)("unsafe_names")
sys.modules["unsafe_names"].__getattr__ = lambda name: Shift.calls.append("ran")


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"function": "os:system"}, "object is os:system, and a file may not choose functions of os"),
        ({"function": "builtins:eval"}, "may not choose functions of builtins"),
        ({"function": "hamflow.serialization.atomic:os.system"}, "cannot be found"),
        ({"function": "hamflow.serialization.file:write_atomically"}, "is not accepted from a file"),
        ({"function": "hamflow.serialization:load"}, "is not accepted from a file"),
        ({"function": "hamflow:save"}, "is not accepted from a file"),
        ({"function": "jax.numpy:load"}, "is not accepted from a file"),
        ({"function": "jax.numpy:save"}, "is not accepted from a file"),
        ({"function": "jax.numpy:np"}, "which cannot be found|not accepted"),
        ({"function": "jax.experimental.serialize_executable:deserialize_and_load"}, "may not choose functions of"),
        ({"function": "jax:pure_callback"}, "may not choose functions of jax"),
        ({"function": "numpy:load"}, "is not accepted from a file"),
        ({"function": "equinox.nn:Linear"}, "is not accepted from a file"),
        ({"function": "equinox.nn:Linear.__init__.__globals__"}, "cannot be found|not accepted"),
        ({"function": "saved_objects:cubed"}, "if you trust it, load with trust"),
        ({"object": "subprocess:Popen", "fields": {"args": "ls"}}, "only equinox modules, dataclasses"),
        ({"object": "builtins:eval", "fields": {}}, "only equinox modules"),
        ({"object": "os:stat_result", "fields": {}}, "only equinox modules"),
        ({"object": "inspect:FullArgSpec", "fields": {}}, "not accepted from a file"),
        ({"object": "urllib.parse:DefragResult", "fields": {"url": ""}}, "not accepted from a file"),
        ({"object": "antigravity:Thing", "fields": {}}, "cannot be found: import antigravity first"),
        ({"object": "hamflow.__main__:Thing", "fields": {}}, "cannot be found"),
        ({"object": "hamflow.wibble:Thing", "fields": {}}, "hamflow.wibble cannot be imported"),
        ({"object": "__main__:Lost", "fields": {}}, "cannot be found: define Lost in this script first"),
        ({"object": f"{__name__}:Dangerous", "fields": {"x": 1}}, "not accepted from a file"),
        ({"object": "unsafe_names:Thing", "fields": {}}, "cannot be found"),
        ({"method": "__class__", "self": {"object": "saved_objects:Holder", "fields": {"value": 1}}}, "does not have"),
        ({"partial": "functools", "func": {"function": "os:system"}, "args": {"tuple": ["ls"]}, "keywords": {}}, "os"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused(path, structure, message):
    write_with(path, structure)
    Shift.calls.clear()
    before = set(sys.modules)
    with pytest.raises(ValueError, match=message):
        load(path)
    assert Shift.calls == []
    assert "antigravity" not in sys.modules
    assert not {name for name in set(sys.modules) - before if not name.startswith("hamflow")}


def test_trust_does_not_reach_what_a_module_merely_imported(path):
    write_with(path, {"function": f"{__name__}:os.system"})
    with pytest.raises(ValueError, match="cannot be found"):
        load(path, trust=(__name__,))
    write_with(path, {"function": f"{__name__}:save"})
    with pytest.raises(ValueError, match="not accepted"):
        load(path, trust=(__name__,))


def every_room():
    import hamflow

    return sorted(module.name for module in pkgutil.iter_modules(hamflow.__path__))


def test_a_room_is_accepted_only_if_it_is_listed():
    """Rooms that are made later are refused until somebody looks at them."""
    rooms = {room.split(".")[1] for room in names._FUNCTION_ROOMS}
    assert rooms <= set(every_room())
    for room in every_room():
        module = importlib.import_module(f"hamflow.{room}")
        for key, function in vars(module).items():
            if isinstance(function, types.FunctionType) and function.__module__.startswith("hamflow"):
                home = function.__module__.split(".")[1]
                accepted = names._accepted(f"hamflow.{room}:{key}", function, ())
                assert accepted == (home in rooms), (room, key, home)


@pytest.mark.parametrize(
    "name",
    ["hamflow.runs.export:export", "hamflow._lookup:look_up", "hamflow.serialization.file:save", "hamflow.cli:main"],
)
def test_functions_that_do_something_are_refused(name):
    with pytest.raises(names.Refusal, match=r"not accepted|cannot be found"):
        names.find_function(name, "here", ())
