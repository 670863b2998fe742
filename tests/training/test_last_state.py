"""A state that comes back as it was is not taken apart again; one that was changed, in whatever way, is."""

import weakref
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from hamflow.training import dispatch
from hamflow.training.dispatch import compile_step
from hamflow.training.last_state import LastState


class State(eqx.Module):
    """Modules, a tuple, lists in a list and a dict, as in networks; a number and a function, which are no arrays."""

    layers: list
    named: dict
    fixed: tuple
    scale: Any = 2.0
    function: Any = jnp.tanh


def fresh():
    a, b, c, d, e = (jnp.full((), 1.0) for _ in range(5))
    return State([[a], b], {"a": c, "b": [d]}, (e, None))


def total(state):
    return sum(leaf for leaf in jax.tree.leaves(state) if eqx.is_array(leaf))


@compile_step
def step(state, batch, key):
    """Adds one to every array, and reports the scaled sum of all from before."""
    arrays, rest = eqx.partition(state, eqx.is_array)
    return eqx.combine(jax.tree.map(lambda x: x + 1, arrays), rest), {"sum": state.scale * total(state)}


def report(state):
    state, metrics = step(state, jnp.zeros(1), jax.random.key(0))
    return state, float(metrics["sum"])


@pytest.fixture
def counted(monkeypatch):
    """How often a state was taken apart."""
    seen, part = [], dispatch._part
    monkeypatch.setattr(dispatch, "_part", lambda tree: seen.append(0) or part(tree))
    return seen


def test_a_state_that_comes_back_is_taken_apart_once(counted):
    state, sums = fresh(), []
    report(fresh())  # compiles, and takes the state apart to see that its structure is kept
    counted.clear()
    for _ in range(3):
        state, found = report(state)
        sums.append(found)
    assert sums == [2 * 5, 2 * 10, 2 * 15]
    assert len(counted) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.layers.__setitem__(1, jnp.full((), 10.0)),
        lambda state: state.layers[0].__setitem__(0, jnp.full((), 10.0)),
        lambda state: state.named.__setitem__("a", jnp.full((), 10.0)),
        lambda state: state.named["b"].__setitem__(0, jnp.full((), 10.0)),
    ],
    ids=["list", "list in a list", "dict", "list in a dict"],
)
def test_what_is_changed_in_place_is_seen(change):
    state, _ = report(fresh())  # all five are 2 now
    change(state)
    _, found = report(state)
    assert found == 2 * (4 * 2 + 10)


def test_another_state_is_another():
    state, _ = report(fresh())
    put_aside = jax.tree.map(lambda x: x + 0 if eqx.is_array(x) else x, state)
    state, _ = report(state)
    assert report(put_aside)[1] == 2 * 5 * 2
    state = eqx.tree_at(lambda s: s.scale, state, 3.0)  # not an array: it is compiled for this one
    assert report(state)[1] == 3 * 5 * 3


def test_a_dict_with_other_names_is_another():
    held, state = LastState(), fresh()
    held.remember(state, ("parts",), jax.tree.structure(state))
    assert held.parts_of(state) == ("parts",)
    state.named["c"] = state.named.pop("a")
    assert held.parts_of(state) is None


class Opaque:
    """Something that can change, and of which nothing is known."""


jax.tree_util.register_pytree_node(Opaque, lambda _: ((), None), lambda *_: Opaque())


@pytest.mark.parametrize(
    "state", [State([], {}, (Opaque(),)), (jnp.ones(()),), [jnp.ones(())], jnp.ones(())],
    ids=["unknown node", "tuple", "list", "array"],
)  # fmt: skip
def test_of_what_cannot_be_known_nothing_is_kept(state):
    held = LastState()
    held.remember(fresh_state := fresh(), ("before",), jax.tree.structure(fresh_state))
    held.remember(state, ("parts",), jax.tree.structure(state))
    assert held.parts_of(state) is held.parts_of(fresh_state) is None


def test_the_memory_of_a_state_is_not_kept():
    held, state = LastState(), fresh()
    parts = Opaque()
    held.remember(state, parts, jax.tree.structure(state))
    alive = weakref.ref(parts), weakref.ref(state.layers[1])
    del parts
    assert held.parts_of(state) is alive[0]()
    del state
    assert [each() for each in alive] == [None, None]
