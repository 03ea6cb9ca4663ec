"""What the kernels give over the ranks of a process group of torch.distributed; without one, over this process alone."""

from dynams_kernels.distributed.selection import smallest_k

__all__ = ["smallest_k"]
