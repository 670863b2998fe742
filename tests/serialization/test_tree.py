"""Everything comes back as it was; what cannot be saved is named by its place."""

import collections
import dataclasses
import functools
import math
import os
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from saved_objects import Holder, Knobs, Network, Point, Shift, assert_same, cubed, header, there_and_back

import hamflow as hf
from hamflow.serialization import save


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


def numbers(shape, dtype):
    """Of both signs where the dtype has signs: a negative number as an unsigned one is undefined."""
    drawn = np.random.default_rng(0).normal(size=shape) * 3
    return (np.abs(drawn) if "uint" in str(dtype) else drawn).astype(jnp.dtype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_arrays_of_any_dtype_and_layout(path, dtype):
    base = numbers((3, 4), dtype)
    value = [base, base.T, base[::2, 1], base[:0], base[1, 2], np.array(base[1, 2])]
    back = there_and_back(path, value)
    assert_same(back, value)
    assert back[0].flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
def test_jax_arrays_of_any_dtype(path, dtype, x64):
    base = jnp.asarray(numbers((2, 3), dtype))
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
    traced = []

    @eqx.filter_jit
    def call(module, x):
        traced.append(module)
        return module(x)

    np.testing.assert_array_equal(call(back, x), call(network, x))
    assert len(traced) == 1  # the same tree to jit too: nothing was traced again


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


def test_flows_and_predictors(path):
    flows = [hf.diffusion(), hf.flow_matching(), hf.oscillation(frequency=2.0), hf.reflection()]
    predictor = hf.Preconditioned(hf.networks.MLP(2, 8, 1, key=jax.random.key(0)), hf.oscillation(), 0.5)
    back = there_and_back(path, {"flows": flows, "predictor": predictor})
    assert_same(back, {"flows": flows, "predictor": predictor})
    assert type(back["predictor"].flow.horizon) is float
    t, x = jnp.asarray(0.3), jnp.asarray([0.5, -1.0])
    call = eqx.filter_jit(lambda predictor: predictor(t, x))
    np.testing.assert_array_equal(call(back["predictor"]), call(predictor))


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
        ([save], r"object\[0\] is hamflow(\.serialization)?:save"),
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
