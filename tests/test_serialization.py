"""`hf.save` and `hf.load`: everything comes back as it was, and a bad or hostile file is refused by name."""

import collections
import dataclasses
import functools
import json
import math
import os
import pathlib
import stat
import struct
import sys
import typing

import equinox as eqx
import hamflow as hf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from hamflow.serialization import load, save, write_atomically


@pytest.fixture
def path(tmp_path):
    return tmp_path / "object.safetensors"


def there_and_back(path, value, **kwargs):
    save(path, value)
    return load(path, **kwargs)


def assert_same(a, b):
    """The same types, the same tree, and leaves equal bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(left) is type(right)
        if isinstance(left, jax.Array) and jnp.issubdtype(left.dtype, jax.dtypes.prng_key):
            assert left.dtype == right.dtype
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        if isinstance(left, jax.Array):
            assert left.weak_type == right.weak_type
        if isinstance(left, jax.Array | np.ndarray | np.generic):
            assert left.dtype == right.dtype
            assert left.shape == right.shape
            assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
        elif isinstance(left, float):
            assert struct.pack("d", left) == struct.pack("d", right)
        else:
            assert left == right


class Shift(eqx.Module):
    """A user's module: a custom `__init__`, a converter, a static field, a check, a default."""

    offset: jax.Array = eqx.field(converter=jnp.asarray)
    scale: float
    label: str = eqx.field(static=True)
    parts: tuple[typing.Any, ...] = ()
    calls: typing.ClassVar[list[str]] = []

    def __init__(self, offset, *, scale, label="shift", parts=()):
        self.calls.append("init")
        self.offset, self.scale, self.label, self.parts = offset, scale, label, parts

    def __check_init__(self):
        self.calls.append("check")

    def __call__(self, x):
        return self.scale * x + self.offset

    def twice(self, x):
        return self(self(x))


class Network(eqx.Module):
    convolution: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    activation: typing.Callable
    mlp: eqx.nn.MLP

    def __init__(self, *, key):
        one, two = jax.random.split(key)
        self.convolution = eqx.nn.Conv2d(2, 4, 3, padding=1, key=one)
        self.norm = eqx.nn.GroupNorm(2, 4)
        self.activation = jax.nn.silu
        self.mlp = eqx.nn.MLP(4, 3, 8, 2, activation=jax.nn.gelu, key=two)

    def __call__(self, x):
        x = self.activation(self.norm(self.convolution(x)))
        return self.mlp(jnp.mean(x, axis=(1, 2)))


class Point(typing.NamedTuple):
    x: float
    y: typing.Any


@dataclasses.dataclass(frozen=True)
class Knobs:
    outdir: pathlib.Path
    rate: float = 1e-3
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        object.__setattr__(self, "rate", self.rate * 2)  # loading must not run this again


class Holder(eqx.Module):
    value: typing.Any


def cubed(x):
    return x**3


# ---------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -(2**70), "", "snow ❄ \"quoted\" \ud800", 0.1, -0.0, 1e16, 5e-324, math.inf, -math.inf,
        1 / 3 - 2j, complex(math.inf, -0.0), b"\x00\xff", pathlib.Path("a/b"), [], (), {}, [1, (2.0, [None, ()]), {}],
        {"a": 1, "tuple": [4], "list": {"tuple": [1]}}, {2: "b"}, {(1, None): 2.0}, Point(1.0, Point(2.0, [3])),
        np.dtype("float32"), jnp.dtype("bfloat16"),
    ],
    ids=repr,
)  # fmt: skip
def test_python_values_come_back_with_their_types(path, value):
    back = there_and_back(path, value)
    assert type(back) is type(value)
    assert_same(back, value)
    assert repr(back) == repr(value)


def test_nan_comes_back(path):
    assert math.isnan(there_and_back(path, math.nan))


def test_dictionary_order_is_kept(path):
    assert list(there_and_back(path, {"b": 1, "a": 2, "c": 3})) == ["b", "a", "c"]


DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "bfloat16"),
    *("float32", "float64", "complex64", "complex128", "int4", "uint4", "float8_e4m3fn", "float8_e5m2"),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_arrays_of_any_dtype_and_layout(path, dtype):
    base = (np.random.default_rng(0).normal(size=(3, 4)) * 3).astype(jnp.dtype(dtype))
    value = [base, base.T, base[::2, 1], base[:0], base[1, 2], np.array(base[1, 2])]
    back = there_and_back(path, value)
    assert_same(back, value)
    assert back[0].flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
def test_jax_arrays_of_any_dtype(path, dtype, x64):
    base = jnp.asarray((np.random.default_rng(0).normal(size=(2, 3)) * 3).astype(jnp.dtype(dtype)))
    assert_same(there_and_back(path, [base, base[0, 0], base[:0]]), [base, base[0, 0], base[:0]])


def test_special_floats_in_arrays_are_kept_bit_for_bit(path):
    bits = np.array([0x7FC00001, 0xFFC00000, 0x7F800000, 0x80000000, 1], np.uint32)
    assert_same(there_and_back(path, bits.view(np.float32)), bits.view(np.float32))


@pytest.mark.parametrize("value", [2.5, 3, 1 - 2j])
def test_weak_types_are_kept(path, value):
    scalar = jnp.asarray(value)
    array = jnp.full((2, 2), value) * 3
    assert scalar.weak_type
    assert array.weak_type
    assert_same(there_and_back(path, [scalar, array, jnp.ones(2)]), [scalar, array, jnp.ones(2)])


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_are_kept(path, impl):
    keys = jax.random.split(jax.random.key(7, impl=impl), 3)
    back = there_and_back(path, {"keys": keys, "one": keys[1]})
    assert_same(back, {"keys": keys, "one": keys[1]})
    np.testing.assert_array_equal(jax.random.normal(back["one"], (4,)), jax.random.normal(keys[1], (4,)))


def test_big_endian_arrays_come_back_with_their_values(path):
    np.testing.assert_array_equal(there_and_back(path, np.arange(4, dtype=">f8")), np.arange(4.0))


def test_a_network_comes_back_and_computes_the_same(path):
    network = Network(key=jax.random.key(0))
    back = there_and_back(path, network)
    assert_same(back, network)
    assert back.activation is jax.nn.silu
    x = jnp.arange(32.0).reshape(2, 4, 4)
    call = eqx.filter_jit(lambda module, x: module(x))
    np.testing.assert_array_equal(call(back, x), call(network, x))
    assert call._cached._cache_size() == 1  # the same tree to jit too: nothing was compiled again


@pytest.mark.parametrize(
    "make",
    [
        lambda key: eqx.nn.Linear(2, 3, use_bias=False, key=key),
        lambda key: eqx.nn.MLP(2, 1, 4, 1, key=key),
        lambda key: eqx.nn.MultiheadAttention(2, 4, dropout_p=0.1, key=key),
        lambda key: eqx.nn.Sequential([eqx.nn.Linear(2, 2, key=key), eqx.nn.Lambda(jnp.tanh), eqx.nn.Dropout(0.5)]),
        lambda key: eqx.nn.Embedding(3, 2, key=key),
        lambda key: eqx.nn.LSTMCell(2, 3, key=key),
        lambda key: eqx.nn.PReLU(),
        lambda key: eqx.Partial(jax.nn.leaky_relu, negative_slope=0.3),
    ],
)
def test_equinox_layers(path, make):
    layer = make(jax.random.key(0))
    assert_same(there_and_back(path, layer), layer)


@pytest.mark.parametrize("recipe", [hf.diffusion, hf.flow_matching, hf.oscillation, hf.reflection])
def test_flows_and_predictors(path, recipe):
    predictor = hf.Preconditioned(hf.networks.MLP(2, 8, 1, key=jax.random.key(0)), hf.oscillation(), 0.5)
    value = {"flow": recipe(), "predictor": predictor}
    back = there_and_back(path, value)
    assert_same(back, value)
    assert type(back["predictor"].flow.horizon) is float
    x = jnp.asarray([0.5, -1.0])
    np.testing.assert_array_equal(back["predictor"](jnp.asarray(0.3), x), predictor(jnp.asarray(0.3), x))


def test_a_users_module_is_rebuilt_without_running_its_code(path):
    module = Shift([1.0, 2.0], scale=0.1, parts=(Shift(0.0, scale=1.0), {"deep": [np.arange(3)]}))
    assert isinstance(module.offset, jax.Array)  # the converter ran
    Shift.calls.clear()
    back = there_and_back(path, module)
    assert Shift.calls == []
    assert type(back) is Shift
    assert_same(back, module)
    assert type(back.scale) is float
    assert back.label == "shift"
    with pytest.raises(dataclasses.FrozenInstanceError):
        back.scale = 2.0


def test_configurations_and_their_post_init(path):
    knobs = Knobs(pathlib.Path("runs"), rate=0.5)
    back = there_and_back(path, {"knobs": knobs, "rest": Point(1.0, knobs)})
    assert back["knobs"] == knobs
    assert back["knobs"].rate == 1.0
    assert type(back["rest"]) is Point


@pytest.mark.parametrize(
    "function",
    [jax.nn.silu, jax.nn.relu, jax.nn.gelu, jnp.tanh, jnp.add, jax.lax.tanh, jax.scipy.special.erf, jnp.float32,
     np.float64, jax.random.normal],
)  # fmt: skip
def test_functions_come_back_as_themselves(path, function):
    assert there_and_back(path, {"f": function})["f"] is function


def test_functions_are_kept_under_public_names(path):
    save(path, (jax.nn.silu, jnp.sin, eqx.nn.Dropout(0.1)))
    text = path.read_bytes().decode("latin1")
    assert "_src" not in text
    for name in ("jax.nn:silu", "jax.numpy:sin", "equinox.nn:Dropout"):
        assert name in text


def test_partials_and_methods(path):
    shift = Shift(1.0, scale=3.0)
    value = [
        functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
        jax.tree_util.Partial(jnp.add, jnp.ones(2)),
        shift.twice,
    ]
    back = there_and_back(path, value)
    assert (back[0].func, back[0].keywords) == (jax.nn.leaky_relu, {"negative_slope": 0.2})
    np.testing.assert_array_equal(back[1](jnp.ones(2)), 2 * np.ones(2))
    assert jax.tree.structure(back[2]) == jax.tree.structure(value[2])
    assert float(back[2](jnp.asarray(1.0))) == 3 * (3 * 1 + 1) + 1


def test_a_users_function_needs_trust(path):
    save(path, Holder(cubed))
    with pytest.raises(ValueError, match=rf"object\.value is {__name__}:cubed.*trust=\('{__name__}',\)"):
        load(path)
    assert load(path, trust=(__name__,)).value is cubed
    with pytest.raises(TypeError, match="sequence of names"):
        load(path, trust=__name__)


def test_tensors_are_named_by_their_place_for_other_readers(path):
    mlp = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    save(path, {"network": Holder(mlp)})
    tensors = load_file(path)
    np.testing.assert_array_equal(tensors["object['network'].value.layers[0].weight"], mlp.layers[0].weight)
    save(path, mlp)
    assert set(load_file(path)) == {f"layers[{i}].{name}" for i in range(2) for name in ("weight", "bias")}


def test_names_that_collide_keep_their_own_arrays(path):
    value = {"a": {"b": np.zeros(1)}, "a']['b": np.ones(1)}
    assert_same(there_and_back(path, value), value)


def test_equal_objects_make_equal_structures(path):
    save(path, Network(key=jax.random.key(0)))
    first = header(path)["__metadata__"]["structure"]
    save(path, Network(key=jax.random.key(1)))
    assert header(path)["__metadata__"]["structure"] == first


# ------------------------------------------------------------------------------------------------- refused when saved


class Colour(int):
    pass


def make_local():
    class Local(eqx.Module):
        x: int = 0

    return Local()


def make_with_cache():
    config = MutableKnobs()
    config.cache = 3
    return config


@dataclasses.dataclass
class MutableKnobs:
    rate: float = 0.1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Holder([1, {"activation": lambda x: x}]), r"object\.value\[1\]\['activation'\] is a lambda: use a named"),
        (Holder(make_local()), r"object\.value is an object of the class make_local.<locals>.Local that is local"),
        (Holder(functools.wraps(cubed)(lambda x: x)), r"object\.value is a function that cannot be found"),
        (Holder(jax.nn.initializers.glorot_uniform()), r"object\.value is a function that is local to another"),
        ([object()], r"object\[0\] is of the type builtins\.object"),
        ([Colour(3)], r"object\[0\] is of the type .*Colour"),
        ((1, {2}), r"object\[1\] is of the type builtins\.set"),
        (collections.OrderedDict(a=1), r"object is of the type collections\.OrderedDict"),
        (np.array(["a"]), r"object has the dtype <U1"),
        (np.array([None]), r"object has the dtype object"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "object is a MaskedArray: only plain arrays"),
        ([Shift], r"object\[0\] is the class .*Shift: save an object of it"),
        ([os.system], r"object\[0\] is posix:system: save a function of"),
        ([np.tanh], r"object\[0\] is numpy:tanh: save a function of jax"),
        ([jnp.load], r"object\[0\] is jax.numpy:load"),
        ([save], r"object\[0\] is hamflow.serialization"),
        (Holder(eqx.filter_jit(cubed)), r"object\.value"),
        (make_with_cache(), r"object has an attribute 'cache' that is not a field"),
        (jax.eval_shape(lambda: jnp.ones(2)), r"object is of the type jax"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_named_by_its_place(path, value, message):
    with pytest.raises(TypeError, match=message):
        save(path, value)
    assert not path.exists()


def test_saving_inside_jit_is_refused(path):
    with pytest.raises(TypeError, match=r"object\['x'\] is traced"):
        jax.jit(lambda x: save(path, {"x": x}))(1.0)


def test_a_deleted_array_and_a_cycle_are_refused(path):
    array = jnp.ones(2)
    array.delete()
    with pytest.raises(TypeError, match=r"object\.value cannot be read from its device"):
        save(path, Holder(array))
    cycle: list = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="contains itself"):
        save(path, cycle)


# --------------------------------------------------------------------------------------------------------- the disk


def test_paths_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors does not exist"):
        load(tmp_path / "missing.safetensors")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        save(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match=r"make the folder .*nowhere first"):
        save(tmp_path / "nowhere" / "x", 1)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is not a folder"):
        save(tmp_path / "file" / "x", 1)


@pytest.fixture
def someone_else():
    """Root may write anywhere, so as root the test steps down to another user."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that every user may enter (pytest's own are closed to others)."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)
        os.chmod(folder, 0o755)


@pytest.fixture
def locked(open_folder):
    save(open_folder / "old", "old")
    os.chmod(open_folder / "old", 0)
    os.chmod(open_folder, 0o555)
    return open_folder


def test_permissions(locked, someone_else):
    with pytest.raises(PermissionError, match="you may not write in the folder"):
        save(locked / "new", 1)
    with pytest.raises(PermissionError, match="old cannot be read"):
        load(locked / "old")


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(path, monkeypatch):
    save(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device, so nothing was written.*object.safetensors"):
        save(path, "new")
    monkeypatch.undo()
    assert load(path) == "old"
    assert os.listdir(path.parent) == [path.name]


def test_a_written_file_has_the_permissions_of_an_ordinary_one(path):
    write_atomically(path, b"x")
    (path.parent / "plain").write_bytes(b"x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((path.parent / "plain").stat().st_mode)


# ---------------------------------------------------------------------------------------- damaged and hostile files


def header(path):
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size])


def write_with(path, structure=None, **metadata):
    """A file with a valid checksum that says what a stranger wants it to say."""
    import hashlib

    import safetensors.numpy

    text = structure if isinstance(structure, str) else json.dumps(structure)
    fields = {"format": "hamflow", "version": "1", "structure": text, "sha256": "0" * 64, **metadata}
    content = safetensors.numpy.save({"x": np.arange(3, dtype=np.float32)}, fields)
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content.replace(b'"' + b"0" * 64 + b'"', f'"{digest}"'.encode(), 1))


def test_every_flipped_bit_is_refused(path):
    save(path, {"a": np.arange(3, dtype=np.float32), "b": (1.5, "text")})
    good = path.read_bytes()
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"object\.safetensors"):
            load(path)


def test_every_truncation_and_an_appendix_are_refused(path):
    save(path, {"a": np.arange(3, dtype=np.float32)})
    good = path.read_bytes()
    for size in [*range(0, len(good), 7), len(good) - 1]:
        path.write_bytes(good[:size])
        with pytest.raises(ValueError, match="cut short"):
            load(path)
    path.write_bytes(good + b"x")
    with pytest.raises(ValueError, match="does not match its checksum"):
        load(path)


def test_other_files_are_refused(path):
    import safetensors.numpy

    for content in [
        b"hello, this is text",
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        bytes(range(256)),
        safetensors.numpy.save({"x": np.ones(2)}),
        safetensors.numpy.save({"x": np.ones(2)}, {"format": "pt"}),
        struct.pack("<Q", 4) + b"[[]]",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"was not written by hamflow\.save"):
            load(path)


def test_another_format_version_is_refused(path):
    write_with(path, "1", version="7")
    with pytest.raises(ValueError, match="format version 7, and this hamflow reads version 1"):
        load(path)


def test_write_with_makes_files_that_load(path):
    write_with(path, {"object": f"{__name__}:Holder", "fields": {"value": {"tuple": [1, None]}}})
    assert_same(load(path), Holder((1, None)))


@pytest.mark.parametrize(
    "structure",
    [
        "not json", "{}", {"tuple": 5}, {"dict": [1]}, {"wibble": 1}, {"float": "wide"}, {"complex": 5},
        {"bytes": "xy"},
        {"array": "y", "dtype": "float32", "shape": [3], "kind": "numpy"},
        {"array": "x", "dtype": "float32", "shape": [4], "kind": "numpy"},
        {"array": "x", "dtype": "O", "shape": [3], "kind": "numpy"},
        {"array": "x", "dtype": "uint32", "shape": [3], "kind": "key", "impl": "wibble"},
        {"object": 5, "fields": {}}, {"object": "hamflow", "fields": {}}, {"object": f"{__name__}:Holder"},
        "[" * 100_000,
    ],
)  # fmt: skip
def test_nonsense_is_refused(path, structure):
    write_with(path, structure)
    with pytest.raises(ValueError, match=r"object\.safetensors: "):
        load(path)


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
        ({"function": "jax.numpy:load"}, "is not accepted from a file"),
        ({"function": "jax.numpy:save"}, "is not accepted from a file"),
        ({"function": "jax.numpy:np"}, "which cannot be found|not accepted"),
        ({"function": "jax.experimental.serialize_executable:deserialize_and_load"}, "may not choose functions of"),
        ({"function": "jax:pure_callback"}, "may not choose functions of jax"),
        ({"function": "numpy:load"}, "is not accepted from a file"),
        ({"function": "equinox.nn:Linear"}, "is not accepted from a file"),
        ({"function": "equinox.nn:Linear.__init__.__globals__"}, "cannot be found|not accepted"),
        ({"function": f"{__name__}:cubed"}, "if you trust it, load with trust"),
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
        ({"method": "__class__", "self": {"object": f"{__name__}:Holder", "fields": {"value": 1}}}, "does not have"),
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
    write_with(path, {"function": f"{__name__}:load_file"})
    with pytest.raises(ValueError, match="not accepted"):
        load(path, trust=(__name__,))


def test_another_version_of_a_class_is_refused_by_class_and_field(path):
    write_with(path, {"object": f"{__name__}:Point", "fields": {"x": 1.0}})
    with pytest.raises(ValueError, match=rf"object: the class {__name__}:Point has a field 'y' that the file lacks"):
        load(path)
    write_with(path, [{"object": f"{__name__}:Holder", "fields": {"value": 1, "old": 2}}])
    with pytest.raises(ValueError, match=rf"object\[0\]: the file has a field 'old' that the class {__name__}:Holder"):
        load(path)


def test_double_precision_is_not_cut_in_silence(path):
    with jax.enable_x64(True):
        save(path, {"x": jnp.asarray(0.1, jnp.float64)})
    with pytest.raises(ValueError, match=r"object\['x'\] is a JAX array of float64.*jax_enable_x64"):
        load(path)
    with jax.enable_x64(True):
        assert load(path)["x"].dtype == jnp.float64
