"""Signals: the first asks, the second ends; afterwards everything is as before."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from hamflow.training import StopOnSignal, exit_on_interrupt, interrupt, resume_command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_only_asks(number, capfd):
    before = signal.getsignal(number)
    with StopOnSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal is number
    assert signal.getsignal(number) is before
    assert stop.exit_code == 128 + number
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


@pytest.mark.parametrize(
    "numbers", [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM"), ("SIGHUP", "SIGTERM")]
)
def test_the_second_signal_leaves_at_once(numbers):
    source = str(pathlib.Path(interrupt.__file__))
    ended = subprocess.run([sys.executable, "-c", SCRIPT, source, *numbers], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "still here True\n"
    assert ended.returncode == -signal.Signals[numbers[1]]


@pytest.mark.parametrize("first", ["SIGINT", "SIGHUP"])
def test_a_hang_up_that_is_not_the_first_signal_changes_nothing(first):
    """A shell and the kernel both send one when a terminal is closed."""
    source = str(pathlib.Path(interrupt.__file__))
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, source, first, "SIGHUP"], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout == "still here True\nnever\n"
    assert ended.returncode == 0


def test_an_ignored_hang_up_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopOnSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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


def test_ctrl_c_ends_with_a_message_and_130(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_interrupt("All is saved."):
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == "\nAll is saved.\n"
    with pytest.raises(ValueError, match="other"), exit_on_interrupt("All is saved."):
        raise ValueError("other")


def test_sigterm_does_what_it_did_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with exit_on_interrupt("All is saved."):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_signal_reaches_another_thread():
    said = []

    def run():
        with exit_on_interrupt("All is saved."):
            said.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert said == [before]


LEAVING = """
import atexit, importlib.util, sys, time
spec = importlib.util.spec_from_file_location("interrupt", sys.argv[1])
interrupt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupt)
def wait():  # as jax does for what it computes still
    print("leaving", flush=True)
    time.sleep(float(sys.argv[2]))
atexit.register(wait)
with interrupt.exit_on_interrupt("All is saved."):
    print("drawing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("SIGINT", None, 130),
        ("SIGTERM", None, 143),
        ("SIGINT", "SIGINT", -signal.SIGINT),
        ("SIGTERM", "SIGTERM", -signal.SIGTERM),
        ("SIGTERM", "SIGINT", -signal.SIGINT),
    ],
)
def test_a_process_leaves_with_the_message_and_no_traceback(first, second, code):
    """The first signal in the middle of it, the second while the interpreter waits at its end."""
    words = [sys.executable, "-c", LEAVING, str(pathlib.Path(interrupt.__file__)), "60" if second else "0"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "drawing\n"
    child.send_signal(signal.Signals[first])
    assert child.stdout.readline() == "leaving\n"
    if second:
        child.send_signal(signal.Signals[second])
    _, err = child.communicate(timeout=60)
    assert err == "\nAll is saved.\n"
    assert child.returncode == code


@pytest.mark.parametrize(
    ("called", "script", "command"),
    [
        (["python3", "-u", "examples/ffhq.py", "--lr", "1"], "examples/ffhq.py", "python3 -u examples/ffhq.py"),
        (["/a b/python", "my $run.py"], "my $run.py", "'/a b/python' 'my $run.py'"),
        (["python", "-m", "ffhq"], "/x/ffhq.py", "python /x/ffhq.py"),
    ],
)
def test_the_command_to_go_on_can_be_pasted(monkeypatch, called, script, command):
    monkeypatch.setattr(sys, "orig_argv", called)
    monkeypatch.setattr(sys, "argv", [script])
    assert resume_command("runs/0 it's", "--lr", "1") == f"{command} --resume 'runs/0 it'\"'\"'s' --lr 1"
