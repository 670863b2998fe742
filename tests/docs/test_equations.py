"""TeX in a page becomes MathML, and TeX that cannot be read stops the build."""

import pytest
from fontTools.ttLib import TTFont
from mkdocs.exceptions import PluginError


@pytest.fixture(scope="module")
def equations(load_hook):
    return load_hook("equations")


def test_inline_and_display(equations):
    page = r"""<p>with <span class="arithmatex">\(a &lt; b\)</span>,</p><div class="arithmatex">\[
    \begin{aligned} x &amp;= 1 \\ y &amp;= 2 \end{aligned}\]</div>"""
    converted = equations.to_mathml(page, "page.md")
    assert converted.startswith("<p>with <math><mi>a</mi><mo>&lt;</mo><mi>b</mi></math>,</p>")
    assert '<div class="equation" data-search-exclude><math display="block">' in converted
    assert converted.count("<mtr>") == 2
    assert "arithmatex" not in converted


def test_a_reference_finds_a_later_equation(equations):
    page = r"""<span class="arithmatex">\(\eqref{flow}\)</span>
    <div class="arithmatex">\[\begin{align} x \label{flow} \end{align}\]</div>"""
    converted = equations.to_mathml(page, "page.md")
    assert '<a href="#flow">(1)</a>' in converted
    assert 'id="flow"' in converted


def test_an_equation_that_cannot_be_read_is_named(equations):
    page = r"""<span class="arithmatex">\(x\)</span> <span class="arithmatex">\(\frac{1\)</span>"""
    with pytest.raises(PluginError, match=r"theory\.md: cannot read the equation '\\\\frac\{1' at character 7"):
        equations.to_mathml(page, "theory.md")


def test_the_font_has_the_characters_asked_for(equations, tmp_path):
    equations.write_font(tmp_path / "fonts" / "math.woff", {"\u2a7d"})
    with TTFont(tmp_path / "fonts" / "math.woff") as font:
        # x, its italic form, which the browser draws instead, and the character asked for
        assert {ord("x"), 0x1D465, 0x2A7D} <= font.getBestCmap().keys()
        assert "MATH" in font
