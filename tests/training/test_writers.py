"""Records on their way to a slow writer: none waited for, none lost, no error lost, no wait without end."""

import threading
import time

import pytest

from hamflow.training import InBackground, every


def test_every_third_step():
    seen = []
    write = every(3, seen.append)
    for n in range(8):
        write({"step": n})
    assert [record["step"] for record in seen] == [0, 3, 6]
    with pytest.raises(ValueError, match="num_steps is 0"):
        every(0, seen.append)


def test_a_slow_writer_does_not_hold_up_the_loop_and_loses_nothing():
    go, seen = threading.Event(), []

    def slow(record):
        assert go.wait(30)
        seen.append(record)

    with InBackground(slow) as background:
        for n in range(500):
            background.write(n)  # comes back though nothing can be written
        assert seen == []
        go.set()
    assert seen == list(range(500))


def test_a_full_queue_waits_and_drops_nothing():
    go, seen = threading.Event(), []

    def slow(record):
        assert go.wait(30)
        seen.append(record)

    background = InBackground(slow, capacity=2)
    loop = threading.Thread(target=lambda: [background.write(n) for n in range(10)], daemon=True)
    loop.start()
    loop.join(0.2)
    assert loop.is_alive()  # one in the writer's hands, two waiting
    go.set()
    loop.join(30)
    background.close()
    assert seen == list(range(10))


def failing(record):
    if record == 2:
        raise OSError("the disk is full")


def test_an_error_is_raised_by_the_next_write():
    background = InBackground(failing, capacity=3)

    def loop():
        for _ in range(3000):  # more than the queue holds: after an error nobody waits for room
            background.write(2)
            time.sleep(0.001)

    with pytest.raises(OSError, match="the disk is full"):
        loop()
    background.close()  # said once is enough


def test_an_error_of_the_last_record_is_raised_at_close():
    background = InBackground(failing)
    background.write(1)
    background.write(2)
    with pytest.raises(OSError, match="the disk is full"):
        background.close()


def test_after_an_error_nothing_more_is_written():
    seen = []

    def write(record):
        failing(record)
        seen.append(record)

    background = InBackground(write)
    for n in (1, 2, 3):
        background._queue.put(n)  # as if the loop had been faster than the error
    with pytest.raises(OSError, match="the disk is full"):
        background.close()
    assert seen == [1]


def test_an_error_of_the_loop_is_not_hidden():
    def loop():
        with InBackground(failing) as background:
            background.write(2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        loop()
    assert error.value.__notes__ == ["A writer failed too: the disk is full"]


def test_closed_twice_and_written_to_afterwards():
    background = InBackground(failing)
    background.close()
    background.close()
    with pytest.raises(ValueError, match="closed"):
        background.write(1)
    with pytest.raises(ValueError, match="capacity is 0"):
        InBackground(failing, capacity=0)
