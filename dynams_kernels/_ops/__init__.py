"""The primitives as torch operators: dispatch by device, shapes for tracing, and gradients.

The functions here call an operator where torch has a part in the call, and where it has none, what the operator would have come
to. Arguments are taken as already checked (the public functions do that); labels' values alone are checked where they are read.
"""
