"""Where a number first went wrong: a loss evaluated operation by operation, each of which says what came out.

The loss is traced to a jaxpr, whose equations are run one after the other. Each result is a `_Node`: whether it is
finite, which results it came from, and which parameter of the model last entered on the way. From a loss that is not
finite the way back leads through results that are not, until one of them came from finite ones: there it began. (The
first result in time that is not finite may be harmless: a mask is full of -inf.)

A compiled part (`jit`, `custom_jvp`, `checkpoint`, `scan`, `cond`, `while_loop`) runs as a whole, and operation by
operation only if something went wrong in it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, Literal as Constant, jaxpr_as_fun
from jax.extend.source_info_util import summarize

from hamflow._types import PyTree
from hamflow.training.trainable import split


@dataclasses.dataclass(frozen=True)
class NonFiniteOrigin:
    """Where the first number that was not finite came from.

    - `where`: what was not finite, the loss, or (if that was) its gradient.
    - `primitive`: the operation that made the number of finite ones, as jax calls it (`log`, `div`, `dot_general`); or
      None where it was there before the first operation.
    - `source`: the line that asked for it: file, line and function.
    - `given`: without a primitive, what it came in with: a parameter (`.layers[1].weight`) or `batch['x']`.
    - `parameter`: the place in the model of the parameter that entered last before the operation, and so the layer.
    - `numbers`: which and how many, in words.
    """

    where: Literal["loss", "gradient"]
    primitive: str | None
    source: str
    given: str | None
    parameter: str | None
    numbers: str

    def __str__(self) -> str:
        start = f"The {self.where} is not finite. "
        if self.given is not None:
            return f"{start}It was so before the first operation: {self.numbers} in {self.given}."
        place = f", behind {self.parameter}" if self.parameter else ", before any parameter entered"
        return (
            f"{start}The first number that went wrong: {self.numbers} out of {self.primitive} at {self.source}{place}."
        )


def find_origin(
    loss: Callable[..., Any], model: PyTree, batch: PyTree, key: Any, *, trainable: PyTree = eqx.is_inexact_array
) -> NonFiniteOrigin | None:
    """The first number that is not finite in `loss(model, batch, key)`, or else in its gradient; None if there is none.

    `key` is that of the step, `fold_in(key, n)`. `trainable`: as given to `make_step`.
    """
    arrays, rest = eqx.partition(model, eqx.is_array)
    batch = jax.tree.map(jnp.asarray, batch)

    def value(arrays: PyTree, batch: PyTree, key: Any) -> Any:
        return loss(eqx.combine(arrays, rest), batch, key)[0]

    def gradient(arrays: PyTree, batch: PyTree, key: Any) -> Any:
        trained, others = split(eqx.combine(arrays, rest), trainable)
        grads = jax.grad(lambda trained: loss(eqx.combine(trained, others), batch, key)[0])(trained)
        return grads, optax.tree.norm(grads)

    origin = _origin(value, "loss", (arrays, batch, key))
    return _origin(gradient, "gradient", (arrays, batch, key)) if origin is None else origin


def _origin(function: Callable[..., Any], where: Literal["loss", "gradient"], inputs: tuple) -> NonFiniteOrigin | None:
    traced = jax.make_jaxpr(function)(*inputs)
    leaves = jax.tree_util.tree_leaves_with_path(inputs)
    run = _Run()
    given = [(leaf, run.given(_name(path), path[0].idx == 0, leaf)) for path, leaf in leaves]
    bad = [node for _, node in run.closed(traced, given) if node.bad]
    if not bad:
        return None
    node = min((_trace_back(node) for node in bad), key=lambda node: node.time)
    return NonFiniteOrigin(
        where=where,
        primitive=node.primitive,
        source=node.source,
        given=node.given,
        parameter=None if node.given is not None else node.parameter,
        numbers=node.numbers,
    )


def _name(path: Any) -> str:
    root = ("", "batch", "key")[path[0].idx]
    return f"{root}{jax.tree_util.keystr(path[1:])}"


@dataclasses.dataclass
class _Node:
    """A result without its numbers."""

    time: int
    primitive: str | None
    source: str
    given: str | None
    parents: tuple["_Node", ...]
    num_nan: int
    num_inf: int
    size: int
    # What it depends on: nothing given, the data (which stand for all that is no parameter), parameters, or both.
    kind: Literal["constant", "data", "parameter", "both"]
    parameter: str | None
    entered: int  # when `parameter` did

    @property
    def bad(self) -> bool:
        return self.num_nan + self.num_inf > 0

    @property
    def numbers(self) -> str:
        counts = [(self.num_nan, "nan"), (self.num_inf, "inf")]
        found = " and ".join(f"{number} {word}" for number, word in counts if number)
        return f"{found} of {self.size} number{'' if self.size == 1 else 's'}"


def _trace_back(node: _Node) -> _Node:
    while True:
        # A constant is not to blame for what is made with it: -inf in a mask is as it should be.
        bad = [each for each in node.parents if each.bad and (each.kind != "constant" or node.kind == "constant")]
        if node.num_nan:
            bad = [parent for parent in bad if parent.num_nan] or bad
        if not bad:
            return node
        node = min(bad, key=lambda parent: parent.time)


_Result = tuple[Any, _Node]

_CALLS = {  # and under which name they hold what they call
    **dict.fromkeys(("jit", "pjit", "checkpoint", "remat", "remat2"), "jaxpr"),
    **dict.fromkeys(("closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}


class _Run:
    """One evaluation: the clock of its nodes, and the equations that know how to be gone into."""

    def __init__(self):
        self.time = 0
        self._source = ""  # of the compiled part that is gone into; the functions of jax itself have no line of ours
        self._inside: dict[str, Callable[[Any, list[_Result]], list[_Result] | None]] = {
            **dict.fromkeys(_CALLS, self._call),
            "scan": self._scan,
            "cond": self._cond,
            "while": self._while,
        }

    def given(self, name: str, is_parameter: bool, data: Any) -> _Node:
        self.time += 1
        kind = "parameter" if is_parameter else "data"
        return _Node(self.time, None, "", name, (), *_count(data), kind, name if is_parameter else None, self.time)

    def constant(self, data: Any) -> _Result:
        """A number that is written in the loss."""
        return data, _Node(self.time, None, "", "a constant of the loss", (), *_count(data), "constant", None, 0)

    def result(self, primitive: str | None, source: str, parents: Sequence[_Node], data: Any) -> _Node:
        self.time += 1
        parameters = [parent for parent in parents if parent.kind == "parameter"]
        others = [parent for parent in parents if parent.kind in ("data", "both")]
        if parameters:
            kind, parameter = ("both" if others else "parameter"), parameters[-1].parameter
            entered = self.time
        elif others:
            last = max(others, key=lambda parent: parent.entered if parent.kind == "both" else -1)
            kind, parameter, entered = last.kind, last.parameter, last.entered
        else:
            kind, parameter, entered = "constant", None, 0
        return _Node(self.time, primitive, source, None, tuple(parents), *_count(data), kind, parameter, entered)

    def closed(self, closed: Any, inputs: list[_Result]) -> list[_Result]:
        """Run a jaxpr, closed or not, equation by equation."""
        jaxpr, constants = (closed.jaxpr, closed.consts) if isinstance(closed, ClosedJaxpr) else (closed, [])
        results: dict[Any, _Result] = dict(zip(jaxpr.invars, inputs, strict=True))
        results |= {var: self.constant(data) for var, data in zip(jaxpr.constvars, constants, strict=True)}
        last_use = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in eqn.invars if not isinstance(var, Constant)}
        kept = {var for var in jaxpr.outvars if not isinstance(var, Constant)}

        def read(atom: Any) -> _Result:
            return self.constant(atom.val) if isinstance(atom, Constant) else results[atom]

        for i, equation in enumerate(jaxpr.eqns):
            outputs = self.equation(equation, [read(atom) for atom in equation.invars])
            results |= dict(zip(equation.outvars, outputs, strict=True))
            for var in {var for var in equation.invars if not isinstance(var, Constant)} - kept:
                if last_use[var] == i:  # its numbers are not needed any more
                    results.pop(var, None)
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[_Result]) -> list[_Result]:
        parents = [node for _, node in inputs]
        name, source = equation.primitive.name, summarize(equation.source_info) or self._source
        outputs = _bind(equation, [data for data, _ in inputs])
        whole = [(data, self.result(name, source, parents, data)) for data in outputs]
        inside = self._inside.get(name)
        # A nan that goes in comes out: no need to look how.
        if inside is None or not _any_bad(whole) or any(node.num_nan for node in parents if node.kind != "constant"):
            return whole
        self._source, before = source, self._source
        results = inside(equation, inputs)
        self._source = before
        return whole if results is None or not _any_bad(results) else results

    def _call(self, equation: Any, inputs: list[_Result]) -> list[_Result]:
        return self.closed(equation.params[_CALLS[equation.primitive.name]], inputs)

    def _cond(self, equation: Any, inputs: list[_Result]) -> list[_Result]:
        branches = equation.params["branches"]
        index = min(max(int(inputs[0][0]), 0), len(branches) - 1)
        return self.closed(branches[index], inputs[1:])

    def _while(self, equation: Any, inputs: list[_Result]) -> list[_Result]:
        params = equation.params
        split_at = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        for_condition, for_body, carry = inputs[: split_at[0]], inputs[slice(*split_at)], inputs[split_at[1] :]
        condition = jaxpr_as_fun(params["cond_jaxpr"])
        while bool(condition(*_data(for_condition), *_data(carry))[0]):
            carry = self.closed(params["body_jaxpr"], [*for_body, *carry])
        return carry

    def _scan(self, equation: Any, inputs: list[_Result]) -> list[_Result] | None:
        params = equation.params
        body, length = params["jaxpr"].jaxpr, params["length"]
        if length == 0 or len(body.outvars) != len(equation.outvars):
            return None
        # What the loop goes along has one axis more outside of it. (The names of the numbers change with jax.)
        num_sequences = _num_unlike(equation.invars, body.invars)
        num_carry = len(body.outvars) - _num_unlike(equation.outvars, body.outvars)
        num_consts = len(body.invars) - num_sequences - num_carry
        fixed, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
        sequences, steps = inputs[num_consts + num_carry :], []
        order = range(length - 1, -1, -1) if params["reverse"] else range(length)
        for i in order:
            results = self.closed(params["jaxpr"], [*fixed, *carry, *(self._item(xs, i) for xs in sequences)])
            carry = results[:num_carry]
            steps.append(results[num_carry:])
        stacked = []
        for results in zip(*steps, strict=True):
            in_order = results[::-1] if params["reverse"] else results
            data = jnp.stack(_data(in_order))
            stacked.append((data, self.result("scan", self._source, [node for _, node in in_order], data)))
        return [*carry, *stacked]

    def _item(self, sequence: _Result, i: int) -> _Result:
        data, whole = sequence
        node = self.result("scan", whole.source, [whole], data[i])
        if whole.kind == "parameter":  # a stack of layers: say which
            node.parameter = f"{whole.parameter}[{i}]"
        return data[i], node


def _num_unlike(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    return sum(len(a.aval.shape) != len(b.aval.shape) for a, b in zip(outside, inside, strict=True))


def _bind(equation: Any, data: list[Any]) -> list[Any]:
    primitive = equation.primitive
    with equation.ctx.manager:
        outputs = primitive.bind(*data, **primitive.get_bind_params(equation.params))
    return list(outputs) if primitive.multiple_results else [outputs]


def _data(results: Sequence[_Result]) -> list[Any]:
    return [data for data, _ in results]


def _any_bad(results: Sequence[_Result]) -> bool:
    return any(node.bad for _, node in results)


def _count(data: Any) -> tuple[int, int, int]:
    """How many are nan, infinite, and there."""
    dtype = getattr(data, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return 0, 0, 1
    return int(jnp.isnan(data).sum()), int(jnp.isinf(data).sum()), int(jnp.size(data))
