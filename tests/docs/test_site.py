"""The built site, read file by file: it stands alone, its equations are drawn, and every public name has its place."""

import html
import inspect
import pkgutil
import re
from pathlib import Path

import page_loads
import pytest
from fontTools.ttLib import TTFont

import hamflow

DOCS = Path(__file__).parents[2] / "docs"

# Addresses in the theme's script that no page of ours loads, each with the thing that would make a browser load it.
NAMESPACE = re.compile(r"http://www\.w3\.org/[\w/]*")
ASLEEP = {
    "https://unpkg.com/mermaid@11/dist/mermaid.min.js": 'class="mermaid"',
    "https://api.github.com/repos/${e}/${t}": 'data-md-component="source"',
    "https://api.github.com/users/${e}": 'data-md-component="source"',
    "https://${e}/api/v4/projects/${encodeURIComponent(t)}": 'data-md-component="source"',
    # Only where the browser has no ResizeObserver: none that can draw MathML, which came later to each of them.
    "https://unpkg.com/resize-observer-polyfill": None,
}
CODE = re.compile(r"<(code|pre|script|style|math)\b.*?</\1>", re.DOTALL)
RAW_EQUATION = re.compile(r"\\[(\[]|\$\$|\$[^$\n<>]+\$|arithmatex")


@pytest.fixture(scope="module")
def pages(site):
    found = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {"index.html", "404.html"} <= found.keys()
    return found


@pytest.fixture(scope="module")
def loads(site, pages):
    """(file, address) of everything that the files of the site load, or could."""
    found = [(name, address) for name, text in pages.items() for address in page_loads.html_loads(text)]
    readers = {"*.svg": page_loads.html_loads, "*.css": page_loads.css_loads, "*.js": page_loads.js_addresses}
    for pattern, read in readers.items():
        for path in site.rglob(pattern):
            name = path.relative_to(site).as_posix()
            found += [(name, address) for address in read(path.read_text(encoding="utf-8"))]
    return found


def test_nothing_is_loaded_from_another_host(loads):
    foreign = [(name, address) for name, address in loads if page_loads.is_foreign(address)]
    assert [f for f in foreign if f[1] not in ASLEEP and not NAMESPACE.fullmatch(f[1])] == []


def test_what_sleeps_in_the_theme_is_not_woken(pages):
    for trigger in filter(None, set(ASLEEP.values())):
        assert [name for name, text in pages.items() if trigger in text] == []


def test_everything_that_is_loaded_is_there(site, loads):
    missing = []
    for name, address in loads:
        if not page_loads.is_foreign(address) and not address.startswith(("data:", "#")):
            path = re.split(r"[?#]", address)[0]
            start = site if path.startswith("/") else (site / name).parent
            target = start / path.lstrip("/")
            if not (target.is_file() or (target / "index.html").is_file()):
                missing.append((name, address))
    assert missing == []


def test_equations_are_drawn(pages):
    assert any("<math" in text for text in pages.values())
    raw = [(name, match[0]) for name, text in pages.items() for match in RAW_EQUATION.finditer(CODE.sub("", text))]
    assert raw == []


def test_the_equation_font_ships_with_its_characters(site, pages):
    equations = "".join(m[0] for text in pages.values() for m in re.finditer(r"<math.*?</math>", text, re.DOTALL))
    characters = {ord(c) for c in html.unescape(re.sub(r"<[^>]+>", "", equations)) if not c.isspace()}
    with TTFont(site / "assets" / "fonts" / "stix-two-math.woff") as font:
        assert "MATH" in font
        assert "SIL Open Font License" in font["name"].getDebugName(13)
        assert characters - font.getBestCmap().keys() == set()


def test_hooks_are_not_published(site):
    assert [path for path in site.rglob("*") if "_hooks" in path.parts] == []


@pytest.mark.parametrize("source", sorted(DOCS.glob("tutorials/*.py")), ids=lambda path: path.stem)
def test_a_tutorial_is_a_page_and_a_file_to_download(site, pages, source):
    page = pages[f"tutorials/{source.stem}/index.html"]
    assert f'href="../{source.name}"' in page
    assert (site / "tutorials" / source.name).read_bytes() == source.read_bytes()


def test_every_public_name_is_in_the_api(pages):
    anchors = {match[1] for text in pages.values() for match in re.finditer(r'id="hamflow\.[\w.]*?(\w+)"', text)}
    public = {n for n, value in vars(hamflow).items() if inspect.isclass(value) or inspect.isfunction(value)}
    assert {name for name in public if not name.startswith("_")} - anchors == set()


def test_every_room_has_its_page(pages):
    rooms = {module.name for module in pkgutil.iter_modules(hamflow.__path__) if not module.name.startswith("_")}
    assert {room for room in rooms if f"api/{room}/index.html" not in pages} == set()
