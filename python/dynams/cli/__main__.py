"""`python -m dynams.cli` is `dynams`."""

from __future__ import annotations

import sys

from dynams.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
