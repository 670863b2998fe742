"""Arrays of a checkpoint, read beside a training that deletes old checkpoints meanwhile."""

import shutil
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hamflow.training import Checkpoints, CorruptCheckpoint, init_state, read_arrays

MODULE = sys.modules["hamflow.training.read_arrays"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of the steps 1, 2 and 3, whose arrays hold the number of the step."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    state, key = init_state({"w": jnp.zeros(3)}, optax.sgd(0.1)), jax.random.key(0)
    with Checkpoints(folder, keep=3) as checkpoints:
        for n in (1, 2, 3):
            new = ({"w": jnp.full(3, float(n))}, jnp.asarray(n, jnp.int32))
            checkpoints.save(eqx.tree_at(lambda s: (s.model, s.step), state, new), key)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def w(found):
    assert list(found) == [".model['w']"]
    return found[".model['w']"].tolist()


def meanwhile(monkeypatch, *events):
    """Something happens each time that a checkpoint was found to be whole, before it is read."""
    waiting = list(events)
    find_damage = MODULE.find_damage

    def looked_at(place):
        damage = find_damage(place)
        if waiting:
            waiting.pop(0)()
        return damage

    monkeypatch.setattr(MODULE, "find_damage", looked_at)
    monkeypatch.setattr(MODULE, "_SECONDS_TO_DELETE", 0.01)
    return waiting


def test_the_latest_and_one_by_its_number(folder):
    assert w(read_arrays(folder, ".model")) == [3.0, 3.0, 3.0]
    assert w(read_arrays(folder, ".model", step=1)) == [1.0, 1.0, 1.0]
    assert np.array_equal(read_arrays(folder, ".step")[".step"], 3)


def test_what_is_not_there(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 4 in .*: those there are of \[1, 2, 3\]\."):
        read_arrays(folder, step=4)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*: none"):
        read_arrays(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no array whose name begins with '\.nothing'"):
        read_arrays(folder, ".nothing", step=1)


def newer_is_there_and(folder, tmp_path, delete):
    """The third is saved, and the second deleted, while that is read as the latest."""
    shutil.move(folder / "3", tmp_path / "3")

    def event():
        shutil.move(tmp_path / "3", folder / "3")
        delete(folder / "2")

    return event


def all_of(place):
    shutil.rmtree(place)


def arrays_of(place):
    shutil.rmtree(place / "state")


def metadata_of(place):
    (place / "state" / "_METADATA").unlink()


@pytest.mark.parametrize("delete", [all_of, arrays_of, metadata_of])
def test_the_latest_is_deleted_while_it_is_read(folder, tmp_path, monkeypatch, delete):
    waiting = meanwhile(monkeypatch, newer_is_there_and(folder, tmp_path, delete))
    assert w(read_arrays(folder, ".model")) == [3.0, 3.0, 3.0]
    assert waiting == []


def test_the_latest_is_deleted_while_it_is_checked(folder, tmp_path, monkeypatch):
    """A file less than a moment ago is no damage if the whole folder is going."""
    real = newer_is_there_and(folder, tmp_path, arrays_of)
    find_damage = MODULE.find_damage
    events = [real]

    def looked_at(place):
        if events:
            events.pop()()
        return find_damage(place)

    monkeypatch.setattr(MODULE, "find_damage", looked_at)
    assert w(read_arrays(folder, ".model")) == [3.0, 3.0, 3.0]


def test_the_one_asked_for_is_deleted_while_it_is_read(folder, monkeypatch):
    meanwhile(monkeypatch, lambda: all_of(folder / "1"))
    with pytest.raises(
        FileNotFoundError, match=r"^There is no checkpoint of step 1 in .*: those there are of \[2, 3\]\.$"
    ):
        read_arrays(folder, step=1)


def test_damage_is_still_damage(folder, monkeypatch):
    """Of the latest, and of an older one that nobody deletes."""
    monkeypatch.setattr(MODULE, "_SECONDS_TO_DELETE", 0.01)
    for step in (1, 3):
        metadata_of(folder / str(step))
        with pytest.raises(CorruptCheckpoint, match=rf"checkpoints/{step} is damaged: .* is missing. Step"):
            read_arrays(folder, step=step)
    with pytest.raises(CorruptCheckpoint, match="Step 2 is good"):
        read_arrays(folder)


def test_deleted_faster_than_read(folder, monkeypatch):
    """It does not try for ever."""

    def next_one(n):
        shutil.copytree(folder / "3", folder / str(n + 1))
        all_of(folder / str(n))

    # The next is copied from the third, which stays, and so is not the latest.
    shutil.copytree(folder / "3", folder / "10")
    waiting = meanwhile(monkeypatch, *[lambda n=n: next_one(n) for n in range(10, 20)])
    with pytest.raises(FileNotFoundError, match="are deleted faster than they can be read: keep more"):
        read_arrays(folder)
    assert len(waiting) == 5
