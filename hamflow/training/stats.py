"""`stats.jsonl`: one JSON object a line, one line a step."""

import json
import math
import os
import pathlib
from types import TracebackType
from typing import Any

from hamflow._types import checked
from hamflow.serialization import write_atomically


class StatsLog:
    """Appends one line a step to a file, flushed at once.

    - `path`: the file; it is made if it is not there.
    - `first_step`: the next step that will be written. Lines of that step and later ones are dropped: a run that is
      resumed from a checkpoint repeats those steps, and nothing is to be there twice. So is a line that a crash cut.

    Raises `PermissionError` or `FileNotFoundError` with the path.
    """

    @checked
    def __init__(self, path: str | os.PathLike, *, first_step: int = 0):
        self.path = pathlib.Path(path)
        kept = []
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _step(line) < first_step]
            if kept != lines:
                write_atomically(self.path, "".join(kept).encode())
        try:
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        except PermissionError:
            raise PermissionError(f"{self.path} cannot be written: you may not write there.") from None

    def write(self, record: dict[str, Any]) -> None:
        """Append a record. A number that is not finite becomes a string, since JSON knows none."""
        plain = {name: value if _is_json(value) else str(value) for name, value in record.items()}
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "StatsLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_stats(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a `stats.jsonl`, in order; a last line that a crash cut short is left out."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _step(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
