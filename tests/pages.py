"""Strict parser of HTML pages, for tests of reports."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import NamedTuple

_VOID = {"meta", "link", "br", "hr", "img", "input"}
_LOADS = {
    "script",
    "link",
    "img",
    "iframe",
    "object",
    "embed",
    "base",
    "form",
    "audio",
    "video",
    "source",
    "use",
    "image",
}


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str | None]


class Page(HTMLParser):
    """Elements, text and errors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.wrong: list[str] = []
        self._open: list[str] = []
        self._texts: list[str] = []
        self._prose: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> is never closed" for tag in self._open]
        self.text = _plain(" ".join(self._texts))
        self.prose = _plain(" ".join(self._prose))  # without code

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len({name for name, _ in attrs}) < len(attrs):
            self.wrong.append(f"<{tag}> has a duplicate attribute")
        self.elements.append(Element(tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> at line {self.getpos()[0]} has no start tag")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            return
        self._texts.append(data)
        if "pre" not in self._open:
            self._prose.append(data)

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]

    def says(self, text: str) -> bool:
        """Return whether the page contains a text, regardless of white space."""
        return _plain(text) in self.text or _plain(text).replace(" ", "") in self.text.replace(" ", "")

    @property
    def links(self) -> list[str]:
        return [str(value) for element in self.elements for name, value in element.attributes.items() if name == "href"]

    @property
    def reaches_out(self) -> list[str]:
        """Return elements and attributes that load, run or send something."""
        names = [element.tag for element in self.all(*_LOADS)]
        for element in self.elements:
            for name, value in element.attributes.items():
                if name.startswith("on") or name in ("src", "srcset", "action", "formaction", "data", "xlink:href"):
                    names.append(f"{element.tag} {name}")
                if name == "style" or (name == "href" and not re.match(r"https?://|#", str(value))):
                    names.append(f"{element.tag} {name}={value}")
        return names


def _plain(text: str) -> str:
    return " ".join(text.split())
