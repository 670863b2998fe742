"""The hook that runs tutorials: what is printed and drawn is in the page, and a failing cell stops the build."""

import html
import os
import re
import sys

import pytest

CONFIGURATION = """
site_name: tiny
theme: {{name: mkdocs}}
plugins: []
hooks: ["{hooks}/tutorials.py"]
markdown_extensions: [attr_list, pymdownx.superfences]
nav: [index.md, tutorials/tiny.md]
"""
WORKING = """# %% [markdown]
# # A tiny page
#
# Some words.

# %%
import os, sys
print("six times seven is", 6 * 7)
print("progress 1\\rprogress 2")
print("python", os.path.realpath(sys.executable))
print("here", os.listdir("."))

# %%
"```"

# %% alt="A straight line"
import matplotlib.pyplot as plt
plt.plot([0, 1])
plt.show()
"""
FAILING = """# %% [markdown]
# # A page that fails

# %%
ratio = 0
1 * ratio

# %%
1 / ratio
"""


@pytest.fixture
def tiny_site(tmp_path, build, hooks):
    def make(tutorial):
        (tmp_path / "docs" / "tutorials").mkdir(parents=True)
        (tmp_path / "docs" / "index.md").write_text("# Home\n")
        (tmp_path / "docs" / "tutorials" / "tiny.py").write_text(tutorial)
        (tmp_path / "mkdocs.yml").write_text(CONFIGURATION.format(hooks=hooks))
        return build(tmp_path, tmp_path / "site"), tmp_path / "site"

    return make


def test_output_and_figures_are_in_the_page(tiny_site):
    result, site = tiny_site(WORKING)
    assert result.returncode == 0, result.stdout + result.stderr
    page = (site / "tutorials" / "tiny" / "index.html").read_text()
    printed = [html.unescape(code) for code in re.findall(r'class="output .*?<code>(.*?)</code>', page, re.DOTALL)]
    python = os.path.realpath(sys.executable)  # the build's own, whatever kernel a person registered
    assert [text.splitlines() for text in printed] == [
        ["six times seven is 42", "progress 2", f"python {python}", "here []"],
        ["'```'"],
    ]
    assert 'href="../tiny.py"' in page
    assert 'alt="A straight line"' in page
    assert 'src="../tiny_files/figure-1.png"' in page
    assert (site / "tutorials" / "tiny_files" / "figure-1.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_an_exception_stops_the_build_and_names_the_cell(tiny_site):
    result, _ = tiny_site(FAILING)
    assert result.returncode != 0
    assert "tiny.py, line 9, cell 3 failed" in result.stderr
    assert "ZeroDivisionError: division by zero" in result.stderr
    assert "\x1b[" not in result.stderr
