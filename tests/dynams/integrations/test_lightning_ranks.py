"""Two ranks in Lightning: each sample of a selection once, as many batches on both, and resumed exactly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pl = pytest.importorskip("lightning.pytorch")

from lightning_runs import (  # noqa: E402
    BATCH,
    EPOCHS,
    SHORTER,
    N,
    fit,
    loop,
    same_weights,
    samples,
    selecting,
)

from two_ranks import told_by_two  # noqa: E402

ON_RANKS: dict[str, Any] = {"strategy": "ddp", "devices": 2, "loader": {"batch_size": BATCH // 2}}


def trained(rank: int, folder: Path) -> dict[str, Any]:
    """Train in the loop and in Lightning, resume, and fail."""
    os.environ["LOCAL_RANK"] = str(rank)  # Lightning starts no processes then
    wanted, network = loop(**SHORTER)
    saving = pl.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(selecting(**SHORTER), saving, **ON_RANKS)
    workers = {**ON_RANKS["loader"], "num_workers": 2, "persistent_workers": True}
    resumed = fit(
        selecting(**SHORTER),
        checkpoint=folder / "step=9.ckpt",
        **{**ON_RANKS, "loader": workers},
    )
    return {
        "wanted": samples(wanted),
        "trained": samples(whole.network.steps),
        "as the loop": same_weights(network, whole.network),
        "batches": [step.batches for step in whole.network.steps],
        "validated": whole.network.validated,
        "checked": whole.network.checked,
        "scored": sum(count for *_, count in whole.network.scored),
        "resumed": samples(resumed.network.steps),
        "as uninterrupted": same_weights(resumed.network, whole.network),
        "failed": failed(rank),
    }


def failed(rank: int) -> str:
    """What a rank is told where rank 1 cannot score."""

    def score() -> Any:
        raise OSError("disk")

    own = {"score": score} if rank == 1 else {}
    with pytest.raises((OSError, RuntimeError)) as caught:
        fit(selecting(**SHORTER, **own), **ON_RANKS)
    return str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where checkpoints are."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return told_by_two(trained, folder)


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
        assert rank["scored"] == (EPOCHS - 1) * N // 2
        assert rank["checked"] == EPOCHS * N // 2


def test_ranks_resume_in_mid_epoch_exactly(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["resumed"] == rank["trained"][9:]
        assert rank["as uninterrupted"]


def test_all_ranks_are_told_where_one_cannot_score(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["failed"] == "rank 1 could not begin an epoch: OSError: disk"
    assert ranks[1]["failed"] == "disk"


def test_in_mid_epoch_another_number_of_ranks_is_refused(
    ranks: list[dict[str, Any]], folder: Path
) -> None:
    with pytest.raises(RuntimeError, match="resume with the same batch size and number of ranks"):
        fit(selecting(**SHORTER), checkpoint=folder / "step=9.ckpt", loader={"batch_size": 4})
