"""A folder for each run, named after its settings, with the settings in it as `config.json`."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hamflow._paths import as_path
from hamflow._types import checked
from hamflow.serialization import write_atomically

FREE_FIELDS = frozenset({"duration", "outdir", "resume", "dry_run"})
"""Settings that a resumed run may change: how long it lasts and where it lies."""

_ABSENT = "(absent)"


@checked
def check_ranges(config: Any, ranges: Mapping[str, tuple[float | int, float | int]]) -> None:
    """Raise `ValueError` for the first field of `config` that is not in its range: `low <= value < high`.

    It is named as the flag that it is on a command line, `lr_decay` as `--lr-decay`.

    ```python
    check_ranges(config, {"batch": (1, math.inf), "dropout": (0, 1)})
    ```
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value < high:  # nan is nowhere
            raise ValueError(f"--{name.replace('_', '-')} is {value}: it must be in [{low:g}, {high:g}).")


@checked
def make_run_folder(outdir: str | os.PathLike, name: str, config: Any) -> pathlib.Path:
    """Make the next run folder in `outdir`, such as `00003-faces-32-oscillation-batch64-seed0`, and write its settings.

    - `outdir`: the folder of all runs, made if it is not there.
    - `name`: what to call the run; whatever is no letter, digit, dot or dash becomes a dash.
    - `config`: a dataclass or a mapping, written to `config.json`.

    Raises `NotADirectoryError`, `PermissionError` or another `OSError` (a full disk), naming `outdir`, before anything
    was computed.
    """
    outdir = as_path(outdir)
    name = re.sub(r"[^\w.-]+", "-", name).strip("-")
    content = _to_json(config)
    with _named(outdir):
        outdir.mkdir(parents=True, exist_ok=True)
        while True:
            numbers = [int(match[1]) for path in outdir.iterdir() if (match := re.match(r"(\d{5,})-", path.name))]
            folder = outdir / f"{max(numbers, default=-1) + 1:05}-{name}"
            try:
                folder.mkdir()
                break
            except FileExistsError:  # another run took the number a moment ago
                continue
        write_atomically(folder / "config.json", content)
    return folder


def check_outdir(outdir: str | os.PathLike) -> None:
    """Raise what `make_run_folder` would raise if nothing can be made in `outdir`, and leave nothing there."""
    with _named(outdir):
        place = as_path(outdir).absolute()
        while not _is_there(place):
            place = place.parent
        with tempfile.TemporaryDirectory(dir=place):  # only trying tells: permissions, a read-only disk, /proc
            pass


def _is_there(path: pathlib.Path) -> bool:
    try:
        os.stat(path)  # and no `exists`, which takes a name that is too long for one that is free
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _named(outdir: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"outdir {outdir} is not a folder: give another one.") from None
    except PermissionError:
        raise PermissionError(f"outdir {outdir} cannot be written by you: give another one.") from None
    except OSError as error:
        raise OSError(f"outdir {outdir} cannot be written ({error.strerror}): give another one.") from None


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """The settings of a run, as it was started or last resumed.

    Raises `FileNotFoundError` or `ValueError` if the folder is none of a run.
    """
    path = as_path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{folder} is not the folder of a run: there is no config.json in it.") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no settings.")
    return config


@checked
def check_same_config(
    folder: str | os.PathLike, config: Any, *, free: Collection[str] = FREE_FIELDS, override: bool = False
) -> dict[str, str]:
    """Raise `ValueError`, with the differences field by field, if a run was made with other settings than `config`.

    Fields in `free` may differ; so may fields inside them (`duration` covers `duration.images`). Returns those that do,
    with the difference in words, to be shown: `{"lr": "0.015 in the run, 0.005 now"}`. With `override` every field may
    differ; hand the settings to `update_config`, so that what the run was until then is on record.
    """
    old, new = _flat(read_config(folder)), _flat(json.loads(_to_json(config)))
    differences = {
        name: f"{_show(old, name)} in the run, {_show(new, name)} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    }
    allowed = {name: words for name, words in differences.items() if override or name.partition(".")[0] in free}
    refused = [f"  {name}: {words}" for name, words in differences.items() if name not in allowed]
    if refused:
        raise ValueError(
            f"{folder} was made with other settings:\n" + "\n".join(refused) + "\n"
            "Resume with the settings of the run, start a new run with these, or accept them with override=True."
        )
    return allowed


@checked
def update_config(folder: str | os.PathLike, config: Any, step: int) -> None:
    """Make `config` the settings of a run from `step` on, so that it goes on with them when it is resumed again.

    Those before are kept as `config-until-<step>.json`. Raises `OSError` with the path if that cannot be written.
    """
    path, content = as_path(folder) / "config.json", _to_json(config)
    before = path.read_bytes()
    if content != before:
        until = path.with_name(f"config-until-{step}.json")
        if not until.exists():  # else those before it made no step
            write_atomically(until, before)
        write_atomically(path, content)


def _to_json(config: Any) -> bytes:
    return (json.dumps(_plain(config, "config"), indent=2) + "\n").encode()


def _plain(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and value - value != 0:  # JSON has no inf and no nan
        return repr(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}: a config.json holds numbers, strings, paths and lists.")


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _show(config: dict[str, Any], name: str) -> str:
    return json.dumps(config[name]) if name in config else _ABSENT
