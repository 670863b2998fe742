"""`stats.jsonl`: one JSON object a line, one line a step."""

import contextlib
import json
import math
import os
from types import TracebackType
from typing import Any

from hamflow._paths import as_path
from hamflow._types import checked
from hamflow.serialization import write_atomically


class StatsLog:
    """Appends one line a step to a file, flushed at once.

    - `path`: the file; it is made if it is not there.
    - `first_step`: the next step that will be written. Lines of that step and later ones are dropped: a run that is
      resumed from a checkpoint repeats those steps, and nothing is to be there twice. So is a line that is no record,
      cut by a crash or written by something else; `num_damaged` counts those that end in a newline.

    A record has a whole number as its `step`, and numbers as its `images` and `loss` where it has them. Raises
    `PermissionError`, `FileNotFoundError` or another `OSError` (a full disk) with the path.
    """

    @checked
    def __init__(self, path: str | os.PathLike, *, first_step: int = 0):
        self.path = as_path(path)
        self.num_damaged = 0
        if self.path.exists():
            lines = self.path.read_bytes().decode("utf-8", "replace").split("\n")
            records = [_record(line) for line in lines[:-1]]  # what is behind the last newline is no whole line
            self.num_damaged = records.count(None)
            kept = [
                f"{line}\n"
                for line, record in zip(lines, records, strict=False)
                if record is not None and record["step"] < first_step
            ]
            if kept != [f"{line}\n" for line in lines[:-1]] or lines[-1]:
                write_atomically(self.path, "".join(kept).encode())
        try:
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        except PermissionError:
            raise PermissionError(f"{self.path} cannot be written: you may not write there.") from None

    def write(self, record: dict[str, Any]) -> None:
        """Append a record. A number that is not finite becomes a string, since JSON knows none."""
        plain = {name: value if _is_json(value) else str(value) for name, value in record.items()}
        try:
            self._file.write(json.dumps(plain, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # of what `write` could not write, and said so
            self._file.close()

    def __enter__(self) -> "StatsLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_stats(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a `stats.jsonl`, in order; a last line that a crash cut short is left out.

    Raises `ValueError` with the file and the line for one that is no record of a step.
    """
    lines = as_path(path).read_bytes().decode("utf-8", "replace").split("\n")[:-1]
    records = []
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is None:
            raise ValueError(f"{path}, line {number}, is no record of a step: {line[:60]!r}. Take it out.")
        records.append(record)
    return records


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    numbers = (record.get(name, 0) for name in ("images", "loss"))
    return record if all(type(number) in (int, float) for number in numbers) else None
