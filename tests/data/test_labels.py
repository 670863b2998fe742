"""dataset.json: what is read and what is refused."""

import json

import numpy as np
import pytest

from hamflow.data.labels import parse_labels

NAMES = ["a.png", "b.png"]


def parse(content: object, names=NAMES):
    return parse_labels(json.dumps(content).encode(), names, "here")


def test_labels_are_put_in_the_order_of_the_names():
    labels = parse({"labels": [["b.png", 7], ["a.png", 0]], "class_names": ["x"]})
    np.testing.assert_array_equal(labels, [0, 7])
    assert labels.dtype == np.int32


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"labels": None}, 'has no labels.*no list "labels".*labels=False'),
        ({}, "has no labels"),
        ([], "has no labels"),
        ({"labels": {"a.png": 0, "b.png": 1}}, "is a dict, not a list"),
        ({"labels": [["a.png", 0], "b.png"]}, r"holds 'b\.png' where \[file name, label\]"),
        ({"labels": [["a.png", 0], ["a.png", 1], ["b.png", 0]]}, r"labels a\.png twice"),
        ({"labels": [["a.png", -1], ["b.png", 0]]}, r"label of a\.png.* is -1"),
        ({"labels": [["a.png", 0], ["b.png", 1.5]]}, r"label of b\.png.* is 1\.5"),
        ({"labels": [["a.png", 0], ["b.png", True]]}, r"label of b\.png.* is True"),
        ({"labels": [["a.png", 0], ["b.png", [0, 1]]]}, r"label of b\.png.* is \[0, 1\]"),
        ({"labels": [["a.png", 0], ["b.png", 2**31]]}, r"label of b\.png.* is 2147483648"),
        ({"labels": [["a.png", 0], ["b.png", "3"]]}, r"label of b\.png.* is '3'"),
        ({"labels": [["a.png", 0], ["b.png", None]]}, r"label of b\.png.* is None"),
        ({"labels": [["a.png", 0], ["b.png", float("nan")]]}, r"label of b\.png.* is nan"),
        ({"labels": [["a.png", 0], ["b.png", 1000]]}, r"label of b\.png.* is 1000, which makes 1001 classes of 2"),
        ({"labels": "a.png"}, "is a str, not a list"),
        ({"labels": [["a.png", 0, 1], ["b.png", 0]]}, r"holds \['a\.png', 0, 1\] where"),
        ("labels", "has no labels"),
        (
            {"labels": [["a.png", 0]]},
            r"1 labels for 2 pictures: no label for b\.png\. Give dataset\.json one label for each",
        ),
        ({"labels": []}, r"0 labels for 2 pictures: no label for a\.png and 1 more"),
        (
            {"labels": [["a.png", 0], ["b.png", 0], ["c.png", 0]]},
            r"3 labels for 2 pictures: no picture for the label of c\.png",
        ),
        ({"labels": [["a.png", 0], ["c.png", 0]]}, r"no label for b\.png; no picture for the label of c\.png"),
    ],
)
def test_labels_that_do_not_fit_are_refused(content, reason):
    with pytest.raises(ValueError, match=f"^here.*{reason}"):
        parse(content)


def test_a_missing_and_a_broken_file_are_refused():
    with pytest.raises(ValueError, match=r"^here has no labels: there is no dataset\.json at its top.*labels=False"):
        parse_labels(None, NAMES, "here")
    for damaged in (b'{"labels": [', b"", b"\x89PNG\r\n\x1a\n\x00", bytes(range(128, 256))):
        with pytest.raises(ValueError, match=r"^here: dataset\.json is not valid JSON .*Pass labels=False, or write"):
            parse_labels(damaged, NAMES, "here")


def test_the_labels_of_a_thousand_classes_are_fine_and_of_as_many_as_there_are_pictures():
    assert parse({"labels": [["a.png", 999], ["b.png", 0]]}).max() == 999
    names = [f"{i}.png" for i in range(1200)]
    assert parse({"labels": [[name, i] for i, name in enumerate(names)]}, names).max() == 1199
