"""The HTML document that every page is: one file that requests nothing, by its own security policy.

It follows the reader's light or dark scheme, and reads on a phone.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

from dynams.report.markup import text
from dynams.report.style import STYLE_SHEET

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$name \N{MIDDLE DOT} $kind</title>
<style>
$style</style>
</head>
<body>
<header class="wrap">
<p class="eyebrow">$kind</p>
<h1>$name</h1>
<p class="what">$what</p>
</header>
<nav aria-label="Sections"><div class="wrap">$links</div></nav>
<main class="wrap">
$body</main>
<footer class="wrap">$foot</footer>
</body>
</html>
""")


def document(
    kind: str,
    name: str,
    *,
    state: tuple[str, bool],
    what: list[str],
    headline_html: str = "",
    sections_html: Mapping[str, str],
    links: Mapping[str, str],
    foot: str,
) -> str:
    """A whole page.

    Args:
        kind: of which kind it is.
        name: its heading.
        state: how far it is, and whether that is all.
        what: what it is about, in a few words each.
        headline_html: before the sections.
        sections_html: the sections by anchor, in their order; empty ones are not there.
        links: what the navigation calls the sections that it leads to, in its order.
        foot: the last words.
    """
    words, good = state
    spans = [f'<span class="state {"good" if good else "warn"}">{text(words)}</span>']
    spans += [f"<span>{text(each)}</span>" for each in what]
    anchors = [
        f'<a href="#{text(anchor)}">{text(title)}</a>'
        for anchor, title in links.items()
        if sections_html.get(anchor)
    ]
    return _PAGE.substitute(
        name=text(name),
        kind=text(kind),
        style=STYLE_SHEET,
        what="".join(spans),
        links="".join(anchors),
        body=headline_html + "".join(sections_html.values()),
        foot=text(foot),
    )
