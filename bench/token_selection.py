"""Trains a language model on all, random, hardest and most reducible tokens for equal time, with examples/language_model.py.

python bench/token_selection.py run --out DIR [--vocabularies 32000 128256] [--total SECONDS] [--seeds 0 1] [--losses torch ...] [--sizes small]
python bench/token_selection.py show DIR/token-selection.json

A vocabulary's four trainings begin with the same weights, see the same batches in the same order and take turns, a slice of their
seconds each, so that whatever the machine does in between meets all of them. DIR/token-selection.json and its page .md beside
it are written anew after every round. What fails is told there and left out; the rest goes on. A later run into the same
folder replaces the vocabularies it measures.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
import time
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import language_model as lm  # noqa: E402
import text_batches  # noqa: E402
from reducible_tokens import most_reducible_tokens  # noqa: E402

import dynams_kernels as dk  # noqa: E402
import token_page  # noqa: E402
from gpu import environment  # noqa: E402
from token_head import Head  # noqa: E402
from token_training import RATE, Training, wait  # noqa: E402

Row = dict[str, Any]

# A GPU's setting, one that two cores get through, and one to test with.
SIZES: dict[str, Row] = {
    "full": {"width": 768, "layers": 6, "length": 1024, "batch": 16, "megabytes": 20.0, "packages": ["torch"], "held out": 96},
    "small": {"width": 128, "layers": 2, "length": 128, "batch": 4, "megabytes": 6.0, "packages": [], "held out": 24},
    "tiny": {"width": 64, "layers": 1, "length": 32, "batch": 4, "megabytes": 0.3, "packages": [], "held out": 8},
}  # fmt: skip
KEEP = 0.6
TURNS = 4
EVALUATED = (TURNS // 2 - 1, TURNS - 1)


class Bench:
    """The machine, the setting and the text; measures a vocabulary at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.begin = time.monotonic()
        self.options = options
        self.device = torch.device(options.device)
        self.sizes = SIZES[options.sizes]
        self.autocast = torch.bfloat16 if self.device.type == "cuda" else None
        self.page = options.out / "token-selection.json"
        self.texts = {
            part: text_batches.texts_of(part, self.sizes["megabytes"], self.sizes["packages"])
            for part in text_batches.PARTS
        }
        largest = max(options.vocabularies)
        self.tokenizer = text_batches.train_tokenizer(self.texts["training"], largest)
        self.tell(f"text read, {self.tokenizer.get_vocab_size():,} tokens made of it")

    def tell(self, text: str) -> None:
        """Progress, as it comes."""
        print(f"{time.monotonic() - self.begin:6.1f} s  {text}", flush=True)

    def left(self) -> float:
        """Seconds left of the total."""
        return self.options.total - (time.monotonic() - self.begin)

    def vocabulary(self, vocabulary: int, vocabularies_left: int) -> None:
        """Everything of one vocabulary, in its share of the time left."""
        end = self.left() * (1 - 1 / vocabularies_left)
        section = self.begun(vocabulary)
        tokenizer = text_batches.first_merges(self.tokenizer, vocabulary)
        data = {
            part: text_batches.windows(tokenizer, texts, self.sizes["length"])
            for part, texts in self.texts.items()
        }
        held_out = text_batches.Batch(
            *(each[: self.sizes["held out"]] for each in data["held out"])
        )
        section["text"] = {
            "training tokens": sum(data["training"].valid),
            "held-out tokens": sum(held_out.valid),
            "different tokens": len(data["training"].labels.unique()),
        }
        self.tell(f"V = {vocabulary:,}: {section['text']}")
        rows = self.sizes["batch"] * self.sizes["length"]
        head = Head(rows, self.sizes["width"], vocabulary, self.device, KEEP, self.autocast)
        here = lm.LOSSES if self.device.type == "cuda" else ("torch", "scores")
        losses = {name: lm.LOSSES[name] for name in self.options.losses or here}
        section["head, ms"], section["head failed"] = head.times(losses)
        del head
        self.tell(f"  head, ms: {section['head, ms']}")
        times = {name: section["head, ms"].get(token_page.every(name)) for name in losses}
        section["loss"] = min((took, name) for name, took in times.items() if took is not None)[1]
        write(self.page, section)

        torch.manual_seed(1000)
        reference = self.training(
            self.model(vocabulary), lm.all_tokens, section, data["reference"], 1.0
        )
        choices = {
            "all": lm.all_tokens,
            "random": lm.random_tokens(KEEP),
            "hardest": lm.hardest_tokens(KEEP),
            "most reducible": most_reducible_tokens(reference.model, KEEP),
        }
        section["step's memory, bytes"] = {
            name: self.warmed(choose, section, data["training"]) for name, choose in choices.items()
        }
        begin = time.monotonic()
        self.held_out(reference.model, held_out)
        evaluation = time.monotonic() - begin
        # Four trainings a seed and a quarter of one, the reference's; copies and the page in between.
        seeds = len(self.options.seeds)
        apart = (4 * len(EVALUATED) * seeds + 1) * (evaluation + 0.1)
        seconds = min(self.options.seconds, (self.left() - end - apart) / (4 * seeds + 0.25))
        section["seconds"] = seconds = max(seconds, 0.1)
        self.tell(
            f"  {seconds:.1f} s a training, loss by {section['loss']}, {evaluation:.1f} s an evaluation"
        )

        reference.limit = seconds / 4
        reference.until(seconds / 4)
        section["reference"] = {
            "steps": reference.steps,
            "seconds": reference.seconds,
            "held-out loss": self.held_out(reference.model, held_out),
        }
        reference.optimiser.zero_grad()
        for seed in self.options.seeds:
            self.trainings(seed, section, choices, data["training"], held_out)

    def trainings(
        self,
        seed: int,
        section: Row,
        choices: dict[str, lm.Choice],
        data: text_batches.Batch,
        held_out: text_batches.Batch,
    ) -> None:
        """The trainings of one seed, in turns."""
        seconds = section["seconds"]
        torch.manual_seed(seed)
        first = self.model(section["vocabulary"])
        trainings = {
            name: self.training(copy.deepcopy(first), choose, section, data, seconds, seed)
            for name, choose in choices.items()
        }
        before, failed = section["trainings"], {}
        for turn in range(TURNS):
            if self.left() < -5:  # not in the middle of a round: all have had the same time
                self.tell("  no time was left")
                break
            names = list(trainings)
            for name in names[turn:] + names[:turn]:
                training = trainings[name]
                try:
                    training.until(seconds * (turn + 1) / TURNS)
                    if turn in EVALUATED:
                        self.evaluate(name, training, held_out)
                except Exception as error:
                    traceback.print_exc()
                    failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                    trainings.pop(name)
            section["trainings"] = [
                *before,
                *(
                    {
                        "choice": name,
                        "seed": seed,
                        "seconds": training.seconds,
                        "steps": training.steps,
                        "tokens read": training.tokens,
                        "held-out": training.held_out,
                        "parts, ms": training.parts.milliseconds(),
                    }
                    for name, training in trainings.items()
                ),
                *({"choice": name, "seed": seed, "failed": why} for name, why in failed.items()),
            ]
            write(self.page, section)

    def evaluate(self, name: str, training: Training, held_out: text_batches.Batch) -> None:
        """Where a training stands."""
        loss = self.held_out(training.model, held_out)
        told = {"seconds": training.seconds, "steps": training.steps, "loss": loss}
        training.held_out.append(told)
        self.tell(f"  {name}: {told}")

    def warmed(self, choose: lm.Choice, section: Row, data: text_batches.Batch) -> int | None:
        """Compiles and loads what a training needs; the memory of a step beside what is kept from step to step."""
        training = self.training(self.model(section["vocabulary"]), choose, section, data, 1.0)
        try:
            training.step()
            if self.device.type != "cuda":
                return None
            training.optimiser.zero_grad()
            wait(self.device)
            kept = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            training.step()
            wait(self.device)
            return torch.cuda.max_memory_allocated() - kept
        except Exception:
            traceback.print_exc()  # the training itself fails as well, and is told
            return None

    def training(
        self,
        model: nn.Module,
        choose: lm.Choice,
        section: Row,
        data: text_batches.Batch,
        seconds: float,
        seed: int = 0,
    ) -> Training:
        """A training of this setting."""
        loss, size = lm.LOSSES[section["loss"]], self.sizes["batch"]
        return Training(model, choose, loss, data, size, seconds, seed=seed, autocast=self.autocast)

    def model(self, vocabulary: int) -> nn.Module:
        """A model of random weights."""
        sizes = self.sizes
        with self.device:  # made there: a hundred million random numbers take the host a while
            return lm.small_model(vocabulary, sizes["width"], sizes["layers"], sizes["length"])

    def held_out(self, model: nn.Module, data: text_batches.Batch) -> float:
        """The loss of all held-out tokens."""
        return lm.held_out_loss(model, data, self.sizes["batch"], self.autocast)

    def begun(self, vocabulary: int) -> Row:
        """A section, with what a reader needs to judge its numbers."""
        if self.device.type == "cuda":
            machine = environment.gpu(torch)
        else:
            machine = {"name": environment.processor(), "threads": torch.get_num_threads()}
        packages = ("transformers", "triton", "liger-kernel", "cut-cross-entropy")
        return {
            "vocabulary": vocabulary,
            "machine": machine,
            "torch": torch.__version__,
            "packages": {name: environment.version(name) for name in packages},
            "backends": dk.backends(),
            "commit": environment.commit(),
            "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "setting": self.sizes | {"keep": KEEP, "rate": RATE, "dtype": str(self.autocast or torch.float32)},
            "trainings": [],
        }  # fmt: skip


def write(page: Path, section: Row) -> None:
    """The report and its page beside it, with what there is of this section by now."""
    report: Row = {"kind": "token-selection", "sections": []}
    if page.exists():
        report = json.loads(page.read_text())
    others = [one for one in report["sections"] if one["vocabulary"] != section["vocabulary"]]
    report["sections"] = sorted([*others, section], key=lambda one: one["vocabulary"])
    page.write_text(json.dumps(report, indent=1, default=str) + "\n")
    page.with_suffix(".md").write_text(token_page.page(report))


def run(options: argparse.Namespace) -> int:
    """Measures; the number of vocabularies that failed."""
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    failed = 0
    for number, vocabulary in enumerate(options.vocabularies):
        try:
            bench.vocabulary(vocabulary, len(options.vocabularies) - number)
        except Exception:
            traceback.print_exc()
            failed += 1
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    bench.tell("done")
    return failed


def show(options: argparse.Namespace) -> int:
    """Prints the page of a report."""
    print(token_page.page(json.loads(options.report.read_text())), end="")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Measures, or shows what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("run")
    measure.add_argument("--out", type=Path, required=True)
    measure.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 128_256])
    measure.add_argument("--total", type=float, default=115.0, help="seconds of the whole run")
    measure.add_argument(
        "--seconds", type=float, default=10.0, help="of a training, where the total allows"
    )
    measure.add_argument("--seeds", type=int, nargs="+", default=[0])
    measure.add_argument(
        "--losses", choices=lm.LOSSES, nargs="+", help="default: those that run here"
    )
    measure.add_argument("--sizes", choices=SIZES, default="full")
    measure.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    measure.set_defaults(work=run)
    showing = commands.add_parser("show")
    showing.add_argument("report", type=Path)
    showing.set_defaults(work=show)
    options = parser.parse_args(arguments)  # fmt: skip
    return options.work(options)


if __name__ == "__main__":
    sys.exit(main())
