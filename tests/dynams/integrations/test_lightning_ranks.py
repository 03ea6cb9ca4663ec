"""Two ranks in Lightning: each sample of a selection once, as many batches on both, and resumed exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

pytest.importorskip("lightning.pytorch")

from lightning_ranks import RANKS, rank_of_two
from lightning_runs import EPOCHS, SHORTER, N, fit, selecting


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both ranks have left what they saw, and checkpoints."""
    place = tmp_path_factory.mktemp("ranks")
    # Forked, nothing is imported again; where there are GPUs a process that has run backward cannot be forked.
    context = mp.get_context("spawn" if torch.cuda.is_available() else "fork")
    processes = [context.Process(target=rank_of_two, args=(rank, place)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return place


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def test_ranks_train_on_what_those_of_the_loop_train_on(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["trained"] == rank["wanted"]
        assert rank["as the loop"]
        assert rank["validated"] == list(range(EPOCHS))


def test_each_selected_sample_is_in_one_batch_of_one_rank(ranks: list[dict[str, Any]]) -> None:
    sizes = []
    for epoch in range(EPOCHS):
        batches = [[each for at, each in rank["trained"] if at == epoch] for rank in ranks]
        assert len(batches[0]) == len(batches[1])
        trained = [index for share in batches for batch in share for index in batch]
        assert len(set(trained)) == len(trained)
        sizes.append(len(trained))
    assert sizes == [N, N, 33, 15]
    assert ranks[0]["batches"] == ranks[1]["batches"] == [7] * 14 + [4] * 4 + [2] * 2


def test_ranks_share_scoring_and_validation(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["scored"] == (EPOCHS - 1) * N // RANKS
        assert rank["checked"] == EPOCHS * N // RANKS


def test_ranks_resume_in_mid_epoch_exactly(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["resumed"] == rank["trained"][9:]
        assert rank["as uninterrupted"]


def test_all_ranks_are_told_where_one_cannot_score(ranks: list[dict[str, Any]]) -> None:
    assert ranks[1]["failed"] == "OSError: disk"
    assert ranks[0]["failed"].endswith(": rank 1 could not begin an epoch: OSError: disk")


def test_in_mid_epoch_another_number_of_ranks_is_refused(
    ranks: list[dict[str, Any]], folder: Path
) -> None:
    with pytest.raises(RuntimeError, match="resume with the same batch size and number of ranks"):
        fit(selecting(**SHORTER), checkpoint=folder / "step=9.ckpt", loader={"batch_size": 4})
