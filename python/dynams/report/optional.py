"""Helpful errors for the packages that only training needs.

The kernels are installed without rich, matplotlib and tensorboard; the report imports them where
they are used, inside ``with needs("rich"):``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dynams.packages import not_installed


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Import what belongs to ``package`` inside this block.

    Raises:
        ImportError: the package is missing; the message says how to install it. Other missing
            modules are reported as they are.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ImportError(not_installed(package), name=package) from error
