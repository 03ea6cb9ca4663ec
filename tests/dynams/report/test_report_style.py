"""The style sheet of pages: on a phone, and on paper."""

from __future__ import annotations

import re

from dynams.report.style import STYLE_SHEET


def rules(css: str, selector: str) -> str:
    """All declarations for a selector outside media queries, in one string."""
    plain = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^}]*\})*[^{}]*\}", "", css)
    found = re.findall(rf"(?:^|\}}|\*/)\s*{re.escape(selector)}\s*\{{([^}}]*)\}}", plain)
    assert found, selector
    return " ".join(" ".join(found).split())


def media(css: str, query: str) -> str:
    """The rules of all media queries that begin so."""
    return " ".join(
        re.findall(rf"@media {query}[^{{]*\{{((?:[^{{}}]*\{{[^}}]*\}})*)[^{{}}]*\}}", css)
    )


def test_a_narrow_page_does_not_scroll_sideways():
    """What is wide scrolls in itself with a shadow at the edge, wraps, or shrinks."""
    css = STYLE_SHEET
    scroll = rules(css, ".scroll")
    assert "overflow-x: auto" in scroll
    assert scroll.count("var(--shade)") == 2  # a shadow at either edge,
    assert scroll.count("local") == 2  # covered where the table ends
    assert "outline" in rules(css, ".scroll:focus-visible")
    assert "flex-wrap: wrap" in rules(css, "nav .wrap")
    assert "nowrap" not in rules(css, "nav a")
    assert "overflow-wrap" in rules(css, "body")
    assert "overflow-wrap: anywhere" in rules(css, "h1")
    assert "overflow-wrap: anywhere" in rules(css, ".what span")
    assert "table-layout: fixed" in rules(css, ".settings table")
    for cell in (".settings th", ".settings td"):
        assert "overflow-wrap: anywhere" in rules(css, cell)
        assert "nowrap" not in rules(css, cell)
    assert "width: 100%" in rules(css, "figure svg")
    assert "minmax(0, 1fr)" in media(css, r"\(max-width: 40rem\)")
    # Every track of a grid may be as narrow as the page: 23 rem inside 400 pixels.
    for least in re.findall(r"minmax\(([\d.]+)rem, 1fr\)", css):
        assert float(least) <= 20
    assert set(re.findall(r"minmax\(min\((\d+)rem, (\S+)\), 1fr\)", css)) >= {("24", "100%")}


def test_paper_is_light_and_shows_whole_tables():
    assert "prefers-color-scheme: dark" in STYLE_SHEET
    assert "@media screen and (prefers-color-scheme: dark)" in STYLE_SHEET
    paper = media(STYLE_SHEET, "print")
    assert re.search(r"\.scroll \{[^}]*overflow: visible", paper)
    assert re.search(r"\.scroll tbody th \{[^}]*white-space: normal", paper)
    assert "color-scheme: light;" in paper
    assert "--shade" in media(STYLE_SHEET, "screen")
