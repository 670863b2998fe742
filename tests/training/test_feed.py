"""Batches on their way: none is lost, none comes twice, and an error comes in its place."""

import jax
import numpy as np
import pytest

from hamflow.training import device_mesh, feed, stack, stack_sizes

MESH = device_mesh(devices=jax.devices()[:1])


def rows(n):
    return {"x": np.full((4, 2), n, np.float32), "index": np.arange(4) + n}


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_every_batch_in_its_order_on_the_host_and_on_the_device(ahead):
    found = list(feed(map(rows, range(4)), MESH, ahead=ahead))
    assert [int(read["index"][0]) for read, _ in found] == [0, 1, 2, 3]
    for n, (read, batch) in enumerate(found):
        assert isinstance(read["x"], np.ndarray)
        assert isinstance(batch["x"], jax.Array)
        np.testing.assert_array_equal(batch["x"], rows(n)["x"])


def test_no_more_is_read_than_asked_for():
    asked = []
    batches = feed((asked.append(n) or rows(n) for n in range(100)), MESH, ahead=2)
    assert asked == []
    next(batches)
    assert asked == [0, 1, 2]
    next(batches)
    assert asked == [0, 1, 2, 3]


def broken():
    yield rows(0)
    yield rows(1)
    raise OSError("picture 7 is damaged")


def test_an_error_comes_after_all_that_was_read_before_it():
    batches = feed(broken(), MESH, ahead=5)
    assert [next(batches)[0]["index"][0] for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="picture 7 is damaged"):
        next(batches)


def test_stacks():
    stacks = list(stack(map(rows, range(100)), 3, total=7))
    assert [batch["x"].shape for batch in stacks] == [(3, 4, 2), (3, 4, 2), (1, 4, 2)]
    np.testing.assert_array_equal(np.concatenate([batch["index"][:, 0] for batch in stacks]), np.arange(7))
    assert list(stack(map(rows, range(2)), 3, total=0)) == []
    ((read, batch),) = feed(stack(map(rows, range(3)), 3, total=3), MESH, stacked=True)
    assert batch["x"].shape == read["x"].shape == (3, 4, 2)


def test_stacks_of_chosen_sizes():
    asked = []
    batches = (asked.append(n) or rows(n) for n in range(100))
    stacks = list(stack(batches, [2, 1, 3]))
    assert [batch["index"][:, 0].tolist() for batch in stacks] == [[0, 1], [2], [3, 4, 5]]
    assert asked == [0, 1, 2, 3, 4, 5]  # nothing is read that is not asked for
    assert [len(batch["x"]) for batch in stack(map(rows, range(7)), 3)] == [3, 3, 1]
    assert [len(batch["x"]) for batch in stack(map(rows, range(4)), iter([3, 3, 3]))] == [3, 1]
    assert [len(batch["x"]) for batch in stack(map(rows, range(99)), [3, 3, 3], total=5)] == [3, 2]


def test_no_stack_reaches_beyond_what_is_to_be_done():
    # Something after each 4 steps and after each 6: 4, 6, 8, 12, 16, 18, 20, and the end is at 23.
    assert list(stack_sizes(5, 4, 6, end_step=23)) == [4, 2, 2, 4, 4, 2, 2, 3]
    assert list(stack_sizes(3, 4, start_step=6, end_step=13)) == [2, 3, 1, 1]
    assert list(stack_sizes(50, 1000, 200, end_step=1000)) == [50] * 20
    assert list(stack_sizes(4, end_step=9)) == [4, 4, 1]
    assert list(stack_sizes(4, 2, start_step=9, end_step=9)) == []


def test_a_stack_is_cut_short_by_an_error_and_loses_nothing():
    stacks = stack(broken(), 5, total=100)
    assert next(stacks)["x"].shape == (2, 4, 2)
    with pytest.raises(OSError, match="picture 7 is damaged"):
        next(stacks)


def test_numbers_that_make_no_sense():
    with pytest.raises(ValueError, match="ahead is -1"):
        feed([], MESH, ahead=-1)
    with pytest.raises(ValueError, match="num_steps is 0"):
        next(stack([], 0, total=1))
    with pytest.raises(ValueError, match="num_steps is 0"):
        list(stack(map(rows, range(9)), [2, 0]))
    with pytest.raises(ValueError, match="num_steps is 0"):
        stack_sizes(0, end_step=3)
    with pytest.raises(ValueError, match="every is 0"):
        stack_sizes(2, 3, 0, end_step=3)
