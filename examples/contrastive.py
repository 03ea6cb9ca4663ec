"""Trains two towers on pairs (images and their texts, say) by the hardest pairs of large batches, with no similarity matrix.

    python examples/contrastive.py --steps 200

To a contrastive loss a batch of B pairs is a linear head: the weight is the other tower's embeddings, and a sample's label is
its own pair's number. `dynams_kernels.linear_scores` therefore gives each pair's loss and margin, in both directions, in O(B)
memory where the similarity matrix takes O(B^2).

Each step embeds the batch without gradient, keeps the 60 % of the pairs with the largest symmetric loss, and embeds those again
with gradient. Their negatives are all other pairs of the batch: the embeddings of those left out are there anyway and stand as
constants. So the loss that a pair is trained on is the very one that it was chosen by; with negatives from the kept ones alone
it would be another. What is saved is the towers' activations and backward passes for the pairs left out: in units of one forward
pass, all pairs cost 3, the hardest 60 % cost 1 + 0.6 * 3 = 2.8.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dynams_kernels import linear_scores, smallest_k


class Towers(nn.Module):
    """Two encoders into one unit sphere, and the temperature that divides their similarities."""

    def __init__(self, first: nn.Module, second: nn.Module, temperature: float = 0.07) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, D) of both, of length 1."""
        return F.normalize(self.first(images), dim=1), F.normalize(self.second(texts), dim=1)

    def scale(self) -> Tensor:
        """1 over the temperature."""
        return self.log_scale.exp()


def pair_scores(
    images: Tensor, texts: Tensor, scale: Tensor, kinds: Sequence[str] = ("loss", "label")
) -> dict[str, Tensor]:
    """Scores (2, B) of the pairs of two sets of embeddings (B, D): image to text, and text to image.

    ``loss`` is InfoNCE's; ``label`` the margin, scaled, by which a sample's own pair is nearer than the next: below 0, retrieval
    fails.
    """
    own = torch.arange(len(images), device=images.device)
    there = linear_scores(scale * images, texts, kinds, labels=own)
    back = linear_scores(scale * texts, images, kinds, labels=own)
    return {kind: torch.stack([there[kind], back[kind]]) for kind in kinds}


def hardest_pairs(images: Tensor, texts: Tensor, scale: Tensor, keep: float = 0.6) -> Tensor:
    """The pairs of the largest symmetric loss: their numbers, ascending."""
    losses = pair_scores(images, texts, scale, ["loss"])["loss"]
    return smallest_k(-losses.mean(0), keep).indices


def kept_loss(
    kept: Tensor,
    images: Tensor,
    texts: Tensor,
    all_images: Tensor,
    all_texts: Tensor,
    scale: Tensor,
) -> Tensor:
    """The mean symmetric InfoNCE of the kept pairs' embeddings against the whole batch, the others constant."""
    there = linear_scores(
        scale * images, all_texts.index_copy(0, kept, texts), ["loss"], labels=kept
    )
    back = linear_scores(
        scale * texts, all_images.index_copy(0, kept, images), ["loss"], labels=kept
    )
    return (there["loss"] + back["loss"]).mean() / 2


def training_step(
    towers: Towers, optimiser: torch.optim.Optimizer, images: Tensor, texts: Tensor, keep: float
) -> tuple[Tensor, Tensor]:
    """One step on the hardest pairs of a batch: their numbers, and their loss.

    Towers with dropout embed a pair differently the second time: put them in eval mode for the first pass.
    """
    with torch.no_grad():
        all_images, all_texts = towers(images, texts)
        kept = hardest_pairs(all_images, all_texts, towers.scale(), keep)
    some_images, some_texts = towers(images[kept], texts[kept])
    loss = kept_loss(kept, some_images, some_texts, all_images, all_texts, towers.scale())
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return kept, loss.detach()


def pairs(
    count: int, draws: torch.Generator, size: int = 8, words: int = 12
) -> tuple[Tensor, Tensor]:
    """Synthetic images (N, 3, size, size) and texts (N, words) of 64 words, both drawn from one hidden vector a pair."""
    truth = torch.Generator().manual_seed(0)
    paint = torch.randn(16, 3 * size * size, generator=truth)
    speak = torch.randn(16, words * 64, generator=truth)
    hidden = torch.randn(count, 16, generator=draws)
    noise = torch.randn(count, 3 * size * size, generator=draws)
    images = (hidden @ paint + noise).reshape(count, 3, size, size)
    return images, (hidden @ speak).reshape(count, words, 64).argmax(2)


def small_towers(width: int = 32) -> Towers:
    """A convolution for images of 8 x 8 and a bag of (position, word) embeddings for texts of 12 words."""
    image = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, width)
    )
    return Towers(image, nn.Sequential(_Places(64), nn.EmbeddingBag(12 * 64, width)))


class _Places(nn.Module):
    """Makes the same word another one at each place."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = words

    def forward(self, texts: Tensor) -> Tensor:
        """Texts (B, L) of numbers in [0, L * words)."""
        return texts + self.words * torch.arange(texts.shape[1], device=texts.device)


def main(arguments: Sequence[str] | None = None) -> float:
    """Trains on pairs never seen before, and tells how many of new pairs are found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--keep", type=float, default=0.6)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    draws = torch.Generator().manual_seed(options.seed)
    towers = small_towers().to(options.device)
    optimiser = torch.optim.AdamW(towers.parameters(), options.rate)
    loss = torch.tensor(math.nan)
    for _ in range(options.steps):
        images, texts = (part.to(options.device) for part in pairs(options.batch, draws))
        _kept, loss = training_step(towers, optimiser, images, texts, options.keep)

    with torch.no_grad():
        images, texts = (part.to(options.device) for part in pairs(options.batch, draws))
        margins = pair_scores(*towers(images, texts), towers.scale(), ["label"])["label"]
    found = (margins > 0).float().mean().item()
    print(
        f"{options.steps} steps, loss {loss.item():.3f}; of {options.batch} new pairs {found:.1%} found"
    )
    return found


if __name__ == "__main__":
    main()
