"""The backends of CUDA tensors together: each primitive by the best one that can run on the tensors' device.

Row scores and selection: the compiled CUDA kernels (`distance` of many classes: Triton's, where both are there), else Triton,
else plain torch. Linear scores: the compiled kernel (on Hopper) or one of Triton's, as `linear_choice` has it for the shape, else
plain torch with the row scores of the former. Nothing here touches the driver before the first call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynams_kernels._backends import eager
from dynams_kernels._backends.digits import PlainDigitCounter
from dynams_kernels._backends.fallback import Fallback, how_to_build
from dynams_kernels._backends.linear_choice import HOPPER_TILES, Candidate, choose
from dynams_kernels._backends.native_cuda import NativeCuda
from dynams_kernels._backends.products import keeps_logits
from dynams_kernels._device import multiprocessors, on_device
from dynams_kernels._kinds import BIT
from dynams_kernels._triton.linear_configuration import float32_precision

if TYPE_CHECKING:
    from dynams_kernels._backends.triton import Triton

# Tensor cores with bfloat16, asynchronous copies and NaN-keeping maxima begin here.
_LEAST_CAPABILITY = (8, 0)
# The one that the compiled kernel of linear heads is for.
_HOPPER = (9, 0)
_DISTANCE = BIT["distance"]
# Rows of so many classes, at multiples of so many bytes, have their distances from Triton's kernel, which was 1.9 to 4 times as
# fast on an H100: 85 us of 172 at 33554 x 1000 in bfloat16. It was slower at 10 and 257 classes.
_TRITON_CLASSES, _TRITON_BYTES = 1000, 16
# Several widths are served one by one where together they have no more columns than so many times the widest: Triton's one pass
# multiplied 2.8 times as slowly as the compiled kernel.
_APART_COLUMNS = 2.5
# Layouts of linear heads whose choice is kept.
_MOST_LAYOUTS = 4096


def _is_hopper(device: int) -> bool:
    return torch.cuda.get_device_capability(device) == _HOPPER


@dataclass(frozen=True)
class Served:
    """Who serves one device; None: plain torch."""

    native: NativeCuda | None
    triton: Triton | None
    native_linear: bool = False  # whether the native kernels are those of linear heads too
    may_mix: bool = True  # whether row scores may come from whoever is faster

    @cached_property
    def rows(self) -> Any:
        """The backend of row scores and selection."""
        return self.native or self.triton or eager

    def distances(self, logits: Tensor) -> Any:
        """The backend of the row score `distance`, by itself or beside others: the same, for the same bits."""
        row_bytes = logits.stride(0) * logits.element_size()
        if (
            self.native is None
            or self.triton is None
            or not self.may_mix
            or logits.dtype == torch.float64
            or logits.shape[1] < _TRITON_CLASSES
            or logits.stride(1) != 1
            or (row_bytes | logits.data_ptr()) % _TRITON_BYTES
        ):
            return self.rows
        return self.triton

    def names(self) -> dict[str, str]:
        """The backend's name for each primitive."""
        fallback = "triton" if self.triton else "eager"
        rows = "native_cuda" if self.native else fallback
        linear = f"native_cuda, {fallback}" if self.native_linear else fallback
        return {"row_scores": rows, "linear_scores": linear, "smallest_k": rows}

    def linear_candidates(
        self,
        features: Tensor,
        weight: Tensor,
        widths: Sequence[int],
        kinds: int,
        pairs: bool,
    ) -> tuple[Candidate, ...]:
        """Those that can serve these operands on this device. Plain torch always can, and is alone where products are in float64."""
        if features.dtype == torch.float64:
            return ("eager",)
        found: list[Candidate] = []
        operands = (features, weight, widths, kinds, pairs)
        if self.native_linear and self.native and self.native.serves_linear(*operands):
            found += HOPPER_TILES
        if self.triton is not None:
            if self.triton.describable(*operands):
                found.append("triton descriptors")
            found.append("triton pointers")
        return (*found, "eager")


class Gpu:
    """The backend of CUDA tensors.

    Args:
        module: the compiled CUDA module, or None.
        load_triton: imports Triton and gives its backend, or None where it is not installed.
        choice: auto | native | triton | eager; native and triton raise RuntimeError at the first call where they cannot serve.
        why_no_module: why there is no module.
    """

    def __init__(
        self,
        module: ModuleType | None,
        load_triton: Callable[[], Triton] | None,
        choice: str,
        why_no_module: str = "not built",
    ) -> None:
        self._module = module
        self._why_no_module = why_no_module
        self._load_triton = load_triton
        self._choice = choice
        self._served: dict[int, Served] = {}  # by device index; what a device can run never changes
        self._used: dict[int, Served] = {}  # the same, of devices that were computed on
        self._fallbacks: dict[int, Fallback | None] = {}
        self._chosen: dict[tuple[Any, ...], Candidate] = {}  # by layout of a linear head

    def why_not_native(self, device: int) -> str:
        """Why the compiled kernels cannot run on a device; empty where they can."""
        if self._module is None:
            return self._why_no_module
        with on_device(device):
            reason: str = self._module.why_unusable(device)
        return reason

    def why_not_native_linear(self, device: int) -> str:
        """Why the compiled kernel of linear heads cannot run on a device, where the others can; empty where it can."""
        if self._module is None:
            return "not built"
        with on_device(device):
            reason: str = self._module.why_no_linear_scores(device)
        return reason

    def why_not_triton(self, device: int) -> str:
        """Why the Triton kernels cannot run on a device; empty where they can."""
        if self._load_triton is None:
            return "Triton 3.4 or newer is not installed"
        capability = torch.cuda.get_device_capability(device)
        if capability < _LEAST_CAPABILITY:
            return f"compute capability {capability[0]}.{capability[1]}, want 8.0 or higher"
        return ""

    def fallback(self, device: int) -> Fallback | None:
        """What is to be told where other kernels than the compiled ones serve a device; None: nothing is."""
        if device not in self._fallbacks:
            self._fallbacks[device] = self._resolve_fallback(device)
        return self._fallbacks[device]

    def _resolve_fallback(self, device: int) -> Fallback | None:
        served = self.serves(device)
        if served.native is not None:
            return None
        other = "Triton stands" if served.triton else "plain torch stands"
        if self._choice in ("eager", "triton"):
            return Fallback(
                f"{other} for the compiled CUDA kernels: DYNAMS_KERNELS_BACKEND={self._choice}",
                asked_for=True,
            )
        advice = "" if served.triton else f" {self.why_not_triton(device)}."
        if self._module is None:
            advice += " " + how_to_build("DYNAMS_BUILD_CUDA", "nvcc 12.8 or newer")
        return Fallback(
            f"no compiled CUDA kernels on cuda:{device}: {self.why_not_native(device)}. {other[0].upper()}{other[1:]} for them"
            f"{'' if served.triton else ', many times slower'}.{advice}"
        )

    def serves(self, device: int) -> Served:
        """Who serves the tensors of a device: found out at the first question."""
        if device not in self._served:
            self._served[device] = self._resolve(device)
        return self._served[device]

    def _resolve(self, device: int) -> Served:
        if self._choice == "eager":
            return Served(None, None)
        native = triton = None
        why_not = self.why_not_native(device)
        if why_not and self._choice == "native":
            raise RuntimeError(
                f"DYNAMS_KERNELS_BACKEND=native, but the CUDA kernels cannot run: {why_not}"
            )
        if self._module is not None and not why_not and self._choice != "triton":
            native = NativeCuda(self._module)
        why_not = self.why_not_triton(device)
        if why_not and self._choice == "triton":
            raise RuntimeError(
                f"DYNAMS_KERNELS_BACKEND=triton, but its kernels cannot run: {why_not}"
            )
        if not why_not and self._load_triton is not None:
            triton = self._load_triton()
        why_not = self.why_not_native_linear(device)
        if native and why_not and self._module and not self._module.HOPPER and _is_hopper(device):
            warnings.warn(f"the compiled linear head is not used: {why_not}", stacklevel=2)
        mixed = self._choice == "auto"
        return Served(native, triton, native is not None and not why_not, mixed)

    def _of(self, tensor: Tensor) -> Served:
        device = tensor.get_device()
        return self._used.get(device) or self._use(device)

    def _use(self, device: int) -> Served:
        served = self.serves(device)
        fallback = self.fallback(device)
        if fallback is not None:
            fallback.tell()
        self._used[device] = served
        return served

    def row_scores(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
    ) -> Tensor:
        """See `registry.Backend`."""
        served = self._of(logits)
        by = served.distances(logits) if kinds & _DISTANCE else served.rows
        others = kinds & ~_DISTANCE
        if by is served.rows or not others:
            scores: Tensor = by.row_scores(logits, labels, class_distances, kinds)
            return scores
        apart = by.row_scores(logits, None, class_distances, _DISTANCE)
        rest = served.rows.row_scores(logits, labels, None, others)
        place = (others & (_DISTANCE - 1)).bit_count()
        return torch.cat((rest[:place], apart, rest[place:]))

    def row_score(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int
    ) -> Tensor:
        """See `registry.Backend`."""
        served = self._of(logits)
        by = served.distances(logits) if kind == _DISTANCE else served.rows
        scores: Tensor = by.row_score(logits, labels, class_distances, kind)
        return scores

    def linear_scores(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        widths: Sequence[int],
        kinds: int,
        pairs: bool,
        *,
        by: Candidate | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See `registry.Backend`. `by`: one of the `linear_candidates` of who `serves` the device; None: as the table chooses."""
        if by is None and self._are_faster_apart(features, weight, widths, kinds, pairs):
            head = (features, weight, bias, labels, class_distances)
            apart = [self.linear_scores(*head, [width], kinds, False)[0] for width in widths]
            return torch.cat(apart, 1), None
        chosen = by or self.linear_choice(features, weight, widths, kinds, pairs)
        served = self._of(features)
        if chosen in HOPPER_TILES and served.native is not None:
            tile = HOPPER_TILES[chosen]
            own = (features, weight, bias, labels)
            return served.native.linear_scores(*own, widths[0], kinds, tile), None
        operands = (features, weight, bias, labels, class_distances, widths, kinds, pairs)
        if chosen == "eager" or served.triton is None:
            return eager.linear_by_blocks(self.row_scores, *operands)
        return served.triton.linear_scores(*operands, descriptors=chosen == "triton descriptors")

    def linear_states(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        kinds: int,
        pairs: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """See `registry.Backend`. By Triton's kernels where `linear_choice` has theirs or the compiled one, which leaves no states."""
        head = (features, weight, bias, labels, kinds, pairs)
        about = ([features.shape[1]], kinds, pairs)
        chosen = self.linear_choice(features, weight, *about)
        triton = self._of(features).triton
        if chosen == "eager" or triton is None:
            return eager.linear_states(*head)
        described = chosen != "triton pointers" and triton.describable(features, weight, *about)
        return triton.linear_states(*head, descriptors=described)

    def _are_faster_apart(
        self, features: Tensor, weight: Tensor, widths: Sequence[int], kinds: int, pairs: bool
    ) -> bool:
        """Whether to serve each of several widths by itself: where the widest goes to the compiled kernel, which knows one at a time.

        On an H100 256, 512 and 1024 columns of 65536 x 1024 -> 1000 took 388 us one after the other, Triton's one pass 625 us.
        """
        return (
            len(widths) > 1
            and not pairs
            and sum(widths) <= _APART_COLUMNS * widths[-1]
            and self.linear_choice(features, weight, widths[-1:], kinds, False) in HOPPER_TILES
        )

    def linear_choice(
        self, features: Tensor, weight: Tensor, widths: Sequence[int], kinds: int, pairs: bool
    ) -> Candidate:
        """The candidate for these operands. It follows from their layout, the same for every batch of a loader: found once."""
        # The user's setting of the time, which decides whether tensor cores are used.
        precision = float32_precision() if features.dtype == torch.float32 else ""
        key = (
            precision,
            *features.shape,
            *features.stride(),
            *weight.shape,
            *weight.stride(),
            (features.data_ptr() | weight.data_ptr()) % 16,
            features.is_neg() or weight.is_neg(),
            features.dtype,
            features.get_device(),
            kinds,
            pairs,
            *widths,
        )
        chosen = self._chosen.get(key)
        if chosen is None:
            served = self._of(features)
            candidates = served.linear_candidates(features, weight, widths, kinds, pairs)
            sizes = (features.shape[0], weight.shape[0], widths[-1])
            # Pairs of classes cost plain torch more than the product.
            may_be_plain = not pairs and self._choice != "triton"
            plain = precision == "ieee" and may_be_plain
            if kinds & _DISTANCE and not (may_be_plain and keeps_logits(features)):
                # Of logits that are rounded the largest two tie where Triton's do not.
                candidates = tuple(name for name in candidates if name != "eager")
            device = multiprocessors(features)
            chosen = choose(*sizes, kinds, device, candidates, tensor_cores=not plain)
            if len(self._chosen) >= _MOST_LAYOUTS:
                self._chosen.clear()
            self._chosen[key] = chosen
        return chosen

    def smallest_k(self, values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`."""
        selected: tuple[Tensor, Tensor] = self._of(values).rows.smallest_k(values, k, by_value)
        return selected

    def smallest_k_into(
        self, values: Tensor, by_value: bool, out_values: Tensor, out_indices: Tensor
    ) -> None:
        """See `registry.Backend`."""
        self._of(values).rows.smallest_k_into(values, by_value, out_values, out_indices)

    def digit_counter(self, values: Tensor) -> PlainDigitCounter:
        """See `registry.Backend`."""
        return PlainDigitCounter(values, self.smallest_k)

    def smallest_k_grouped(
        self,
        values: Tensor,
        groups: Tensor,
        k: Tensor | None,
        fraction: float,
        total: int,
        by_value: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`. Sorts of torch's: the host waits for the groups' sizes in any case."""
        return eager.smallest_k_grouped(values, groups, k, fraction, total, by_value)
