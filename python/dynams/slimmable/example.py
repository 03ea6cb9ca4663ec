"""An example of what a network takes, found by trying."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dynams.slimmable.recorder import logits_in

_SIDES = (32, 64, 224, 28, 16, 12, 8, 96, 128, 256, 384, 48, 299)
# More positions than pictures of these sides have are not tried: a volume of 224 takes gigabytes.
_MOST = 64**3


def example_for(model: nn.Module) -> Tensor:
    """Return a batch of two that ``model``, in eval mode, can be called with.

    Raises:
        ValueError: none was found; the message says what was tried last, and what came of it.
    """
    told = "nothing to go by: it has no layer with a weight"
    for batch in _candidates(model):
        try:
            with torch.no_grad():
                output = model(batch)
            logits = logits_in(output)
            # A size that merges samples is none the network is for; what gives no logits is told later.
            if not isinstance(logits, Tensor) or len(logits) == len(batch):
                return batch
            told = f"it gives logits {tuple(logits.shape)} (for an input of shape {tuple(batch.shape)})"
        except Exception as error:  # noqa: PERF203 - whatever a module of the user's raises
            told = f"{error} (for an input of shape {tuple(batch.shape)})"
    raise ValueError(
        f"example: got None, want a batch that the network takes, none was found: {told}"
    )


def others_like(example: Tensor) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Yield examples of other sizes, each with the axes along which it differs: all, or the batch alone."""
    shape = list(example.shape)
    # Integers are tokens, or pictures of bytes, which have channels and sides as others have.
    sided = example.is_floating_point() or example.dim() > 3
    if example.dim() > 2 or not sided:
        longer = [shape[0] + 1, *shape[1:]]
        first = 2 if sided else 1
        for dim in range(first, len(shape)):
            # Multiples of patches and strides; little, as a pass over the network costs time.
            step = 32 if shape[dim] >= 128 else 8
            longer[dim] += step * (dim - first + 1) if sided else 3
        if len(longer) > first:
            yield _like(example, longer), (0, *range(first, len(shape)))
    yield _like(example, [shape[0] + 1, *shape[1:]]), (0,)


def _candidates(model: nn.Module) -> Iterator[Tensor]:
    parameter = next(iter(model.parameters()), torch.empty(0, device="cpu"))
    kind, device = parameter.dtype, parameter.device
    inputs = getattr(model, "dummy_inputs", None)
    if isinstance(inputs, Mapping) and isinstance(
        first := next(iter(inputs.values()), None), Tensor
    ):
        yield (
            first[:2].to(device) if len(first) > 1 else first.repeat(2, *first.shape[1:]).to(device)
        )
    settings: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(settings, Mapping) and "input_size" in settings:
        yield _images((2, *settings["input_size"]), kind, device)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            yield torch.arange(16, device=device).view(2, 8) % module.num_embeddings
        elif isinstance(module, nn.modules.conv._ConvNd):
            dims = module.weight.dim() - 2
            for side in (each for each in _SIDES if each**dims <= _MOST):
                yield _images((2, module.in_channels, *(side,) * dims), kind, device)
        elif isinstance(module, nn.Linear):
            yield _images((2, module.in_features), kind, device)
            for side in _SIDES:
                if module.in_features % (side * side) == 0:
                    channels = module.in_features // (side * side)
                    yield _images((2, channels, side, side), kind, device)
        else:
            continue
        return


def _images(shape: tuple[int, ...], kind: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32).to(
        device, kind
    )


def _like(example: Tensor, shape: list[int]) -> Tensor:
    if example.is_floating_point():
        return _images(tuple(shape), example.dtype, example.device)
    count = torch.Size(shape).numel()
    return example.flatten()[torch.arange(count, device=example.device) % example.numel()].view(
        shape
    )
