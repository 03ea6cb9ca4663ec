"""Which package of Python's library does a docstring come from? A small BERT, trained on the hardest texts.

    python examples/huggingface_training.py --budget 0.6
    torchrun --nproc-per-node 2 examples/huggingface_training.py --budget 0.6

The texts are those of the Python that runs this; the network starts from random weights. `--budget 1` trains
on everything, for comparison.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from dynams.integrations.huggingface import MarginSelection

PACKAGES = (
    "asyncio",
    "email",
    "http",
    "importlib",
    "logging",
    "multiprocessing",
    "unittest",
    "xml",
)
WORDS, LENGTH = 4000, 48


class SelectiveTrainer(MarginSelection, Trainer):
    """Trains on the samples nearest the decision boundary."""


def docstrings() -> list[tuple[str, int]]:
    """Read all docstrings of the packages, each once, with the number of its package."""
    found: dict[str, int] = {}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for label, package in enumerate(PACKAGES):
        for file in sorted((Path(os.__file__).parent / package).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8", errors="replace"))
            for node in ast.walk(tree):
                text = ast.get_docstring(node) if isinstance(node, documented) else None
                if text:
                    found.setdefault(text, label)
    return list(found.items())


def encoded(texts: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """Number the words, the frequent ones each by itself: 0 fills up, 1 begins a text, 2 is any other word."""
    split = [re.findall(r"\w+|[^\w\s]", text.lower())[: LENGTH - 1] for text, _ in texts]
    counts = Counter(word for words in split for word in words)
    numbers = {word: at for at, (word, _) in enumerate(counts.most_common(WORDS - 3), 3)}
    samples = []
    for words, (_, label) in zip(split, texts, strict=True):
        ids = torch.zeros(LENGTH, dtype=torch.int64)
        ids[: len(words) + 1] = torch.tensor([1, *(numbers.get(word, 2) for word in words)])
        samples.append({"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": label})
    return samples


def network(width: int) -> BertForSequenceClassification:
    """Build a BERT of two layers."""
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=2 * width,
            max_position_embeddings=LENGTH,
            num_labels=len(PACKAGES),
        )
    )


def accuracy(prediction: Any) -> dict[str, float]:
    """Return the fraction of texts whose package was told."""
    return {"accuracy": float(np.mean(prediction.predictions.argmax(1) == prediction.label_ids))}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, and return what Trainer measured at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--budget", type=float, default=0.6, help="fraction of the texts an epoch")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3, help="largest learning rate")
    parser.add_argument("--width", type=int, default=64, help="of the network")
    parser.add_argument("--texts", type=int, default=None, help="so many only")
    parser.add_argument("--output", default="huggingface-run", help="folder of checkpoints")
    given = parser.parse_args(arguments)

    texts = docstrings()
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    data = encoded([texts[at] for at in order[: given.texts]])
    held = len(data) // 5
    torch.manual_seed(0)
    trainer = SelectiveTrainer(
        model=network(given.width),
        args=TrainingArguments(
            output_dir=given.output,
            num_train_epochs=given.epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=256,
            learning_rate=given.rate,
            warmup_steps=20,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            report_to=[],
        ),
        train_dataset=data[held:],
        eval_dataset=data[:held],
        compute_metrics=accuracy,
        selection={"budget": given.budget, "warmup_epochs": 1},
    )
    trainer.train()
    measured: dict[str, float] = trainer.evaluate()
    print(
        f"{trainer.state.global_step} updates, learning rate at the end "
        f"{trainer.lr_scheduler.get_last_lr()[0]:g}, accuracy {measured['eval_accuracy']:.3f}"
    )
    return measured


if __name__ == "__main__":
    main()
