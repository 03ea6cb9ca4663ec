"""A data set that notes which of its samples are read."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import TensorDataset


class Noted(TensorDataset):
    """Notes which samples are read."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        self.read: list[int] = []

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        self.read.append(index)
        return super().__getitem__(index)
