"""The state that a step made is mostly given to the next one, which then need not take it apart again.

To flatten a tree of hundreds of Equinox modules takes a millisecond, in which a CPU could compute. What a state was
made of is remembered, and used if the same object comes back. It is the same inside too: modules and tuples cannot be
changed in place, and the lists and dicts among them are looked through.
"""

import functools
import operator
import weakref
from typing import Any, final

import equinox as eqx
import jax
from jax.tree_util import DictKey, GetAttrKey, KeyPath, SequenceKey


@final
class LastState:
    """The parts of one state, for as long as somebody else holds it: the memory of its arrays is not ours to keep."""

    def __init__(self):
        self._held: tuple[weakref.ref, list[Any]] | None = None

    def remember(self, state: Any, parts: Any, structure: Any) -> None:
        """Keep the parts of a state, and forget those of the one before.

        Of a state that holds anything which could change unseen nothing is kept.
        """
        places = _places(structure)
        if places is None:
            self._held = None
            return
        containers = [_at(state, place) for place in places]
        held = [parts, containers, [_entries(container) for container in containers]]
        self._held = weakref.ref(state, lambda _: held.clear()), held

    def parts_of(self, state: Any) -> Any | None:
        """What was remembered of this state; None if it is another one, or was changed in place."""
        if self._held is None or self._held[0]() is not state:
            return None
        parts, containers, entries = self._held[1]
        for container, before in zip(containers, entries, strict=True):
            now = _entries(container)
            if len(now) != len(before) or not all(map(operator.is_, now, before)):
                return None
        return parts


def _entries(container: list | dict) -> list[Any]:
    return [*container, *container.values()] if isinstance(container, dict) else [*container]


@functools.lru_cache(maxsize=16)
def _places(structure: Any) -> tuple[KeyPath, ...] | None:
    """Where a tree has lists and dicts; None if other things in it can be changed, or it cannot be held weakly."""
    node = structure.node_data()
    if node is None or not issubclass(node[0], eqx.Module) or not _is_known(structure):
        return None
    found: list[KeyPath] = []

    def look(tree: Any, path: KeyPath) -> None:
        nodes = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: type(x) in _MUTABLE and x is not tree)
        for more, node in nodes:
            if type(node) in _MUTABLE:
                found.append((*path, *more))
                look(node, (*path, *more))

    look(jax.tree.unflatten(structure, range(structure.num_leaves)), ())
    return tuple(found) if all(isinstance(key, _KEYS) for place in found for key in place) else None


_KEYS = (GetAttrKey, SequenceKey, DictKey)
_MUTABLE = (list, dict)
_FIXED = (eqx.Module, tuple, type(None))


def _is_known(structure: Any) -> bool:
    node = structure.node_data()
    known = node is None or node[0] in _MUTABLE or issubclass(node[0], _FIXED)
    return known and all(map(_is_known, structure.children()))


def _at(tree: Any, place: KeyPath) -> Any:
    for key in place:
        match key:
            case GetAttrKey(name):
                tree = getattr(tree, name)
            case SequenceKey(index) | DictKey(index):
                tree = tree[index]
    return tree
