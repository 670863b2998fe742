"""What a built page makes a browser load: read from its HTML, CSS and JavaScript, without a browser."""

import re
from html.parser import HTMLParser

# Links that a browser follows only when a person does.
_PASSIVE_RELATIONS = {"alternate", "author", "canonical", "help", "license", "next", "prev", "search"}
_LOADING_ATTRIBUTES = {"src", "poster", "data", "background", "manifest", "xlink:href"}
_LOADING_HREFS = {"base", "image", "use", "feimage", "script"}  # beside `link`

_FOREIGN = re.compile(r"\s*(?:(?:https?|wss?|ftp):|[/\\]{2})", re.IGNORECASE)
_CSS_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_CSS_STRING = re.compile(r""""((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|url\(\s*([^"'()\s]+)""", re.DOTALL)
_CSS_REFERENCE = re.compile(r"(?:url\(|@import|image-set\([^;}]*)\s*$")
# A host is a dotted name or is computed; a quotation mark before a comment is neither.
_JS_ADDRESS = re.compile(r"""["'`]\s*((?:(?:https?|wss?)://|//(?=[\w-]+\.\w|\$\{))[^\s"'`]*)""", re.IGNORECASE)


def is_foreign(address: str) -> bool:
    """Whether an address names a host, and so may be another one."""
    return _FOREIGN.match(address) is not None


def html_loads(text: str) -> list[str]:
    """The addresses that a page, or an SVG picture, loads; of its scripts, those that name a host."""
    page = _Page()
    page.feed(text)
    page.close()
    return page.loads


def css_loads(text: str) -> list[str]:
    """The addresses in `url(...)`, `@import` and `image-set(...)`."""
    text = _CSS_COMMENT.sub("", text)
    loads = []
    for match in _CSS_STRING.finditer(text):
        if match[3] or _CSS_REFERENCE.search(text[max(0, match.start() - 500) : match.start()]):
            loads.append(next(group for group in match.groups() if group is not None))
    return loads


def js_addresses(text: str) -> list[str]:
    """Every string of a script that begins with a host: what `import`, `fetch` or a new element could load."""
    return [match[1] for match in _JS_ADDRESS.finditer(text)]


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loads = []
        self.inside = None

    def handle_starttag(self, tag, attrs):
        attributes = {name: value or "" for name, value in attrs}
        self.inside = tag if tag in ("style", "script") else None
        self.loads += [value for name, value in attributes.items() if name in _LOADING_ATTRIBUTES]
        if "href" in attributes and (tag in _LOADING_HREFS or (tag == "link" and not self._is_passive(attributes))):
            self.loads.append(attributes["href"])
        for name in ("srcset", "imagesrcset"):
            self.loads += [choice.split()[0] for choice in attributes.get(name, "").split(",") if choice.strip()]
        self.loads += css_loads(attributes.get("style", ""))
        self.loads += html_loads(attributes.get("srcdoc", ""))
        if attributes.get("http-equiv", "").lower() == "refresh":
            self.loads.append(attributes.get("content", "").lower().partition("url=")[2])
        for name, value in attributes.items():
            if name.startswith("on"):
                self.loads += js_addresses(value)

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "style":
            self.loads += css_loads(data)
        elif self.inside == "script":
            self.loads += js_addresses(data)

    @staticmethod
    def _is_passive(attributes):
        relations = set(attributes.get("rel", "").lower().split())
        return bool(relations) and relations <= _PASSIVE_RELATIONS
