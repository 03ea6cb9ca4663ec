"""What the kernels give over the ranks of a process group of torch.distributed; without one, over this process alone."""

from dynams_kernels.distributed.heads import linear_margin, linear_scores
from dynams_kernels.distributed.selection import smallest_k

__all__ = ["linear_margin", "linear_scores", "smallest_k"]
