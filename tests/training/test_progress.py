"""What a person reads: a bar in a terminal, plain lines in a file."""

import io
import itertools
import re

import pytest
import rich.console

from hamflow.training import Progress, progress


@pytest.fixture
def clock(monkeypatch):
    """Half a second passes between two looks."""
    ticks = itertools.count(0.0, 0.5)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))


def run(console, num_steps=40, *, first_step=0, steps=None, **arguments):
    with Progress(num_steps, first_step=first_step, console=console, **arguments) as bar:
        for n in steps or range(first_step, num_steps):
            bar.update({"step": n, "images": 32 * (n + 1), "loss": 4.0 if n % 2 else 2.0})


def test_plain_lines_in_a_file(clock):
    file = io.StringIO()
    run(rich.console.Console(file=file, width=40), line_seconds=5.0)
    lines = file.getvalue().splitlines()
    assert "\x1b" not in file.getvalue()
    # One at the start, then every 5 s = 10 steps, and the last step.
    assert [line.split()[1] for line in lines] == ["1/40", "11/40", "21/40", "31/40", "40/40"]
    assert lines[0] == "step 1/40  32 images  loss 2"
    # 32 images in half a second; 29 steps of half a second are left after the eleventh.
    assert lines[1] == "step 11/40  352 images  64.0 images/s  0:00:14 left  loss 2.909"
    assert "0:00:00 left" in lines[-1]


def test_a_resumed_run_counts_its_own_steps(clock):
    file = io.StringIO()
    run(rich.console.Console(file=file, width=200), 110, first_step=100, line_seconds=0)
    assert file.getvalue().splitlines()[1] == "step 102/110  3264 images  64.0 images/s  0:00:04 left  loss 3"


def test_hours(clock):
    file = io.StringIO()
    run(rich.console.Console(file=file, width=200), 20_000, steps=[0, 1], line_seconds=0)
    assert "2:46:39 left" in file.getvalue()  # 19998 steps of half a second


def test_stacked_steps_come_all_at_once(monkeypatch):
    """Twenty steps of half a second each time: the rate is theirs in every line, and not that of the reading."""
    now, file = 0.0, io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress(100, console=rich.console.Console(file=file, width=200), line_seconds=0, window=10) as bar:
        for n in range(60):
            now = 10.0 * (n // 20 + 1) + 1e-6 * (n % 20)
            bar.update({"step": n, "images": 32 * (n + 1), "loss": 2.0, "seconds": 10.0 * (n // 20 + 1)})
    lines = file.getvalue().splitlines()
    assert [line.count("images/s") for line in lines] == 20 * [0] + 40 * [1]
    assert lines[21] == "step 22/100  704 images  64.0 images/s  0:00:39 left  loss 2"
    assert lines[59] == "step 60/100  1920 images  64.0 images/s  0:00:20 left  loss 2"


def test_a_bar_in_a_terminal():
    file = io.StringIO()
    run(rich.console.Console(file=file, force_terminal=True, width=120))
    assert "━" in file.getvalue()
    assert "step 40/40  1280 images" in file.getvalue()
    assert "images/s" in file.getvalue()


ALL = "step 183/1000  5856 images  64.0 images/s  0:06:48 left  loss 0.1234"
NO_IMAGES, NO_RATE = ALL.replace("  5856 images", ""), "step 183/1000  0:06:48 left  loss 0.1234"
BAR = len("━") * 20 + 1
WORD = len("training ")


@pytest.mark.parametrize(
    ("width", "word", "bar", "text"),
    [
        (WORD + BAR + len(ALL), True, True, ALL),
        (WORD + BAR + len(ALL) - 1, False, True, ALL),
        (BAR + len(ALL), False, True, ALL),
        (BAR + len(ALL) - 1, False, False, ALL),
        (len(ALL), False, False, ALL),
        (len(ALL) - 1, False, False, NO_IMAGES),
        (len(NO_IMAGES) - 1, False, False, NO_RATE),
        (40, False, False, NO_RATE),
        (39, False, False, "step 183/1000  loss 0.1234"),
    ],
)
def test_a_narrow_terminal_shows_the_step_and_the_loss(clock, width, word, bar, text):
    """183 steps of half a second and 32 images; 817 are left. Word, bar, images, rate and time go, in this order."""
    file = io.StringIO()
    console = rich.console.Console(file=file, force_terminal=True, width=width)
    with Progress(1000, console=console) as shown:
        for n in range(183):
            shown.update({"step": n, "images": 32 * (n + 1), "loss": 0.1234})
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).splitlines()[-1].rstrip()
    assert line.endswith(text)
    before = line.removesuffix(text)
    assert ("training" in before, "━" in before) == (word, bar)
    assert len(before) == WORD * word + BAR * bar
