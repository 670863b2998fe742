"""What the flags of a command take: seeds, classes, numbers in a range. Each refusal says what would do."""

import math
import re
from argparse import ArgumentTypeError

LARGEST_SEED = 2**32 - 1  # jax.random.key takes 32 bits and drops those above without a word
_MOST_SEEDS = 10_000_000


def seeds(text: str) -> list[int]:
    """`0-63`, `3` or `1,5,9-12`, in the order given; a seed given twice counts once."""
    found: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part, re.ASCII)
        if match is None:
            raise ArgumentTypeError(
                f"{part.strip()!r} is no seed and no range, in {text!r}: give 0-63, 3 or 1,5,9-12, none negative"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if max(first, last) > LARGEST_SEED:
            raise ArgumentTypeError(f"{part.strip()} is above {LARGEST_SEED} = 2^32 - 1, the largest seed")
        if last < first:
            raise ArgumentTypeError(f"{part.strip()} is an empty range: give {last}-{first}")
        if len(found) + last - first >= _MOST_SEEDS:
            raise ArgumentTypeError(f"{text} is more than {_MOST_SEEDS} seeds: give a part of them at a time")
        found.update(dict.fromkeys(range(first, last + 1)))
    return list(found)


def seed(text: str) -> int:
    """One seed."""
    if re.fullmatch(r"\d+", text, re.ASCII) is None or int(text) > LARGEST_SEED:
        raise ArgumentTypeError(f"{text} must be a whole number from 0 to {LARGEST_SEED}")
    return int(text)


def label(text: str) -> int | str:
    """A class, or `null`."""
    if text == "null":
        return text
    if re.fullmatch(r"\d+", text, re.ASCII) is None:
        raise ArgumentTypeError(f"{text!r} must be the number of a class, 0, 1, 2, ..., or null")
    return int(text)


def at_least(least: int):
    """A whole number from `least` on."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise ArgumentTypeError(f"{text!r} must be a whole number of at least {least}")
        return value

    return number


def finite(text: str) -> float:
    """A number, neither infinite nor NaN."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text!r} must be a finite number")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = finite(text)
    if not value > 0.0:
        raise ArgumentTypeError(f"{text!r} must be positive")
    return value
