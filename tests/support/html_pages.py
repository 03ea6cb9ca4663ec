"""Reading the pages that the product writes, with the checks that each of them must pass."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page's elements, with the checks that every report must pass made while reading it."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.path: list[dict[str, str]] = []  # attributes of what is open
        self.tables: list[
            tuple[dict[str, str], list[dict[str, str]]]
        ] = []  # and what is around them
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in {tag}"
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, values))
        if tag == "table":
            self.tables.append((values, self.path[-2:]))
        if tag not in VOID:
            self.open.append(tag)
            self.path.append(values)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a start"
        assert self.open[-1] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()
        self.path.pop()

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check(source: str) -> Page:
    """Well formed, self-contained, described in words, drawn in the page's colours, no wider than a phone."""
    page = Page(source)
    ids = page.ids
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name, "")
            assert value == "" or value.startswith("data:") or value[1:] in ids, value
        for used in re.findall(r"url\(([^)]*)\)", " ".join(attributes.values())):
            assert used.startswith("#")
            assert used[1:] in ids
        if tag in {"path", "text", "use", "g"}:
            assert not re.search(r"#[0-9a-f]{6}\b", attributes.get("style", "")), attributes
        if tag == "path":
            assert attributes.get("d")
    (style,) = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    assert "@import" not in style
    assert "url(" not in style
    assert all(picture["alt"] for picture in page.all("img"))
    assert all(d["role"] == "img" and d["aria-label"] for d in page.all("svg"))
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    for table, (outer, inner) in page.tables:
        assert table["aria-label"]
        if outer.get("class") == "settings":
            continue  # these wrap anywhere
        assert (inner["class"], inner["role"], inner["tabindex"]) == ("scroll", "region", "0")
        assert inner["aria-label"] == table["aria-label"]
    return page
