"""Class labels as EDM stores them: `dataset.json` with `{"labels": [["00000/img00000000.png", 3], ...]}`."""

import json
import reprlib
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

LABEL_FILE = "dataset.json"


class MissingLabelsError(ValueError):
    """Labels were asked for, and the data set has none."""


def max_label_bytes(num_pictures: int) -> int:
    """The largest `dataset.json` that is read: a kilobyte a picture, and four million for what else stands in it."""
    return (1 << 22) + (num_pictures << 10)


def parse_labels(text: bytes | None, names: Sequence[str], where: str) -> np.ndarray:
    """Return the labels of the pictures `names`, int32 (len(names),), from the contents of a `dataset.json`.

    `text` is None where there is no such file. Keys other than "labels" are left alone. Raises `ValueError`, beginning
    with `where`, if there are no labels, if pictures and labels do not match one to one, or if a label is not a whole
    number from 0 on, or is so large that there would be far more classes than pictures.
    """
    if text is None:
        raise MissingLabelsError(f"{where} has no labels: there is no {LABEL_FILE} at its top. {_REMEDY}")
    if len(text) > max_label_bytes(len(names)):
        most = max_label_bytes(len(names))
        raise ValueError(f"{where}: {LABEL_FILE} has more than {most} bytes for {len(names)} pictures. {_REMEDY}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # lists in lists in lists
        raise ValueError(f"{where}: {LABEL_FILE} is not valid JSON ({error}). {_REMEDY}") from error
    entries = content.get("labels") if isinstance(content, dict) else None
    if entries is None:
        raise MissingLabelsError(f'{where} has no labels: {LABEL_FILE} has no list "labels". {_REMEDY}')
    if not isinstance(entries, list):
        raise ValueError(f'{where}: "labels" in {LABEL_FILE} is a {type(entries).__name__}, not a list. {_REMEDY}')
    table: dict[str, int] = {}
    names = [_same(name) for name in names]
    for entry in entries:
        name, label = _name_and_label(entry, where)
        name = _same(name)
        if name in table:
            raise ValueError(f"{where}: {LABEL_FILE} labels {_cut(name)} twice. Leave one of the two.")
        table[name] = label
    _check_matching(table, names, where)
    largest = max(table, key=lambda name: table[name])
    check_num_classes(table[largest] + 1, len(names), f"{where}: the label of {largest} in {LABEL_FILE}")
    return np.asarray([table[name] for name in names], np.int32)


def _same(name: str) -> str:
    """One spelling of a name: forward slashes, which zips made on Windows may lack, and composed letters."""
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def check_num_classes(num_classes: int, num_images: int, where: str) -> None:
    """Raise `ValueError` if labels go so far above the number of pictures that they can be no numbers of classes.

    A few pictures of a set of a thousand classes are fine; an identifier in the place of a class would make a network
    learn a vector for each number below it.
    """
    if num_classes > max(_ALWAYS_CLASSES, num_images):
        raise ValueError(
            f"{where} is {num_classes - 1}, which makes {num_classes} classes of {num_images} pictures. "
            "Number the classes 0, 1, 2, ... without gaps."
        )


_ALWAYS_CLASSES = 1000  # as many as ImageNet has
_REMEDY = f'Pass labels=False, or write {LABEL_FILE} as {{"labels": [["00000/img00000000.png", 3], ...]}}.'


_MATCH = f"Give {LABEL_FILE} one label for each picture, under the name that it has here."


def _name_and_label(entry: Any, where: str) -> tuple[str, int]:
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
        raise ValueError(f"{where}: {LABEL_FILE} holds {_short(entry)} where [file name, label] is expected.")
    name, label = entry
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < 2**31:
        raise ValueError(
            f"{where}: the label of {_cut(name)} in {LABEL_FILE} is {_short(label)}; labels are 0, 1, 2, ..."
        )
    return name, label


def _check_matching(table: dict[str, int], names: Sequence[str], where: str) -> None:
    unlabelled = [name for name in names if name not in table]
    unknown = sorted(set(table).difference(names))
    if unlabelled or unknown:
        faults = [f"no label for {_first_of(unlabelled)}"] if unlabelled else []
        faults += [f"no picture for the label of {_first_of(unknown)}"] if unknown else []
        counts = f"{len(table)} labels for {len(names)} pictures"
        raise ValueError(f"{where}: {LABEL_FILE} has {counts}: {'; '.join(faults)}. {_MATCH}")


def _first_of(names: Sequence[str]) -> str:
    return _cut(names[0]) if len(names) == 1 else f"{_cut(names[0])} and {len(names) - 1} more"


def _cut(name: str) -> str:
    """A name as it is; of one that is no name, a megabyte long, the beginning."""
    return name if len(name) <= 300 else f"{name[:300]}..."


def _short(value: Any) -> str:
    """What stands in the file, whatever it is, in a few words."""
    words = reprlib.Repr()
    words.maxstring = words.maxother = words.maxlong = 100
    return words.repr(value)
