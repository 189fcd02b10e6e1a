"""Read a page of HTML strictly, for the tests of what is written."""

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
    """A page's elements, its text, and what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.wrong: list[str] = []
        self._open: list[str] = []
        self._said: list[str] = []
        self._prose: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> is never closed" for tag in self._open]
        self.text = _plain(" ".join(self._said))
        self.prose = _plain(" ".join(self._prose))  # without programs

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len({name for name, _ in attrs}) < len(attrs):
            self.wrong.append(f"<{tag}> has an attribute twice")
        self.elements.append(Element(tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> at line {self.getpos()[0]} closes nothing")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            return
        self._said.append(data)
        if "pre" not in self._open:
            self._prose.append(data)

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]

    def says(self, words: str) -> bool:
        """Are these words on the page, however it breaks its lines?"""
        return _plain(words) in self.text or _plain(words).replace(" ", "") in self.text.replace(" ", "")

    @property
    def links(self) -> list[str]:
        return [str(value) for element in self.elements for name, value in element.attributes.items() if name == "href"]

    @property
    def reaches_out(self) -> list[str]:
        """Return what would load, run or send something."""
        found = [element.tag for element in self.all(*_LOADS)]
        for element in self.elements:
            for name, value in element.attributes.items():
                if name.startswith("on") or name in ("src", "srcset", "action", "formaction", "data", "xlink:href"):
                    found.append(f"{element.tag} {name}")
                if name == "style" or (name == "href" and not re.match(r"https?://|#", str(value))):
                    found.append(f"{element.tag} {name}={value}")
        return found


def _plain(text: str) -> str:
    return " ".join(text.split())
