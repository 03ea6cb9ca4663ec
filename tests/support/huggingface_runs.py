"""Tiny trainings by Hugging Face's Trainer, and the plain loop that they are compared with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    default_data_collator,
    get_scheduler,
)

from accelerate_runs import forget
from dynams.integrations.huggingface import MarginSelection
from dynams.selection import SubsetSampler, linear, score_batches

N, EPOCHS, BATCH = 41, 5, 4
VARYING = {"budget": linear(0.9, 0.4), "warmup_epochs": 1, "tail": 0.2}  # every kind of epoch
SIZES = [41, 37, 27, 16, 41]


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    """Trainer's settings are the process's: none of them is left to other tests."""
    before = dict(os.environ)
    yield
    forget()
    os.environ.clear()
    os.environ |= before


def samples(kind: str, count: int = N, index: bool = False) -> list[dict[str, Any]]:
    source = torch.Generator().manual_seed(0)
    found = []
    for at in range(count):
        each: dict[str, Any] = {"labels": at % 3}
        if kind != "image":
            each["input_ids"] = torch.randint(0, 30, (6,), generator=source)
        else:
            each["pixel_values"] = torch.randn(3, 8, 8, generator=source) + at % 3
        found.append({**each, "index": at} if index else each)
    return found


def network(kind: str) -> nn.Module:
    """A "text" network has dropout; one of "still text" has none."""
    torch.manual_seed(0)
    if kind != "image":
        dropout = 0.1 if kind == "text" else 0.0
        config = BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
            num_labels=3,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        return BertForSequenceClassification(config)
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3
        )
    )


class Recording(MarginSelection, Trainer):
    """Keeps the indices of every micro-batch that it trains on."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *rest: Any) -> Tensor:
        self.trained = getattr(self, "trained", [])
        self.trained.append(inputs.pop("index").tolist())
        return super().training_step(model, inputs, *rest)


def trainer(folder: Path, kind: str = "text", count: int = N, **changed: Any) -> Recording:
    given = {
        "train_dataset": samples(kind, count, index=True),
        "scoring_dataset": samples(kind, count),
    }
    given |= {"selection": VARYING, "model": network(kind), "eval_dataset": samples(kind)[:8]}
    own = {
        name: changed.pop(name)
        for name in (*given, "callbacks", "compute_metrics")
        if name in changed
    }
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": EPOCHS,
        "learning_rate": 0.01,
        "max_grad_norm": 0.0,
        "optim": "adamw_torch",
        "save_strategy": "no",
        "report_to": [],
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return Recording(args=TrainingArguments(**(settings | changed)), **(given | own))


def plain_loop(kind: str, count: int = N) -> tuple[list[list[int]], nn.Module]:
    """The batches of a loop over the sampler, and the network trained by it."""
    model = network(kind)

    def loader(batch_size: int, **more: Any) -> DataLoader[Any]:
        return DataLoader(
            samples(kind, count, index=True),
            batch_size,
            collate_fn=default_data_collator,
            generator=torch.Generator(),  # dropout's numbers are the network's alone, as in Trainer
            **more,
        )

    def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        return model(**{name: inputs[name] for name in inputs.keys() - {"labels", "index"}}).logits

    sampler = SubsetSampler(
        count,
        score=lambda: score_batches(model, loader(8), forward=logits),
        epochs=EPOCHS,
        seed=42,
        **VARYING,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    schedule = get_scheduler("linear", optimizer, 0, sampler.total_steps(BATCH))
    torch.manual_seed(42)
    trained = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for batch in loader(BATCH, sampler=sampler):
            model.train()
            trained.append(batch.pop("index").tolist())
            model(**batch).loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return trained, model


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def rate_at_end(run: Recording) -> float:
    return float(run.lr_scheduler.get_last_lr()[0])


def joined(batches: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


def of_updates(trained: list[list[int]], steps: int) -> list[list[int]]:
    return [joined(trained[at : at + steps]) for at in range(0, len(trained), steps)]
