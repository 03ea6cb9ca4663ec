"""What the launches of one layout share: tiles, shares, and all numbers and constants a kernel is given beside tensors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from dynams_kernels import _device
from dynams_kernels._triton.launch import Launch
from dynams_kernels._triton.linear_configuration import (
    MAX_WIDTHS,
    Burden,
    Configuration,
    Shares,
    compiler_options,
    configuration,
    descriptors_configuration,
    shares,
    slicing,
    slicing_widths,
    unit_of,
)


class Tiling:
    """How calls of one layout are cut and shared, and all that their launches are given beside tensors.

    It follows from numbers alone and is the same for every batch of a loader, so it is worked out once (`tiling`).
    """

    def __init__(
        self,
        rows: int,
        classes: int,
        widths: tuple[int, ...],
        element_size: int,
        precision: str,
        weight_rounded: bool,
        load: Burden,
        described: bool,
        features_strides: tuple[int, int],
        weight_strides: tuple[int, int],
        labels_step: int,
        aligned: bool,
        has_bias: bool,
        capability: tuple[int, int],
        multiprocessors: int,
        given: Configuration | None,
        splits: int | None,
    ) -> None:
        self._widths = widths
        self._element_size = element_size
        width = widths[-1]
        # A single row's stride leads nowhere, and says nothing of alignment.
        features_row = features_strides[0] if rows > 1 else 0
        row_unit = unit_of(features_row, weight_strides[0])
        # Whether neighbours along the features cannot be loaded together, 4 bytes at least.
        unit = row_unit
        # Of one long odd width only the last step's loads are spoilt by the mask.
        if len(widths) > 1 or width <= 128:
            unit = min(unit, unit_of(*widths))
        is_apart = features_strides[1] != 1 or weight_strides[1] != 1
        scattered = is_apart or not aligned or unit * element_size < 4
        if given:
            self.chosen = given
        elif described:
            self.chosen = descriptors_configuration(
                rows, classes, width, load, capability, multiprocessors
            )
        else:
            self.chosen = configuration(
                rows, classes, width, element_size, precision, load, scattered, capability
            )
        row_blocks = -(-rows // self.chosen.block_rows)
        self.class_tiles = -(-classes // self.chosen.block_classes)
        if splits is None:
            shared = shares(
                row_blocks, self.class_tiles, self.chosen, width, element_size, multiprocessors
            )
        else:
            tiles = -(-self.class_tiles // splits)
            shared = Shares(-(-self.class_tiles // tiles), tiles, row_blocks)
        self.splits = shared.splits
        self.grid = (row_blocks * shared.splits,)
        self.sizes = (rows, classes)
        self.shares = (shared.splits, shared.tiles_per_split, shared.group_blocks)
        self.strides = (
            features_row // row_unit,
            features_strides[1],
            weight_strides[0] // row_unit,
            weight_strides[1],
            labels_step,
        )
        step = self.chosen.block_features
        # Shape, strides and block of both operands, as descriptors are made of them.
        self.blocks = (
            ([rows, width], [features_strides[0], 1], [self.chosen.block_rows, step]),
            ([classes, width], [weight_strides[0], 1], [self.chosen.block_classes, step]),
        )
        # Of the kernels that take rows from pointers.
        self._from_rows = {
            "ROW_UNIT": row_unit,
            "PRECISION": precision,
            "WEIGHT_ROUNDED": weight_rounded,
        }
        self._constants = {
            "HAS_BIAS": has_bias,
            "SPLIT": shared.splits > 1,
            "PIPELINED": capability != _device.INTERPRETED,
            "BLOCK_ROWS": self.chosen.block_rows,
            "BLOCK_CLASSES": self.chosen.block_classes,
            "BLOCK_FEATURES": self.chosen.block_features,
            "num_warps": self.chosen.num_warps,
            "num_stages": self.chosen.num_stages,
            **compiler_options(self.chosen, load),
        }
        self._sweeps: dict[Any, tuple[tuple[int, ...], dict[str, Any]]] = {}
        self.launches: dict[Any, Launch] = {}  # by what tells those of this layout apart

    def sweep(
        self, kinds: int, pairs: bool, one_tile: bool
    ) -> tuple[tuple[int, ...], dict[str, Any]]:
        """What `linear_kernel` is given after its tensors, but for the last strides, and its constants."""
        key = kinds, pairs, one_tile
        if key not in self._sweeps:
            (width,) = self._widths
            sliced = slicing(width, self.chosen.block_features, self._element_size)
            units = width // sliced["WIDTH_UNIT"]
            asked = {"KINDS": kinds, "PAIRS": pairs, "ONE_TILE": one_tile, **self._from_rows}
            self._sweeps[key] = (
                (*self.sizes, units, *self.shares, *self.strides),
                {**asked, **sliced, **self._constants},
            )
        return self._sweeps[key]

    def sweep_widths(self, kinds: int) -> tuple[tuple[int, ...], dict[str, Any]]:
        """What `widths_kernel` is given after its tensors, but for the last stride, and its constants."""
        if kinds not in self._sweeps:
            widths = self._widths
            sliced = slicing_widths(widths, self.chosen.block_features)
            units = [width // sliced["WIDTH_UNIT"] for width in widths]
            unused = (0,) * (MAX_WIDTHS - len(widths))
            self._sweeps[kinds] = (
                (*self.sizes, *self.shares, *units, *unused, *self.strides),
                {"KINDS": kinds, **self._from_rows, **sliced, **self._constants},
            )
        return self._sweeps[kinds]

    def sweep_described(self, kinds: int) -> tuple[tuple[int, ...], dict[str, Any]]:
        """What `descriptors_kernel` is given after its tensors, but for the last stride, and its constants."""
        if kinds not in self._sweeps:
            steps = -(-self._widths[-1] // self.chosen.block_features)
            numbers = (*self.sizes, steps, *self.shares, self.strides[-1])
            self._sweeps[kinds] = numbers, {"KINDS": kinds, **self._constants}
        return self._sweeps[kinds]


tiling = lru_cache(maxsize=1024)(Tiling)
