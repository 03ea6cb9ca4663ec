"""The linear head's Hopper kernels on tensors of the CPU: their source compiled by the host's C++ compiler and run thread by thread."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import cuda_on_host
from dynams_kernels._kinds import kinds_of, mask_of

TILES = {"128x144": (0, 144), "128x192": (1, 192), "128x256": (2, 256)}
TILE_ROWS = 128


class Head(ctypes.Structure):
    """csrc/cuda/hopper/linear_head.h's HopperHead."""

    _fields_ = (
        ("features", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("labels", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("classes", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("features_stride", ctypes.c_int64),
        ("weight_stride", ctypes.c_int64),
        ("kinds", ctypes.c_uint32),
        ("scores", ctypes.c_void_p),
        ("scores_stride", ctypes.c_int64),
        ("tile", ctypes.c_int32),
        ("scratch", ctypes.c_void_p),
    )


def build(directory: Path) -> HostHead:
    """Compiles the reductions, the merge and the launcher for the host."""
    library = directory / "linear_head.so"
    command = [
        *(cuda_on_host.compiler() or ["c++"]),
        *("-O2", "-Wall", "-Wextra", *cuda_on_host.KERNEL_FLAGS, "-shared", "-fPIC"),
        *(str(cuda_on_host.HOST_CUDA / "linear_head.cpp"), "-o", str(library)),
    ]
    subprocess.run(command, check=True)
    return HostHead(ctypes.CDLL(str(library)))


@dataclass
class HostHead:
    """The compiled library's functions, typed.

    Attributes:
        launches: of the last call, how many it took;
        launched_rows: and the rows of the largest.
    """

    library: ctypes.CDLL
    launches: int = 0
    launched_rows: int = 0

    def __post_init__(self) -> None:
        self.library.host_hopper_head.restype = ctypes.c_char_p
        self.library.host_hopper_scratch.restype = ctypes.c_int64
        self.library.host_most_state_bytes.restype = ctypes.c_int64

    @property
    def most_state_bytes(self) -> int:
        """The bound on the states' scratch."""
        return int(self.library.host_most_state_bytes())

    def swizzle(self, row_tiles: int, class_tiles: int) -> int:
        """What the scheduler is given."""
        return int(
            self.library.host_swizzle(ctypes.c_int64(row_tiles), ctypes.c_int64(class_tiles))
        )

    def preload(self) -> int:
        """The first error of loading the kernels."""
        return int(self.library.host_preload_hopper())

    def scratch(
        self, tile: str, rows: int, classes: int, kinds: Iterable[str], state_bytes: int = 0
    ) -> int:
        """Bytes that a request asks for."""
        head = Head(rows=rows, classes=classes, kinds=mask_of(kinds), tile=TILES[tile][0])
        return int(
            self.library.host_hopper_scratch(ctypes.byref(head), ctypes.c_int64(state_bytes))
        )

    def scores(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        kinds: Iterable[str],
        tile: str,
        *,
        state_bytes: int = 0,
        order_seed: int = 0,
    ) -> dict[str, Tensor]:
        """The scores by kind; RuntimeError where the kernels wait for ever, diverge or overrun their scratch.

        `state_bytes`: bound on the states, 0 for the real one. `order_seed`: 0 takes tiles and threads by number.
        """
        assert features.stride(1) == weight.stride(1) == 1
        head = Head(
            features=features.data_ptr(),
            weight=weight.data_ptr(),
            dtype=cuda_on_host.DTYPES[features.dtype],
            rows=len(features),
            classes=len(weight),
            width=features.shape[1],
            features_stride=features.stride(0),
            weight_stride=weight.stride(0),
        )
        return self._run(head, bias, labels, kinds, tile, False, state_bytes, order_seed)

    def scores_of(
        self,
        logits: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        kinds: Iterable[str],
        tile: str,
        *,
        state_bytes: int = 0,
        order_seed: int = 0,
    ) -> dict[str, Tensor]:
        """The same of any logits, which stand for the product; beyond its ends it is NaN."""
        wide = logits.float().contiguous()
        dtype = torch.bfloat16 if bias is None else bias.dtype
        head = Head(
            features=wide.data_ptr(),
            dtype=cuda_on_host.DTYPES[dtype],
            rows=wide.shape[0],
            classes=wide.shape[1],
            features_stride=2 * wide.shape[1],  # in elements of two bytes
        )
        return self._run(head, bias, labels, kinds, tile, True, state_bytes, order_seed)

    def _run(
        self,
        head: Head,
        bias: Tensor | None,
        labels: Tensor | None,
        kinds: Iterable[str],
        tile: str,
        given: bool,
        state_bytes: int,
        order_seed: int,
    ) -> dict[str, Tensor]:
        mask = mask_of(kinds)
        named = kinds_of(mask)
        room = torch.full((len(named) + 1, head.rows + 3), -77.0)
        head.bias = None if bias is None else bias.data_ptr()
        head.labels = None if labels is None else labels.data_ptr()
        head.kinds, head.tile = mask, TILES[tile][0]
        head.scores, head.scores_stride = room.data_ptr(), room.stride(0)
        told = (ctypes.c_int64 * 2)()
        problem = self.library.host_hopper_head(
            ctypes.byref(head), int(given), ctypes.c_int64(state_bytes), order_seed, told
        )
        if problem is not None:
            raise RuntimeError(problem.decode())
        self.launches, self.launched_rows = told
        assert (room[:, head.rows :] == -77.0).all(), "written beyond the rows"
        assert (room[len(named)] == -77.0).all(), "more kinds written than asked for"
        return {kind: room[i, : head.rows] for i, kind in enumerate(named)}
