"""The blocks of a page of the documentation, to be run as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_blocks(path: str | Path, heading: str = "") -> list[str]:
    """The Python blocks of a page; arguments as in `blocks_of`."""
    return blocks_of(path, "python", heading)


def blocks_of(path: str | Path, language: str, heading: str = "") -> list[str]:
    """The blocks in a language of a page (from the tree's top), in order, or of its section under a `## heading` alone.

    Without any, it is an error: a test of nothing would hold. Lines are numbered as in the page, so that a
    traceback leads there.
    """
    page = (ROOT / path).read_text(encoding="utf-8")
    start, end = 0, len(page)
    if heading:
        found = re.search(rf"^## {re.escape(heading)}.*$", page, re.MULTILINE)
        assert found is not None, f"{path}: no section {heading!r}"
        start = found.end()
        end = start + len(page[start:].partition("\n## ")[0])
    blocks = [
        "\n" * page.count("\n", 0, block.start(1)) + block.group(1)
        for block in re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL).finditer(
            page, start, end
        )
    ]
    assert blocks, f"{path}: no {language} block {heading!r}"
    return blocks
