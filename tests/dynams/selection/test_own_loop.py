"""docs/guides/own-loop.md and its examples: every block and both scripts run, on one process and on two."""

from __future__ import annotations

import os
import runpy
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dynams.selection import SubsetSampler
from pages import ROOT, python_blocks

N, EPOCHS = 150, 4
PLAIN, RESUMED, CONSTANT, RANKS, OWN_SCORES = python_blocks("docs/guides/own-loop.md")
EXAMPLES = ROOT / "examples"


class Recorded(TensorDataset):
    """Samples that note when they are taken."""

    taken: list[int]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        self.__dict__.setdefault("taken", []).append(index)
        return super().__getitem__(index)


class Stopped(Exception):
    pass


def digits_like() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (N,), generator=generator)
    return torch.randn(N, 5, generator=generator) + labels[:, None], labels


def reader(**more: Any) -> dict[str, Any]:
    """What a reader of the page has already."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return {
        "train_set": Recorded(*digits_like()),
        "plain_set": TensorDataset(*digits_like()),
        "network": network,
        "model": network,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        "criterion": nn.CrossEntropyLoss(),
        "epochs": EPOCHS,
        **more,
    }


def stop_after(steps: int) -> Callable[[], bool]:
    """Tells when to save, and ends the loop at the step after that, as a crash would."""
    done = 0

    def time_to_save() -> bool:
        nonlocal done
        done += 1
        if done > steps:
            raise Stopped
        return done == steps

    return time_to_save


def test_the_plain_loop_trains_on_the_selection_and_a_resume_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = reader()
    exec(PLAIN, whole)
    taken = whole["train_set"].taken
    assert len(taken) == 2 * N + 2 * 90
    assert sorted(taken[-90:]) == sorted(taken[-180:-90]) == whole["sampler"].indices.tolist()
    assert whole["scheduler"].last_epoch == whole["sampler"].total_steps(64)

    setup = PLAIN.partition("\nfor epoch")[0]
    stopped = reader(resume=False, time_to_save=stop_after(7))  # the first of epoch 2
    exec(setup, stopped)
    with pytest.raises(Stopped):
        exec(RESUMED, stopped)
    resumed = reader(resume=True, time_to_save=lambda: False)
    exec(setup, resumed)
    exec(RESUMED, resumed)
    assert resumed["train_set"].taken == taken[2 * N + 64 :]
    for name, tensor in whole["model"].state_dict().items():
        assert torch.equal(tensor, resumed["model"].state_dict()[name]), name


def test_epochs_of_constant_length_are_as_long_as_told() -> None:
    names = reader()
    exec(PLAIN.partition("\nscoring")[0], names)
    names["scoring"] = torch.utils.data.DataLoader(names["plain_set"], 50)
    exec(CONSTANT, names)
    sampler = names["sampler"]
    sampler.set_epoch(1)
    assert len(list(sampler)) == N
    assert sampler.order().unique().tolist() == sampler.indices.tolist()


def example(name: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", [name, *argv])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def small(made: dict[str, Any]) -> Recorded:
    train_set, _ = made["digits"]()
    return Recorded(*(each[:N] for each in train_set.tensors))


def network_of(made: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = made["network"]()
    return network


def test_the_example_of_one_process_trains_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = example("own_loop.py", ["--epochs", "1"], monkeypatch)
    assert float(capsys.readouterr().out.split("test accuracy")[1]) > 0.5
    train, state = made["train"], str(tmp_path / "state.pt")
    train.__globals__["SAVE_EVERY"] = 7  # the last one in the middle of the last epoch
    whole, whole_set = network_of(made), small(made)
    train(whole, whole_set, epochs=EPOCHS, save=state)
    saved = torch.load(state, weights_only=True)["sampler"]
    assert (saved["epoch"], saved["consumed"]) == (3, 32)
    resumed, resumed_set = network_of(made), small(made)
    train(resumed, resumed_set, epochs=EPOCHS, resume=state)
    assert resumed_set.taken[-58:] == whole_set.taken[-58:]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_the_example_of_several_runs_alone_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    example("distributed_loop.py", ["--epochs", "1"], monkeypatch)
    assert float(capsys.readouterr().out.split("test accuracy")[1]) > 0.5


def rank_of_two(rank: int, port: int, folder: str) -> None:
    """As torchrun starts it."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    names = reader()
    exec(RANKS, names)
    told = {
        "page": names["train_set"].taken,
        "steps": (names["steps"], names["batches"].sampler.total_steps(32, world=2)),
        "selection": names["sampler"].indices,
        "parameters": names["network"].state_dict(),
    }
    names["my_scores"] = lambda mine: -mine.float()
    names["sampler"] = SubsetSampler(N, budget=0.1, epochs=EPOCHS)
    exec(OWN_SCORES, names)
    told["own scores"] = names["sampler"].indices.tolist()

    made = runpy.run_path(str(EXAMPLES / "distributed_loop.py"))
    train, state = made["train"], str(Path(folder, "state.pt"))
    train.__globals__["SAVE_EVERY"] = 7
    for name, options in (("whole", {"save": state}), ("resumed", {"resume": state})):
        network, train_set = network_of(made), small(made)
        train(network, train_set, epochs=EPOCHS, **options)
        told[name] = (train_set.taken, network.state_dict())
        dist.barrier()
    dist.destroy_process_group()
    torch.save(told, Path(folder, str(rank)))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("fork")  # what is imported need not be imported again
    processes = [
        context.Process(target=rank_of_two, args=(rank, port, str(folder))) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [{"folder": folder, **torch.load(folder / str(rank))} for rank in (0, 1)]


def test_the_page_s_loop_of_several_trains_on_every_selected_sample_once(
    told: list[dict[str, Any]],
) -> None:
    steps, planned = told[0]["steps"]
    assert steps == planned == 2 * 3 + 2 * 2  # of 150 and of 90, 64 at a time
    taken = [each["page"] for each in told]
    for start, end in ((0, 75), (75, 150)):
        assert sorted(taken[0][start:end] + taken[1][start:end]) == list(range(N))
    selection = told[0]["selection"].tolist()
    assert torch.equal(told[0]["selection"], told[1]["selection"])
    assert sorted(taken[0][195:] + taken[1][195:]) == selection
    assert len(selection) == 90
    for name, tensor in told[0]["parameters"].items():
        if "running" not in name:
            assert torch.equal(tensor, told[1]["parameters"][name]), name


def test_scores_of_the_reader_s_own_select_for_all(told: list[dict[str, Any]]) -> None:
    for each in told:
        assert each["own scores"] == list(range(N - 15, N))


def test_the_example_of_several_goes_on_where_it_was_with_two_and_alone(
    told: list[dict[str, Any]],
) -> None:
    for each in told:
        whole, resumed = each["whole"], each["resumed"]
        assert whole[0][-29:] == resumed[0][-29:]
        for name, tensor in whole[1].items():
            if "running" not in name or each is told[0]:
                assert torch.equal(tensor, resumed[1][name]), name
    made = runpy.run_path(str(EXAMPLES / "distributed_loop.py"))
    alone = small(made)
    made["train"](
        network_of(made), alone, epochs=EPOCHS, resume=str(told[0]["folder"] / "state.pt")
    )
    rest = [index for each in told for index in each["whole"][0][-29:]]
    assert sorted(alone.taken[-58:]) == sorted(rest)
