"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

import importlib.metadata

project = "dynams-kernels"
author = "The dynams-kernels authors"
release = importlib.metadata.version("dynams-kernels")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
nitpicky = False
