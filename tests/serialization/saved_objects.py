"""What the tests save: a user's classes, and ways to compare and to forge files."""

import dataclasses
import json
import pathlib
import struct
import typing

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from hamflow.serialization import load, save


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
        self.convolution = eqx.nn.Conv2d(2, 4, 1, key=one)
        self.norm = eqx.nn.GroupNorm(2, 4)
        self.activation = jax.nn.silu
        self.mlp = eqx.nn.MLP(4, 3, 8, 1, activation=jax.nn.gelu, key=two)

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
    tensors = {"x": np.arange(3, dtype=np.float32)} if '"array"' in text else {}
    content = safetensors.numpy.save(tensors, fields)
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content.replace(b'"' + b"0" * 64 + b'"', f'"{digest}"'.encode(), 1))
