"""Makes the helpers of the training tests importable and runs them in temporary directories."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
