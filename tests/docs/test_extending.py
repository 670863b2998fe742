"""The page *Extending*: its snippets are one program, and it runs."""

import re
from pathlib import Path

import jax
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets() -> list[tuple[int, str]]:
    """(line, code) of every Python block."""
    text = PAGE.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start(1)) + 1, found[1]) for found in SNIPPET.finditer(text)]


@pytest.fixture(scope="module")
def namespace():
    """After all blocks, in order, with jax's own settings, as in a reader's program."""
    names: dict = {"__name__": "extending"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for line, code in snippets():
            exec(compile("\n" * (line - 1) + code, str(PAGE), "exec"), names)  # errors name the line of the page
    return names


def test_every_block_of_the_page_is_a_snippet():
    assert len(snippets()) == PAGE.read_text(encoding="utf-8").count("```python")
    assert len(snippets()) > 10


def test_the_snippets_run(namespace):
    assert namespace["report"].passed


def test_every_extension_point_has_its_section():
    text = PAGE.read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[[^]]+\]\(#([\w-]+)\)", text, re.MULTILINE)
    sections = [title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", text, re.MULTILINE)]
    assert linked == sections
