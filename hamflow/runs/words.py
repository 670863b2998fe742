"""What is said to the person at the terminal."""

from typing import Any

from .. import training


def say(*words: object, **options: Any) -> None:
    """Print, in the first of several processes."""
    if training.is_first_process():
        print(*words, **options)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
