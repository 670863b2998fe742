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
        ({"labels": [["a.png", 0]]}, r"1 labels for 2 pictures: no label for b\.png\."),
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
    with pytest.raises(ValueError, match="not valid JSON"):
        parse_labels(b'{"labels": [', NAMES, "here")
