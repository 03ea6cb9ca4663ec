"""The packages that only the trainer or an integration needs, and what to type where one is missing."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What is imported -> what is installed: the extra `train` of pyproject.toml.
TRAINERS = {
    "PIL": "pillow",
    "lightning_fabric": "lightning-fabric",
    "matplotlib": "matplotlib",
    "pyarrow": "pyarrow",
    "rich": "rich",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
    "yaml": "pyyaml",
}
# Of `dynams.integrations`, each for itself.
FRAMEWORKS = {
    "accelerate": "accelerate",
    "lightning": "lightning",
    "pytorch_lightning": "pytorch-lightning",
    "transformers": "transformers",
}


@contextmanager
def needs(module: str, name: str | None = None) -> Iterator[None]:
    """Import ``module``, or what belongs to it, inside this block.

    Args:
        module: what only training or an integration needs.
        name: what its package is called in the message; None: as it is installed.

    Raises:
        ImportError: it is missing; the message says how to install it. Other missing modules are reported as
            they are.
    """
    top = module.partition(".")[0]
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != top:
            raise
        raise ImportError(not_installed(module, name), name=top) from error


def needed(module: str, name: str | None = None) -> Any:
    """Return ``module``, imported as by `needs`."""
    with needs(module, name):
        return importlib.import_module(module)


def not_installed(module: str, name: str | None = None) -> str:
    """Tell that a module is missing and how to have it, with all others of the trainer's that are missing.

    The package itself is on no index, so that its extras are no name to type.

    Args:
        module: what could not be imported.
        name: what its package is called in the message; None: as it is installed.
    """
    top = module.partition(".")[0]
    package = TRAINERS.get(top) or FRAMEWORKS.get(top)
    if package is None:  # whose package nobody here knows
        return f"the module {module} is not installed"
    if _found(top) and module != top:
        return f"{package} lacks {module}: pip install --upgrade {shlex.quote(package)}"
    others = TRAINERS if top in TRAINERS else {}
    missing = [package, *(others[each] for each in others if each != top and not _found(each))]
    return f"{name or package} is not installed: pip install {shlex.join(missing)}"


def _found(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None
