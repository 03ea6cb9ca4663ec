"""Language models on chosen tokens: the examples, against NumPy in float64 on logits that are stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import oracle
from example_files import load
from pages import python_blocks

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
text_batches, lm, reducible = map(load, ("text_batches", "language_model", "reducible_tokens"))

IGNORED = -100


def batch_of(vocabulary, sequences=4, length=24, seed=0):
    """Random tokens whose sequences end in padding of several lengths, with a hole; the last has no label at all."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(vocabulary, (sequences, length), generator=draws)
    inputs = torch.randint(vocabulary, (sequences, length), generator=draws)
    for sequence in range(sequences - 1):
        labels[sequence, length - 5 * sequence :] = IGNORED
    labels[0, 3:5] = IGNORED
    labels[-1] = IGNORED
    return text_batches.Batch(inputs, labels, (labels != IGNORED).sum(1).tolist())


def model_of(vocabulary, seed=0):
    torch.manual_seed(seed)
    model = lm.small_model(vocabulary, 64, 1, 24).double()
    # The scale at which training soon arrives: losses that tell tokens apart.
    model.get_output_embeddings().weight.data.mul_(20)
    return model


def parts_of(model, batch):
    hidden = model.base_model(input_ids=batch.inputs, use_cache=False).last_hidden_state
    return hidden, model.get_output_embeddings().weight


def oracle_scores(model, batch, rank="loss"):
    """The scores of all tokens by the formulas; those without a label NaN."""
    with torch.no_grad():
        hidden, weight = parts_of(model, batch)
    logits = oracle.linear(oracle.array(hidden.flatten(0, 1)), oracle.array(weight))
    labels = batch.labels.flatten().numpy()
    found = oracle.scores(logits, [rank], labels)[rank]
    return np.where(labels == IGNORED, np.nan, found)


@pytest.mark.parametrize("rank", ["loss", "gap", "label"])
@pytest.mark.parametrize("vocabulary", [97, 1000])
def test_the_hardest_of_the_labelled_tokens_are_kept(vocabulary, rank):
    model, batch = model_of(vocabulary), batch_of(vocabulary)
    kept = lm.hardest_tokens(0.6, rank)(*parts_of(model, batch), batch)
    scores = oracle_scores(model, batch, rank)
    count = oracle.share(0.6, sum(batch.valid))
    assert kept.tolist() == oracle.smallest_k(-scores if rank == "loss" else scores, count).tolist()
    assert IGNORED not in batch.labels.flatten()[kept]


@pytest.mark.parametrize("keep", [0.01, 0.6, 1.0])
def test_a_quota_of_each_sequence_is_exact(keep):
    model, batch = model_of(97), batch_of(97)
    kept = lm.hardest_tokens(keep, quota="sequence")(*parts_of(model, batch), batch)
    sequences = np.repeat(np.arange(4), 24)
    quotas = [oracle.share(keep, valid) for valid in batch.valid]
    want = oracle.smallest_k_grouped(-oracle_scores(model, batch), sequences, quotas)
    assert kept.tolist() == want.tolist()
    assert np.bincount(sequences[kept.numpy()], minlength=4).tolist() == quotas
    assert quotas[-1] == 0


@pytest.mark.parametrize("quota", ["batch", "sequence"])
def test_random_tokens_are_labelled_ones_and_others_each_time(quota):
    batch = batch_of(97)
    hidden = torch.zeros(4, 24, 8)
    first, second = (lm.random_tokens(0.6, quota)(hidden, hidden, batch) for _ in range(2))
    assert len(first) == len(second) > 0
    assert IGNORED not in batch.labels.flatten()[torch.cat([first, second])]
    assert first.tolist() != second.tolist()


def test_a_batch_without_labels_keeps_nothing():
    batch = batch_of(97)
    nothing = text_batches.Batch(batch.inputs, torch.full_like(batch.labels, IGNORED), [0] * 4)
    for quota in ("batch", "sequence"):
        assert len(lm.smallest_tokens(torch.rand(4, 24), nothing, 0.6, quota)) == 0


@pytest.mark.parametrize("loss", ["torch", "scores"])
@pytest.mark.parametrize("choice", ["hardest", "all"])
def test_a_step_has_the_gradient_of_the_masked_loss(choice, loss):
    model, plain, batch = model_of(97), model_of(97), batch_of(97)
    choose = lm.hardest_tokens(0.6) if choice == "hardest" else lm.all_tokens
    told = []
    optimiser = torch.optim.SGD(model.parameters(), 0.0)
    found = lm.training_step(model, optimiser, batch, choose, lm.LOSSES[loss], done=told.append)

    labels = batch.labels.flatten()
    if choice == "hardest":
        kept = oracle.smallest_k(-oracle_scores(plain, batch), oracle.share(0.6, sum(batch.valid)))
        mask = torch.zeros(labels.shape, dtype=torch.bool)
        mask[torch.from_numpy(kept)] = True
        labels = labels.masked_fill(~mask, IGNORED)
    logits = plain(input_ids=batch.inputs).logits.flatten(0, 1)
    want = F.cross_entropy(logits, labels, ignore_index=IGNORED)
    want.backward()
    torch.testing.assert_close(found, want.detach(), rtol=1e-6, atol=0)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            ours.grad, theirs.grad, rtol=1e-5, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert told == ["body forward", "choice", "head loss", "backward", "optimiser"]


@pytest.mark.parametrize("quota", ["batch", "sequence"])
def test_the_most_reducible_tokens_exceed_the_references_loss_most(quota):
    model, reference, batch = model_of(97), model_of(97, seed=1), batch_of(97)
    kept = reducible.most_reducible_tokens(reference, 0.6, quota)(*parts_of(model, batch), batch)
    excess = oracle_scores(model, batch) - oracle_scores(reference, batch)
    if quota == "batch":
        want = oracle.smallest_k(-excess, oracle.share(0.6, sum(batch.valid)))
    else:
        quotas = [oracle.share(0.6, valid) for valid in batch.valid]
        want = oracle.smallest_k_grouped(-excess, np.repeat(np.arange(4), 24), quotas)
    assert kept.tolist() == want.tolist()
    hardest = lm.hardest_tokens(0.6, quota=quota)(*parts_of(model, batch), batch)
    assert kept.tolist() != hardest.tolist()


def test_held_out_loss_is_of_all_labelled_tokens():
    model, batch = model_of(97), batch_of(97)
    want = np.nanmean(oracle_scores(model, batch))
    # Float32 logits: what training holds is no better.
    assert lm.held_out_loss(model, batch, 3) == pytest.approx(want, rel=1e-6)


def test_windows_label_each_token_with_the_next_and_end_with_their_text():
    texts = ["import this\n" * 9, "", "x", "def f():\n    return 1\n"]
    tokenizer = text_batches.train_tokenizer(texts, 300)
    data = text_batches.windows(tokenizer, texts, 8)
    assert data.valid == (data.labels != IGNORED).sum(1).tolist()
    ids = [tokenizer.encode(text).ids for text in texts]
    assert sum(data.valid) == sum(max(0, len(of_text) - 1) for of_text in ids)
    first = ids[0]
    ends = -(-(len(first) - 1) // 8)  # windows of the first text
    inputs, labels = (
        part[:ends].flatten()[: len(first) - 1] for part in (data.inputs, data.labels)
    )
    assert inputs.tolist() == first[:-1]
    assert labels.tolist() == first[1:]


def test_fewer_merges_are_the_smaller_tokenizer():
    texts = text_batches.texts_of("held out", 0.3)
    small, large = (text_batches.train_tokenizer(texts, size) for size in (400, 600))
    cut = text_batches.first_merges(large, 400)
    assert cut.get_vocab() == small.get_vocab()
    assert cut.encode(texts[0]).ids == small.encode(texts[0]).ids
    assert cut.decode(cut.encode(texts[0]).ids) == texts[0]


def test_parts_of_the_text_share_no_file():
    parts = {part: set(text_batches.texts_of(part, 0.5)) for part in text_batches.PARTS}
    held_out, reference, training = (
        parts[part] - {""} for part in ("held out", "reference", "training")
    )
    assert min(len(held_out), len(reference), len(training)) > 0
    assert not held_out & reference
    assert not (held_out | reference) & training


def test_batches_walk_all_windows_anew_each_time():
    data = batch_of(97, sequences=7)
    data = data._replace(inputs=torch.arange(7)[:, None].expand(7, 24).contiguous())
    source = text_batches.batches(data, 2, seed=0)
    drawn = [next(source) for _ in range(6)]
    for batch in drawn:
        assert batch.valid == (batch.labels != IGNORED).sum(1).tolist()
    first, second = (
        [number for batch in part for number in batch.inputs[:, 0].tolist()]
        for part in (drawn[:3], drawn[3:])
    )
    assert len(set(first)) == len(set(second)) == 6
    assert first != second
    with pytest.raises(ValueError, match="size: got 8, want at most the 7 windows"):
        next(text_batches.batches(data, 8, seed=0))


TINY = "--vocabulary 300 --width 64 --layers 1 --length 32 --megabytes 0.3 --device cpu --steps 2"


@pytest.mark.parametrize(
    "more",
    ["--quota sequence --loss scores --rank gap", "--choose random --bf16"],
)
def test_the_language_model_runs(more, capsys):
    loss = lm.main([*TINY.split(), *more.split()])
    assert 3 < loss < 8  # random weights: about log 300
    assert f"held-out loss {loss:.3f}" in capsys.readouterr().out


def test_reducible_tokens_runs(capsys):
    loss = reducible.main([*TINY.split(), "--reference-steps", "1"])
    assert 3 < loss < 8
    assert "the reference's" in capsys.readouterr().out


def test_the_guide_keeps_what_its_words_say():
    torch.manual_seed(0)
    names = {}
    exec("\n".join(python_blocks("docs/guides/language-models.md")), names)
    labels = names["labels"].flatten().numpy()
    valid = int((labels != IGNORED).sum())
    assert valid == 4 * 32 - 12 - 24

    def losses(model):
        with torch.no_grad():
            logits = model.double()(input_ids=names["inputs"]).logits.flatten(0, 1)
        return oracle.scores(oracle.array(logits), ["loss"], labels)["loss"]

    hardest, irreducible = losses(names["model"]), losses(names["reference"])
    for found, want in (("kept", hardest), ("reducible", hardest - irreducible)):
        kept = names[found].numpy()
        assert len(kept) == int(0.6 * valid)
        others = np.setdiff1d(np.flatnonzero(labels != IGNORED), kept)
        # Float32 losses here, and both models' weights are small: neighbours may change places.
        assert want[kept].min() >= want[others].max() - 1e-5
    sequences = names["kept_of_each"].numpy() // 32
    assert np.bincount(sequences).tolist() == [19, 12, 19, 4]
    assert IGNORED not in labels[names["kept_of_each"].numpy()]
    torch.testing.assert_close(names["fused"], names["plain"])
    torch.testing.assert_close(names["loss"], names["plain"])
