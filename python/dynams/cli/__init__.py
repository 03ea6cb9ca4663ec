"""The command line: `dynams train`, `dynams compare`, `dynams bench` and `dynams info`."""

from __future__ import annotations

from dynams.cli.main import main

__all__ = ["main"]
