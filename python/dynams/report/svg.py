"""Matplotlib's SVG made fit for a page.

Colours become the page's CSS properties (so one figure serves light and dark), text takes the
page's font, coordinates are rounded, metadata and style elements go (a style element inside an
inline SVG would apply to the whole page), ids are dropped or made unique to the figure.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from dynams.packages import needs
from dynams.report.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Matplotlib needs real colours; these stand for the page's properties until the SVG is finished.
COLOUR = {name: f"#01{index:02x}fe" for index, name in enumerate(COLOURS)}
_PROPERTY = {colour: f"var(--{name})" for name, colour in COLOUR.items()}
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"


@contextmanager
def page_style() -> Iterator[None]:
    """Draw with matplotlib's own defaults, whatever the user's matplotlibrc says. Also a decorator.

    Raises ImportError without matplotlib.
    """
    with needs("matplotlib"):
        import matplotlib.style
    svg_settings = {"svg.fonttype": "none", "svg.hashsalt": "dynams"}
    with matplotlib.style.context(["default", svg_settings]):
        yield


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """Draw ``figure`` as an ``<svg>`` element for an HTML page, inside `page_style`.

    Args:
        figure: drawn in the colours of `COLOUR`, one pixel of the page for each 1/72 inch.
        name: unique name of the figure on the page: letters, digits, hyphens.
        description: what a reader who cannot see the figure is told.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    return _inline(root, name, description)


def _inline(root: ElementTree.Element, name: str, description: str) -> str:
    """Matplotlib's SVG document as an element for a page."""
    used: set[str] = set()
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            used.update(re.findall(r"#([\w-]+)", value if key == _HREF else ""))
            used.update(re.findall(r"url\(#([\w-]+)\)", value))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            if key == "id" and value not in used:
                continue
            new_key, new_value = _attribute(key, value, name)
            element.attrib[new_key] = new_value
    _tidy(root)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": description,
    }
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(element: ElementTree.Element) -> None:
    """Drop empty groups and the document's indentation."""
    element.tail = None
    if element.tag != "text":
        element.text = None
    for child in list(element):
        _tidy(child)
        if child.tag in ("g", "defs") and not len(child):
            element.remove(child)


def _attribute(key: str, value: str, name: str) -> tuple[str, str]:
    if key == _HREF:
        return "href", value.replace("#", f"#{name}-")
    if key == "id":
        return key, f"{name}-{value}"
    value = value.replace("url(#", f"url(#{name}-")
    value = re.sub(r"#01[0-9a-f]{2}fe", lambda match: _PROPERTY.get(match[0], match[0]), value)
    if key in ("d", "x", "y", "width", "height", "transform", "points"):
        value = re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", value)
        value = " ".join(value.split())
    if key == "style":
        value = re.sub(r"font: (?:[a-z0-9]+ )*([\d.]+px) [^;]+", r"font-size: \1", value)
        value = re.sub(r"font-family: [^;]+;? *", "", value)
    return key, value
