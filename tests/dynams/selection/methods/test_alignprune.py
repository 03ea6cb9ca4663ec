"""AlignPrune: Pearson's coefficient by NumPy, the courses that are remembered, and InfoBatch's rule on top."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dynams.selection import Visits
from dynams.selection.methods import (
    AlignPrune,
    LossTrajectories,
    infobatch_subset,
    loss_alignment,
)
from dynams.selection.signals import Signals
from strategy_inputs import generator, tensor

NUMBERS = st.sampled_from([0.0, 0.1, 0.5, 0.7, 2.0, 9.0, np.inf, np.nan])


def pearson(trajectories: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Row by row, by `np.corrcoef`, over the epochs where the reference is known."""
    known = np.isfinite(reference)
    found = np.full(len(trajectories), np.nan)
    for place, row in enumerate(trajectories[:, known].astype(np.float64)):
        mine, theirs = row, reference[known].astype(np.float64)
        moved = len(row) and np.isfinite(row).all() and np.ptp(row) > 0 and np.ptp(theirs) > 0
        if known.sum() >= 3 and moved:
            found[place] = np.corrcoef(mine, theirs)[0, 1]
    return found


@given(st.integers(0, 6), st.integers(1, 6), st.data())
def test_it_is_pearsons_coefficient(count: int, epochs: int, data: st.DataObject) -> None:
    trajectories = data.draw(arrays.arrays(np.float32, (count, epochs), elements=NUMBERS))
    reference = data.draw(arrays.arrays(np.float32, epochs, elements=NUMBERS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = pearson(trajectories, reference)
    found = loss_alignment(torch.from_numpy(trajectories), torch.from_numpy(reference))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def test_a_falling_loss_scores_high_at_any_scale_and_a_rising_one_low() -> None:
    reference = tensor([2.0, 1.5, 1.2, 1.0])
    courses = tensor([[2.0, 1.5, 1.2, 1.0], [90.0, 65.0, 50.0, 40.0], [1.0, 1.2, 1.5, 2.0]])
    found = loss_alignment(courses, reference)
    assert found[:2].tolist() == pytest.approx([1.0, 1.0])
    assert found[2] < -0.9


@given(st.integers(3, 5), st.integers(0, 8), st.integers(0, 99))
def test_the_last_refreshes_are_remembered(window: int, refreshes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses, references = rng.random((refreshes, 4)), rng.random((refreshes, 3))
    kept = LossTrajectories(4, window)
    again = LossTrajectories(4, window)
    for place in range(refreshes):
        kept.append(tensor(losses[place]), tensor(references[place]))
    for name, each in kept.tensors().items():
        again.tensors()[name].copy_(each)
    found = kept.scores()
    if refreshes < 3:
        assert bool(found.isnan().all())
    else:
        late = losses[-window:].T.astype(np.float32), references[-window:].mean(1)
        np.testing.assert_allclose(found.numpy(), pearson(*late), atol=2e-5)
    assert torch.equal(found.nan_to_num(9.0), again.scores().nan_to_num(9.0))


def known(alignment: list[float], losses: list[float]) -> Signals:
    scores = {"alignment": tensor(alignment), "last_loss": tensor(losses)}
    return Signals(len(losses), scores)


def test_it_is_infobatch_by_alignment_or_by_loss_while_there_is_none() -> None:
    aligned, losses = [0.9, -0.8, np.nan, 0.5, 0.95, -0.2], [3.0, 0.1, 0.2, 5.0, 0.3, 0.4]
    for scores, by in ((aligned, aligned), ([np.nan] * 6, losses)):
        for seed in range(20):
            got = AlignPrune(0.7).select(
                known(scores, losses), 0, epoch=4, progress=0.5, generator=generator(seed)
            )
            indices, weights = infobatch_subset(tensor(by), generator(seed), ratio=0.7)
            assert torch.equal(got.indices, indices)
            assert got.weights is not None
            assert torch.equal(got.weights, weights)
    last = AlignPrune().select(
        known(aligned, losses), 0, epoch=9, progress=0.875, generator=generator()
    )
    assert (len(last.indices), last.weights) == (6, None)


def test_visits_remember_courses_and_their_state_goes_on() -> None:
    rng = np.random.default_rng(2)
    visits, after = Visits(5, ["alignment"]), Visits(5, ["alignment"])
    courses, means = [], []
    latest = np.full(5, np.inf)
    for epoch in range(13):
        places = rng.permutation(5)[:4] if epoch else np.arange(5)
        logits = tensor(rng.normal(size=(len(places), 3)))
        labels = torch.zeros(len(places), dtype=torch.int64)
        held = tensor(rng.random(3))
        for each in (visits, after) if epoch >= 7 else (visits,):
            each.record(epoch, torch.from_numpy(places), logits, labels)
            each.compare(held)
        latest[places] = -logits.double().log_softmax(1)[:, 0].numpy()
        courses.append(latest.copy())
        means.append(float(held.double().mean()))
        if epoch == 6:
            after.load_state_dict(visits.state_dict())
    wanted = pearson(np.array(courses[-10:]).T, np.array(means[-10:]))
    np.testing.assert_allclose(visits.score("alignment").numpy(), wanted, atol=1e-5)
    assert torch.equal(visits.score("alignment"), after.score("alignment"))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got shapes \(2, 3\) and \(4,\), want \(N, T\) and"):
        loss_alignment(torch.zeros(2, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="window: got 2, want at least 3"):
        LossTrajectories(2, 2)
    with pytest.raises(ValueError, match=r"losses: got \(3,\), want \(2,\)"):
        LossTrajectories(2).append(torch.zeros(3), torch.zeros(1))
    with pytest.raises(ValueError, match="visits: got last_loss, want alignment"):
        Visits(2, ["last_loss"]).compare(torch.zeros(1))
