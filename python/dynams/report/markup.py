"""Small pieces of HTML: escaped text, tables, figures, lists of keys. Standard library only.

Functions take plain text and escape it themselves, except where an argument is called ``*_html``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Not allowed in an HTML document even when escaped: control characters, lone surrogates, and the
# code points that Unicode keeps for no character.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


@dataclass(frozen=True)
class Key:
    """One entry of a figure's legend: a colour name, what it stands for, and how it is drawn."""

    colour: str
    label: str
    mark: str = "line"


def text(value: object) -> str:
    """``value`` as escaped text, for content and for quoted attributes alike."""
    return html.escape(legal(str(value)), quote=True)


def legal(value: str) -> str:
    """``value`` with what no document may hold, such as a path's undecoded bytes, marked as such."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", value)


def tone(colour: str) -> str:
    """The attribute that hands an element its colour."""
    return f' style="--tone: var(--{text(colour)})"'


def section(name: str, title: str, lede: str, *body_html: str) -> str:
    """A section with an anchor; an empty body gives an empty string."""
    body = "\n".join(part for part in body_html if part)
    if not body:
        return ""
    opening = f"{opened(lede)}\n" if lede else ""
    return f'<section id="{text(name)}">\n<h2>{text(title)}</h2>\n{opening}{body}\n</section>\n'


def opened(lede: str) -> str:
    """A section's first words; nothing for an empty string."""
    return f'<p class="lede">{text(lede)}</p>' if lede else ""


def note(content: str) -> str:
    """A remark in small type; nothing for an empty string."""
    return f'<p class="note">{text(content)}</p>' if content else ""


def figure(svg_html: str | None, title: str, keys: Sequence[Key] = (), remark: str = "") -> str:
    """A drawing under its title and legend; nothing without a drawing."""
    if svg_html is None:
        return ""
    items = "".join(
        f'<li class="{text(key.mark)}"{tone(key.colour)}>{text(key.label)}</li>' for key in keys
    )
    legend = f'<ul class="keys">{items}</ul>' if items else ""
    return (
        f"<figure>\n<figcaption><h3>{text(title)}</h3>{legend}{note(remark)}</figcaption>\n"
        f"{svg_html}\n</figure>"
    )


def figures(*figures_html: str) -> str:
    """Figures side by side, or one below the other where there is no room."""
    present = [item for item in figures_html if item]
    return '<div class="figures">\n' + "\n".join(present) + "\n</div>" if present else ""


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    tones: Sequence[str] = (),
    total: Sequence[str] = (),
) -> str:
    """A table whose first column names the row and whose other columns are numbers.

    ``caption`` is read to those who cannot see the table; ``tones`` gives each row a colour.
    """
    tones = list(tones)
    body = []
    for index, (name, *cells) in enumerate(rows):
        mark = f' class="dot"{tone(tones[index])}' if tones else ""
        numbers = "".join(f'<td class="n">{text(cell)}</td>' for cell in cells)
        body.append(f'<tr><th scope="row"{mark}>{text(name)}</th>{numbers}</tr>')
    numbers = "".join(f'<th scope="col" class="n">{text(cell)}</th>' for cell in head[1:])
    first = f'<th scope="col">{text(head[0])}</th>'
    foot = ""
    if total:
        cells_html = "".join(f'<td class="n">{text(cell)}</td>' for cell in total[1:])
        foot = f'<tfoot><tr><th scope="row">{text(total[0])}</th>{cells_html}</tr></tfoot>'
    return scrolling(
        caption,
        f"<thead><tr>{first}{numbers}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + f"\n</tbody>{foot}\n",
    )


def scrolling(caption: str, rows_html: str, style: str = "") -> str:
    """A table that scrolls by itself where it is wider than the page, by keyboard too."""
    name, kind = text(caption), f' class="{text(style)}"' if style else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">'
        f'<table{kind} aria-label="{name}">\n{rows_html}</table></div>'
    )


def settings(groups: Mapping[str, Mapping[str, str]]) -> str:
    """Named groups of names and values, in columns."""
    parts = []
    for name, values in groups.items():
        rows = "".join(
            f'<tr><th scope="row">{text(key)}</th><td>{text(value)}</td></tr>'
            for key, value in values.items()
        )
        parts.append(
            f'<div><h3>{text(name)}</h3><table aria-label="{text(name)}"><tbody>{rows}</tbody>'
            "</table></div>"
        )
    return '<div class="settings">\n' + "\n".join(parts) + "\n</div>" if parts else ""


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names with values as YAML would show them."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(dotted(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _shown(value)
    return flat


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
