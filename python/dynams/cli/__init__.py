"""The command line: `dynams train` and `dynams info`."""

from __future__ import annotations

from dynams.cli.main import main

__all__ = ["main"]
