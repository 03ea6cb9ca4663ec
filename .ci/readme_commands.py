"""Prints the bash blocks of the README's "Quick start" section, one of them (by number, from 1) or how many there are."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def quick_start_blocks(readme: str) -> list[str]:
    """The fenced bash blocks between the heading "Quick start" and the next heading of its level."""
    section = re.search(r"^## Quick start\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    if section is None:
        raise SystemExit("README.md has no section 'Quick start'")
    return re.findall(r"^```bash\n(.*?)^```", section.group(1), re.MULTILINE | re.DOTALL)


if __name__ == "__main__":
    blocks = quick_start_blocks((Path(__file__).parent.parent / "README.md").read_text())
    if len(blocks) != 2:
        raise SystemExit(f"README.md: 'Quick start' has {len(blocks)} bash blocks, want 2")
    print(blocks[int(sys.argv[1]) - 1], end="")
