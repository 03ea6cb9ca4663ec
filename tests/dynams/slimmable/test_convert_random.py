"""Random networks: a slim width is the full network with the other channels set to zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from foreign_networks import images, stir
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dynams import slimmable
from dynams.slimmable import slim_channels


class Assembled(nn.Module):
    """A network of random stages; each convolution is followed by its own batch-norm."""

    def __init__(self, stages: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self.kinds = [kind for kind, _ in stages]
        self.stages = nn.ModuleList()
        channels = 3
        for kind, size in stages:
            sizes = {
                "conv": [(channels, size, 1)],
                "residual": [(channels, size, 1), (size, channels, 1)],
                "depthwise": [(channels, channels, channels)],
                "concat": [(channels, size, 1), (channels, 3, 1)],
                "pool": [],
            }[kind]
            self.stages.append(
                nn.ModuleList(
                    nn.Sequential(nn.Conv2d(a, b, 3, padding=1, groups=g), nn.BatchNorm2d(b))
                    for a, b, g in sizes
                )
            )
            channels = {"conv": size, "concat": size + 3}.get(kind, channels)
        self.last = nn.Conv2d(channels, 5, 1)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for kind, layers in zip(self.kinds, self.stages, strict=True):
            made = cast(nn.ModuleList, layers)
            if kind == "residual":
                x = F.relu(x + made[1](F.relu(made[0](x))))
            elif kind == "concat":
                x = torch.cat([each(x) for each in made], 1)
            elif kind == "pool":
                x = F.avg_pool2d(x, 2, ceil_mode=True)
            else:
                x = F.gelu(made[0](x))
        return self.fc(F.adaptive_avg_pool2d(self.last(x), 1).flatten(1))


def keeping(parts: Sequence[tuple[int, bool]], width: float) -> Callable[..., Tensor]:
    """A hook that zeroes all but the first channels of each part, or of none that is fixed."""
    keep = torch.cat(
        [torch.arange(c) < (c if fixed else slim_channels(c, width)) for c, fixed in parts]
    )
    return lambda module, args, output: output * keep.view(1, -1, 1, 1)


def masked(model: Assembled, batch: Tensor, width: float) -> Tensor:
    """The full network with the channels that `width` drops set to zero after each layer."""
    handles = [model.last.register_forward_hook(keeping([(5, False)], width))]
    parts = [(3, True)]  # of the image, which keeps all of its channels
    for kind, layers in zip(model.kinds, model.stages, strict=True):
        units = [cast(nn.Sequential, unit) for unit in cast(nn.ModuleList, layers)]
        own = [[(cast(nn.Conv2d, unit[0]).out_channels, False)] for unit in units]
        if kind == "residual":
            own[1] = parts  # what is added drops the same
        elif kind == "depthwise":
            own[0] = parts
        for unit, outputs in zip(units, own, strict=True):
            handles += [layer.register_forward_hook(keeping(outputs, width)) for layer in unit]
        if kind in ("conv", "concat"):
            parts = [part for outputs in own for part in outputs]
    output = cast(Tensor, model(batch))
    for handle in handles:
        handle.remove()
    return output


STAGES = st.lists(
    st.tuples(
        st.sampled_from(["conv", "residual", "depthwise", "concat", "pool"]), st.integers(2, 6)
    ),
    min_size=1,
    max_size=5,
)


@given(STAGES, st.sampled_from([0.3, 0.5, 0.75]), st.integers(0, 1000))
@settings(max_examples=15)
def test_a_slim_network_is_the_full_one_with_the_other_channels_zero(
    stages: list[tuple[str, int]], width: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model = Assembled(stages).double().eval()
    stir(model)
    batch = images(seed, count=2)[:, :, :5, :5]
    network = slimmable.convert(model, (width, 1.0))
    assert torch.equal(network(batch), model(batch))
    torch.testing.assert_close(network(batch, width), masked(model, batch, width))
    assert torch.equal(network.plain(width)(batch), network(batch, width))
