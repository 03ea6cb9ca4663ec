"""torchvision beside a torch that its wheel was not built for: its Python code imports, its own operators do not run.

A package index may hold CUDA wheels of torchvision only. Beside a CPU build of torch their library does not load, and importing
torchvision, and with it timm, fails where it tells torch what two operators return. Their schemas are declared here where they
are missing, and nothing else: whoever calls one is told that it has no kernel.
"""

from __future__ import annotations

import importlib.util
from importlib.machinery import PathFinder

import torch

BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare() -> None:
    """Let `import torchvision` succeed in this process, where it is installed; call it before that import."""
    package = importlib.util.find_spec("torchvision")
    if package is None or hasattr(torch.ops.torchvision, "nms"):
        return
    # Not by its name: that would import torchvision first.
    compiled = PathFinder.find_spec("torchvision._C", package.submodule_search_locations)
    try:
        torch.ops.load_library(compiled.origin)  # as torchvision does, and does again in vain
    except (AttributeError, OSError):
        torch.library.define("torchvision::nms", BOXES)
        torch.library.define("torchvision::qnms", BOXES)
