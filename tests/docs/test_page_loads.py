"""The reader of pages finds every planted way to load a thing from another host, and none of the plain links."""

import page_loads
import pytest

FOREIGN = [
    '<script src="https://host.example/a.js"></script>',
    '<script type="module">import a from "https://host.example/a.js"</script>',
    "<script>import('//host.example/a.js')</script>",
    "<script>fetch(`https://host.example/${name}`)</script>",
    '<script>new WebSocket("wss://host.example")</script>',
    '<img src="//host.example/a.png">',
    '<IMG SRC=" HTTPS://host.example/a.png">',
    '<img src="\\\\host.example/a.png">',
    '<img srcset="a.png 1x, https://host.example/b.png 2x">',
    '<img src="a.png" onerror="this.src=\'https://host.example/b.png\'">',
    '<link rel="stylesheet" href="https://host.example/a.css">',
    '<link rel="preconnect" href="https://host.example">',
    '<link rel="alternate stylesheet" href="https://host.example/a.css">',
    '<link rel="icon" href="https://host.example/a.ico">',
    '<link href="https://host.example/a.css">',
    '<iframe src="https://host.example"></iframe>',
    "<iframe srcdoc=\"<img src='https://host.example/a.png'>\"></iframe>",
    '<video poster="https://host.example/a.png"></video>',
    '<object data="https://host.example/a.svg"></object>',
    '<svg><use xlink:href="https://host.example/a.svg#b"/></svg>',
    '<svg><image href="https://host.example/a.png"/></svg>',
    '<base href="https://host.example/">',
    '<meta http-equiv="refresh" content="0; URL=https://host.example">',
    '<p style="background: url(https://host.example/a.png)">',
    "<style>@import 'https://host.example/a.css';</style>",
]
LOCAL = [
    '<a href="https://host.example/paper">the paper</a>',
    '<link rel="canonical" href="https://host.example/">',
    '<script src="../assets/a.js"></script><link rel="stylesheet" href="a.css"><img src="data:image/png;base64,AA==">',
    '<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    '<pre>&lt;script src="https://host.example/a.js"&gt;</pre> see https://host.example',
    "<style>a { background: url(\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>\") }</style>",
]
FOREIGN_CSS = [
    "a { background: url(https://host.example/a.png) }",
    "a { background: url( '//host.example/a.png' ) }",
    '@font-face { src: local("A"), url("https://host.example/a.woff") }',
    '@import "https://host.example/a.css";',
    "@import url(//host.example/a.css);",
    'a { background: image-set("a.png" 1x, "https://host.example/b.png" 2x) }',
]
LOCAL_CSS = [
    "/* from https://host.example, url(https://host.example/a.png) */ a { color: red }",
    'a::after { content: "https://host.example" }',
    'a { background: url("../a.png"), url(b.png) }',
]


def foreign(addresses):
    return [address for address in addresses if page_loads.is_foreign(address)]


@pytest.mark.parametrize("text", FOREIGN)
def test_a_planted_load_is_found(text):
    assert len(foreign(page_loads.html_loads(text))) == 1


@pytest.mark.parametrize("text", LOCAL)
def test_a_link_is_not_a_load(text):
    assert foreign(page_loads.html_loads(text)) == []


@pytest.mark.parametrize("text", FOREIGN_CSS)
def test_a_planted_load_in_css_is_found(text):
    assert len(foreign(page_loads.css_loads(text))) == 1


@pytest.mark.parametrize("text", LOCAL_CSS)
def test_css_without_a_foreign_load(text):
    assert foreign(page_loads.css_loads(text)) == []


def test_local_loads_are_listed_too():
    assert page_loads.html_loads('<img src="a.png" srcset="b.png 2x, c.png 3x">') == ["a.png", "b.png", "c.png"]
    assert page_loads.css_loads('@import "a.css"; b { background: url(c.png) }') == ["a.css", "c.png"]
