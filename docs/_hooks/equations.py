"""Equations become MathML when the site is built, so a page needs no script to show them.

The Markdown extension `pymdownx.arithmatex` finds the TeX, in pages, docstrings and tutorials alike; math-core turns it
into MathML Core, which every current browser draws by itself. An equation it cannot read stops the build and is named.
A browser draws MathML well only in a font with an OpenType MATH table, and few systems have one: STIX Two Math, under
the SIL Open Font License, ships with the site, cut down to the characters that mathematics here can need.
"""

import html
import importlib.util
import re
from pathlib import Path

from fontTools import subset
from math_core import LatexError, LatexToMathML
from mkdocs.exceptions import PluginError

FONT_URI = "assets/fonts/stix-two-math.woff"

_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\(?:\((.*?)\\\)|\[(.*?)\\\])</\1>', re.DOTALL)
_TAG = re.compile(r"<[^>]+>")

# Letters, digits and Greek with their bold, italic and calligraphic forms: a browser replaces x by its italic form, so
# the character that is drawn need not stand in the page. Further symbols are added as the pages use them.
_ALPHABETS = [(0x20, 0x7F), (0x391, 0x3D7), (0x1D400, 0x1D504), (0x1D6A4, 0x1D736)]
_SYMBOLS = "\u210e\u2102\u2115\u211d\u2124\u2112\u2202\u2207\u2211\u220f\u222b\u221a\u2212\u2032"


def to_mathml(content: str, name: str) -> str:
    """Replace the equations of a page's HTML by MathML; `name` stands in the error for one that cannot be read."""
    equations = [(html.unescape(m[2] or m[3]), m[3] is not None) for m in _EQUATION.finditer(content)]
    try:
        # A whole page at once, so that an equation can be referred to before it is numbered.
        converted = iter(LatexToMathML(fancy_error=False).convert_all(equations))
    except LatexError as error:
        index, column, problem = re.fullmatch(r"input(\d+):(\d+): (.*)", str(error), re.DOTALL).groups()
        source = equations[int(index)][0].strip()
        raise PluginError(f"{name}: cannot read the equation {source!r} at character {column}: {problem}") from None

    def replace(match):
        mathml = next(converted)
        # The search index would hold the letters of a display equation as one word.
        return mathml if match[3] is None else f'<div class="equation" data-search-exclude>{mathml}</div>'

    return _EQUATION.sub(replace, content)


def write_font(path: Path, characters: set[str]) -> None:
    """Write STIX Two Math as a web font with the alphabets of mathematics and `characters`."""
    # ziamath carries the font; finding the package does not import it.
    source = Path(importlib.util.find_spec("ziamath").origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    options = subset.Options(flavor="woff", layout_features=["ssty", "dtls", "flac", "ccmp", "mark", "mkmk"])
    options.name_IDs = ["*"]  # the copyright and the licence travel inside the font
    options.hinting = False
    options.ignore_missing_unicodes = True
    subsetter = subset.Subsetter(options)
    wanted = {ord(c) for c in characters.union(_SYMBOLS)}
    subsetter.populate(unicodes=wanted.union(*(range(*alphabet) for alphabet in _ALPHABETS)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with subset.load_font(str(source), options) as font:
        subsetter.subset(font)
        subset.save_font(font, str(path), options)


_used: set[str] = set()


def on_pre_build(config):
    _used.clear()


def on_page_content(content, page, config, files):
    content = to_mathml(content, page.file.src_uri)
    for mathml in re.findall(r"<math.*?</math>", content, re.DOTALL):
        _used.update(html.unescape(_TAG.sub("", mathml)))
    return content


def on_post_build(config):
    write_font(Path(config.site_dir) / FONT_URI, _used)
