"""Contrastive heads: the example, against NumPy in float64 on the whole similarity matrix."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import oracle
from example_files import EXAMPLES, load
from pages import python_blocks

contrastive = load("contrastive")

TEMPERATURES = [0.02, 0.07, 1.0]


def embeddings(count, width=16, dtype=torch.float64):
    draws = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(count, width, generator=draws, dtype=dtype), dim=1)
    near = images + 0.3 * torch.randn(count, width, generator=draws, dtype=dtype)
    return images, F.normalize(near, dim=1)


def both_ways(images, texts, temperature, kind):
    """(2, B): a score of the rows of the similarity matrix, and of its columns."""
    similarities = oracle.array(images) @ oracle.array(texts).T / temperature
    own = np.arange(len(similarities))
    return np.stack(
        [oracle.scores(matrix, [kind], own)[kind] for matrix in (similarities, similarities.T)]
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("count", [2, 257])
def test_scores_of_pairs_are_those_of_the_similarity_matrix(count, temperature):
    images, texts = embeddings(count)
    scale = torch.tensor(1 / temperature, dtype=torch.float64)
    found = contrastive.pair_scores(images, texts, scale)
    for kind in ("loss", "label"):
        np.testing.assert_allclose(
            found[kind].numpy(), both_ways(images, texts, temperature, kind), rtol=1e-6, atol=1e-12
        )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_pairs_of_the_largest_symmetric_loss_are_kept(temperature):
    images, texts = embeddings(101)
    scale = torch.tensor(1 / temperature, dtype=torch.float64)
    kept = contrastive.hardest_pairs(images, texts, scale, 0.6)
    losses = both_ways(images, texts, temperature, "loss").mean(0)
    assert kept.tolist() == oracle.smallest_k(-losses, 61).tolist()


def test_a_step_has_the_gradient_of_the_kept_pairs_among_all_others():
    torch.manual_seed(0)
    ours, plain = (contrastive.small_towers().double() for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    images, texts = contrastive.pairs(40, torch.Generator().manual_seed(1))
    images = images.double()
    kept, loss = contrastive.training_step(
        ours, torch.optim.SGD(ours.parameters(), 0.0), images, texts, 0.6
    )

    first, second = plain(images, texts)
    losses = both_ways(first, second, 0.07, "loss").mean(0)
    assert kept.tolist() == oracle.smallest_k(-losses, 24).tolist()
    left_out = torch.ones(40, 1, dtype=torch.bool)
    left_out[kept] = False
    first, second = (torch.where(left_out, part.detach(), part) for part in (first, second))
    one_way = F.cross_entropy(plain.scale() * first[kept] @ second.T, kept)
    other_way = F.cross_entropy(plain.scale() * second[kept] @ first.T, kept)
    want = (one_way + other_way) / 2
    want.backward()
    torch.testing.assert_close(loss, want.detach(), rtol=1e-6, atol=0)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-9)


def test_training_finds_more_pairs_than_chance(capsys):
    found = contrastive.main("--steps 20 --batch 128 --device cpu".split())
    assert found > 4 / 128
    assert f"{found:.1%} found" in capsys.readouterr().out


def test_the_guide_trains_on_the_hardest_pairs():
    torch.manual_seed(0)
    names = {}
    score, step = python_blocks("docs/guides/contrastive.md")
    exec(score, names)
    images, texts = names["images"], names["texts"]
    losses = both_ways(images, texts, 0.07, "loss").mean(0)
    kept = names["hardest"].numpy()
    assert len(kept) == 307
    assert losses[kept].min() >= np.delete(losses, kept).max() - 1e-5
    margins = both_ways(images, texts, 0.07, "label")[0]
    assert names["found"].item() == pytest.approx((margins > 0).mean())
    exec(step, names)
    assert names["loss"].item() == pytest.approx(losses[kept].mean(), rel=1e-5)
    assert names["some_images"].grad.abs().sum() > 0
    assert names["some_texts"].grad.abs().sum() > 0


@pytest.mark.parametrize("page", ["contrastive", "language-models"])
def test_the_guides_links_lead_to_files(page):
    path = EXAMPLES.parent / "docs" / "guides" / f"{page}.md"
    links = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    assert len(links) >= 2
    for link in links:
        assert (path.parent / link).is_file(), link
