"""Not there, as where `dynams-kernels[train]` alone is installed.

Lightning Fabric imports torchmetrics to ask its version, and torchmetrics imports transformers, SciPy and matplotlib: half of
what a process of a test takes to start. This folder goes first on the path of those that need none of them.
"""

raise ImportError("hidden from this process")
