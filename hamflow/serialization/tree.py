"""A tree of Python objects as JSON and a dictionary of arrays, and back.

In the JSON null, booleans, strings, lists and numbers stand for themselves (`repr` of a float is exact); everything
else is an object whose first key says what it is: `{"tuple": [...]}`, `{"dict": [[key, value], ...]}`,
`{"object": "hamflow:HarmonicPotential", "fields": {...}}`, `{"array": "network.bias", "dtype": ..., "shape": ...}`.

An object is rebuilt field by field: neither its `__init__` nor any other code of its class is called.
"""

import dataclasses
import functools
import inspect
import math
import pathlib
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from hamflow.serialization.names import Refusal, find_class, find_function, name_class, name_function

# What safetensors keeps under its own dtypes. Others (complex128, int4) go in as bytes; the JSON knows what they are.
_NATIVE = {
    "bool": "BOOL",
    "bfloat16": "BF16",
    "complex64": "C64",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}
_PARTIALS = {"functools": functools.partial, "jax": jax.tree_util.Partial}


class StoredArray(NamedTuple):
    """A tensor of the file: its dtype in the letters of safetensors, its shape, and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def encode(value: Any, where: str, tensors: dict[str, np.ndarray]) -> Any:
    """The JSON of a tree; its arrays are added to `tensors`, and `where` is its place in words.

    Types are compared exactly, since a subclass would come back as its parent. Raises `TypeError` with the place.
    """

    def inner(part: Any, place: str) -> Any:
        return encode(part, f"{where}{place}", tensors)

    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is complex:
        return {"complex": [inner(value.real, ""), inner(value.imag, "")]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind in (pathlib.PosixPath, pathlib.WindowsPath):
        return {"path": str(value)}
    if kind in (list, tuple):
        items = [inner(item, f"[{i}]") for i, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind is dict:
        return {"dict": [[inner(key, " key"), inner(item, f"[{key!r}]")] for key, item in value.items()]}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _encode_array(value, where, tensors)
    if isinstance(value, np.dtype):
        return {"dtype": _dtype_name(value, where)}
    for name, partial in _PARTIALS.items():
        if kind is partial:
            parts = {part: inner(getattr(value, part), f".{part}") for part in ("func", "args", "keywords")}
            return {"partial": name, **parts}
    if hasattr(value, "__func__") and hasattr(value, "__self__"):
        owner, name = value.__self__, value.__func__.__name__
        method = inspect.getattr_static(type(owner), name, None)
        if method is not value.__func__ or not isinstance(method, types.FunctionType):
            raise TypeError(f"{where} is a method that {type(owner).__qualname__} does not have as {name!r}.")
        return {"method": name, "self": inner(owner, ".__self__")}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        items = {name: inner(item, f".{name}") for name, item in zip(kind._fields, value, strict=True)}
        return {"object": name_class(kind, where), "fields": items}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        _refuse_hidden_state(value, where)
        # `getattr` would bind a method that a field happens to be named after.
        names = [field.name for field in dataclasses.fields(value)]
        items = {name: inner(object.__getattribute__(value, name), f".{name}") for name in names}
        return {"object": name_class(kind, where), "fields": items}
    if callable(value):
        return {"function": name_function(value, where)}
    raise TypeError(f"{where} is of the type {kind.__module__}.{kind.__qualname__}, which cannot be saved.")


def decode(node: Any, where: str, tensors: dict[str, StoredArray], trust: Sequence[str]) -> Any:
    """The tree that `encode` described; what it uses is taken out of `tensors`.

    Raises `Refusal` for what is not accepted, and anything for nonsense.
    """

    def inner(part: Any, place: str = "") -> Any:
        return decode(part, f"{where}{place}", tensors, trust)

    if isinstance(node, list):
        return [inner(item, f"[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    kind, content = next(iter(node.items()))
    match kind:
        case "tuple":
            return tuple(inner(content))
        case "dict":
            return {inner(key, " key"): inner(item, f"[{key!r}]") for key, item in content}
        case "float":
            return float(content)
        case "complex":
            return complex(*inner(content))
        case "bytes":
            return bytes.fromhex(content)
        case "path":
            return pathlib.Path(content)
        case "dtype":
            return jnp.dtype(content)
        case "array":
            return _decode_array(node, where, tensors)
        case "function":
            return find_function(content, where, trust)
        case "partial":
            args, keywords = inner(node["args"], ".args"), inner(node["keywords"], ".keywords")
            return _PARTIALS[content](inner(node["func"], ".func"), *args, **keywords)
        case "method":
            owner = inner(node["self"], ".__self__")
            if not isinstance(inspect.getattr_static(type(owner), content, None), types.FunctionType):
                raise Refusal(f"{where} is the method {content!r}, which {type(owner).__name__} does not have.")
            return getattr(owner, content)
        case "object":
            return _rebuild(find_class(content, where, trust), content, node["fields"], where, inner)
        case _:
            raise Refusal(f"{where} is of the unknown kind {kind!r}.")


def _rebuild(cls: Any, name: str, fields: dict[str, Any], where: str, inner: Callable[..., Any]) -> Any:
    is_named_tuple = tuple in cls.__mro__
    expected = cls._fields if is_named_tuple else [field.name for field in dataclasses.fields(cls)]
    advice = "They are of different versions: load it with the version that saved it"
    if hasattr(cls, "_from_saved"):  # the class knows the fields that it had before
        renewed = cls._from_saved({field: inner(value, f".{field}") for field, value in fields.items()})
        fields, inner = renewed, lambda value, place: value
    for field in sorted(set(expected) - set(fields)):
        raise Refusal(f"{where}: the class {name} has a field {field!r} that the file lacks. {advice}.")
    for field in sorted(set(fields) - set(expected)):
        raise Refusal(f"{where}: the file has a field {field!r} that the class {name} does not have. {advice}.")
    values = {field: inner(fields[field], f".{field}") for field in expected}
    if is_named_tuple:
        return tuple.__new__(cls, values.values())
    rebuilt = object.__new__(cls)
    for field, value in values.items():
        object.__setattr__(rebuilt, field, value)
    return rebuilt


def _refuse_hidden_state(value: Any, where: str) -> None:
    """A field that was never set, or an attribute that is no field, would be lost in silence."""
    names = {field.name for field in dataclasses.fields(value)}
    for name in sorted(names):
        if not hasattr(value, name):
            raise TypeError(f"{where}.{name} was never set, so it cannot be saved.")
    for name in sorted(set(getattr(value, "__dict__", ())) - names - {"__orig_class__"}):
        if not isinstance(inspect.getattr_static(type(value), name, None), functools.cached_property):
            raise TypeError(f"{where} has an attribute {name!r} that is not a field of its class: make it one.")


def _encode_array(value: Any, where: str, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if isinstance(value, Tracer):
        raise TypeError(f"{where} is traced: call save outside of jit, grad and vmap.")
    if isinstance(value, jax.Array):
        more["kind"] = "jax"
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            more = {"kind": "key", "impl": str(jax.random.key_impl(value))}
            value = jax.random.key_data(value)
        elif value.weak_type:
            more["weak"] = True
        try:
            value = np.asarray(value)
        except RuntimeError as error:
            raise TypeError(f"{where} cannot be read from its device: {error}") from None
    elif type(value) in (np.ndarray, np.memmap):
        more["kind"] = "numpy"
    elif isinstance(value, np.generic):
        more["kind"] = "scalar"
    else:
        raise TypeError(f"{where} is a {type(value).__qualname__}: only plain arrays can be saved.")
    dtype = _dtype_name(value.dtype, where)
    array = np.array(value, dtype=jnp.dtype(dtype), order="C")  # native byte order
    name = where.removeprefix("object.")
    while name in tensors:  # dict keys can be made to look like fields
        name += "'"
    tensors[name] = array if dtype in _NATIVE else np.frombuffer(array.tobytes(), np.uint8)
    return {"array": name, "dtype": dtype, "shape": list(array.shape), **more}


def _decode_array(node: dict[str, Any], where: str, tensors: dict[str, StoredArray]) -> Any:
    dtype = jnp.dtype(node["dtype"])
    name = _dtype_name(dtype, where)
    stored = tensors.pop(node["array"])
    shape = tuple(node["shape"])
    expected = (_NATIVE[name], shape) if name in _NATIVE else ("U8", (math.prod(shape) * dtype.itemsize,))
    if (stored.dtype, stored.shape) != expected:
        raise Refusal(
            f"{where} is {name}{list(shape)}, but its tensor {node['array']!r} is stored as "
            f"{stored.dtype}{list(stored.shape)} and not as {expected[0]}{list(expected[1])}."
        )
    array = np.frombuffer(stored.data, dtype).reshape(shape).copy()
    if node["kind"] == "numpy":
        return array
    if node["kind"] == "scalar":
        return array[()]
    if node["kind"] == "key":
        return jax.random.wrap_key_data(jnp.array(array), impl=node["impl"])
    if dtype.name in ("float64", "int64", "uint64", "complex128") and jnp.result_type(float) != jnp.float64:
        raise Refusal(
            f"{where} is a JAX array of {dtype}, which JAX would cut to 32 bits now: "
            "load it after jax.config.update('jax_enable_x64', True)."
        )
    out = jnp.array(array)
    if node.get("weak"):  # an array filled with a Python number is weak, and stays so when its elements are set
        weak = jnp.full(array.shape, {"f": 0.0, "c": 0j}.get(dtype.kind, 0))
        out = weak.at[...].set(out) if weak.dtype == out.dtype else out
    return out


def _dtype_name(dtype: np.dtype, where: str) -> str:
    if dtype.kind not in "biufc" and dtype.type.__module__ != "ml_dtypes":
        raise TypeError(f"{where} has the dtype {dtype}: only arrays of numbers and booleans can be saved.")
    return dtype.name
