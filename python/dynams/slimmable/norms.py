"""Batch-norms of each width, because the statistics of a channel depend on how many channels feed it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynams.slimmable.axes import Axis, Ranges
from dynams.slimmable.widths import check_width


class SwitchableBatchNorm(nn.ModuleDict):
    """A batch-norm for each width, under the names `width_0_5`, `width_1_0`, ...

    The children are of the class that the network had, so `nn.SyncBatchNorm.convert_sync_batchnorm`
    works on them. Their names carry the width, so a checkpoint of other widths is refused by name.

    Args:
        source: the batch-norm of the full width; each begins with its parameters and statistics.
        kept: the channels that each width keeps.

    Attributes:
        kept: as given.
    """

    def __init__(self, source: _BatchNorm, kept: Mapping[float, Ranges]) -> None:
        names = {width: "width_" + repr(width).replace(".", "_") for width in kept}
        super().__init__({name: _slim(source, kept[width]) for width, name in names.items()})
        self.kept = dict(kept)
        self._names = names

    @classmethod
    def of(cls, source: _BatchNorm, axis: Axis, widths: Sequence[float]) -> SwitchableBatchNorm:
        """Make one whose channels are an axis."""
        return cls(source, {width: axis.ranges(width) for width in widths}).train(source.training)

    def at(self, width: float) -> nn.Module:
        """Return the batch-norm of `width`.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        name = self._names.get(width)
        if name is None:
            name = self._names[check_width(width, self._names)]
        return self._modules[name]

    def forward(self, input: Tensor, width: float = 1.0) -> Tensor:
        """Normalise (B, C_w, ...) by the statistics of `width`.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        output: Tensor = self.at(width)(input)
        return output

    def copy_at(self, width: float) -> nn.Module:
        """Copy the batch-norm of `width`."""
        return copy.deepcopy(self.at(width))


class NestedBatchNorm(SwitchableBatchNorm):
    """One batch-norm for all widths, whose channels are the same at each; a slim one uses its own part."""

    def __init__(self, source: _BatchNorm, kept: Mapping[float, Ranges]) -> None:
        super().__init__(source, {1.0: kept[1.0]})
        self.kept = dict(kept)

    def at(self, width: float) -> nn.Module:
        """As of `SwitchableBatchNorm`; a slim one shares its parameters and statistics with the full one."""
        width = check_width(width, self.kept)
        full = cast(_BatchNorm, super().at(1.0))
        return full if width == 1.0 else _sharing(full, self.kept[width])

    def copy_at(self, width: float) -> nn.Module:
        """As of `SwitchableBatchNorm`."""
        return _slim(cast(_BatchNorm, super().at(1.0)), self.kept[check_width(width, self.kept)])


def _sharing(norm: _BatchNorm, kept: Ranges) -> _BatchNorm:
    """A batch-norm of the channels kept, which are views where they are adjacent."""
    channels = norm.num_features

    def part(value: Tensor | None) -> Tensor | None:
        if value is None or value.shape[:1] != (channels,):
            return value
        parts = [value[start:stop] for start, stop in kept]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    slim = copy.copy(norm)
    slim.num_features = sum(stop - start for start, stop in kept)
    slim.__dict__["_parameters"] = {name: part(value) for name, value in norm._parameters.items()}
    slim.__dict__["_buffers"] = {name: part(value) for name, value in norm._buffers.items()}
    return slim


def _slim(source: _BatchNorm, kept: Ranges) -> nn.Module:
    """Copy a batch-norm, or what is derived of one, with the channels kept."""
    norm = copy.deepcopy(source)
    channels = norm.num_features
    count = sum(stop - start for start, stop in kept)
    if count == channels:
        return norm
    for module in norm.modules():
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is None or value.shape[:1] != (channels,):
                continue
            with torch.no_grad():
                part = torch.cat([value[start:stop] for start, stop in kept])
            if isinstance(value, nn.Parameter):
                setattr(module, name, nn.Parameter(part, value.requires_grad))
            else:
                module._buffers[name] = part
        if getattr(module, "num_features", None) == channels:
            module.num_features = count  # type: ignore[assignment]
    return norm
