"""Signals: the first asks, the second ends; afterwards everything is as before."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from hamflow.training import StopOnSignal, interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_asks(number, capfd):
    before = signal.getsignal(number)
    with StopOnSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal is number
    assert signal.getsignal(number) is before
    assert f"{number.name}: finishing this step, then saving. Once more" in capfd.readouterr().err


def test_without_a_signal_nothing_happens(capfd):
    before = signal.getsignal(signal.SIGINT)
    with StopOnSignal() as stop:
        pass
    assert not stop.requested
    assert signal.getsignal(signal.SIGINT) is before
    assert capfd.readouterr().err == ""


SCRIPT = """
import importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location("interrupt", sys.argv[1])
interrupt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupt)
with interrupt.StopOnSignal() as stop:
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    print("still here", stop.requested, flush=True)
    os.kill(os.getpid(), getattr(signal, sys.argv[3]))
    print("never", flush=True)
"""


@pytest.mark.parametrize("numbers", [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM")])
def test_the_second_signal_leaves_at_once(numbers):
    source = str(pathlib.Path(interrupt.__file__))
    ended = subprocess.run([sys.executable, "-c", SCRIPT, source, *numbers], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "still here True\n"
    assert ended.returncode == -signal.Signals[numbers[1]]


def test_another_thread_is_refused():
    caught = []

    def run():
        try:
            with StopOnSignal():
                pass
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])
