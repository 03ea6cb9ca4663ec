"""Tries `slimmable.convert` on networks of timm, torchvision and transformers, and writes what came of it as a table.

python bench/networks.py [--out bench/results/networks.md]
python bench/networks.py --only vit_tiny_patch16_224 resnet18     some of them, by parts of their names, to standard output

Weights are random, nothing is downloaded. A library that is not installed is left out, and the page says so.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import dynams_kernels as dk
from dynams import slimmable
from dynams.files import replace_file
from dynams.report.text import MISSING, percent
from dynams.training.environment import package_version
from network_list import TIMM, Candidate, candidates

LIBRARIES = ("timm", "torchvision", "transformers")
WIDTHS = (0.5, 1.0)
STEPS = 8
RATE = 0.1
# Of one network in float32, run twice: sums may be taken in another order, nothing more.
SAME = 1e-5
# A gap is the difference of two logits, of float32.
SCORED = 1e-4


@dataclass
class Finding:
    """What came of one network.

    Attributes:
        differences: between it and its conversion at full width, relative to the largest value: of outputs in eval and
            in training mode, of gradients, of the state after a step in training mode.
        shares: of the slim width in the full: parameters, multiply-adds.
        kept: what `convert` said that it kept whole.
        losses: at the slim width, before and after a few steps.
        moved: of the slim batch-norms, those whose statistics a few steps moved, and all.
        scores: difference between scores of logits and of the features with the slim head.
        fault: why it fails, in one line.
    """

    candidate: Candidate
    differences: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    losses: tuple[float, float] | None = None
    moved: tuple[int, int] = (0, 0)
    scores: float | None = None
    fault: str | None = None

    @property
    def same(self) -> bool:
        return bool(self.differences) and max(self.differences.values()) <= SAME

    @property
    def trains(self) -> bool:
        return (
            self.losses is not None
            and self.losses[1] < self.losses[0]
            and self.moved[0] == self.moved[1]
        )

    @property
    def good(self) -> bool:
        """Identical at full width, smaller and trainable at a slim one, and a slim head scores its features."""
        slims = bool(self.shares) and max(self.shares.values()) < 0.9
        scored = self.scores is not None and self.scores <= SCORED
        return self.fault is None and self.same and slims and self.trains and scored


def find(candidate: Candidate) -> Finding:
    """Convert a network and try the conversion."""
    finding = Finding(candidate)
    stage = "to make it"
    try:
        torch.manual_seed(0)
        model = candidate.make()
        batch, labels = candidate.batch(model)
        stage = "to convert it"
        with told(finding.kept):
            network = slimmable.convert(model, WIDTHS, example=batch)
        stage = "to run it at full width"
        compare(finding, model, network, batch, labels)
        stage = "to make the slim one"
        measure(finding, network, batch)
        stage = "to score with its head"
        score(finding, network, batch)
        stage = "to train it"
        train(finding, network, batch, labels)
    except Exception as error:
        traceback.print_exc()
        finding.fault = f"{stage}: {error or type(error).__name__}"
    return finding


def compare(
    finding: Finding, model: nn.Module, network: Any, batch: Tensor, labels: Tensor
) -> None:
    for mode in ("eval", "training"):
        outputs = []
        for each in (model, network):
            each.train(mode == "training").zero_grad()
            torch.manual_seed(1)  # for dropout and the like
            outputs.append(logits_of(each(batch)))
            loss_of(outputs[-1], labels).backward()
        finding.differences[mode] = difference(*outputs)
        name = f"gradients, {mode}"
        finding.differences[name] = 0.0
        ours = {plain_name(key): value for key, value in full_parameters(network).items()}
        theirs = dict(model.named_parameters())
        if ours.keys() != theirs.keys():
            raise ValueError(f"parameters differ: {sorted(ours.keys() ^ theirs.keys())[:4]}")
        for key, value in theirs.items():
            one, other = (
                each if each is not None else torch.zeros(())
                for each in (value.grad, ours[key].grad)
            )
            finding.differences[name] = max(finding.differences[name], difference(one, other))
    state = network.plain(1.0).network.state_dict()
    if state.keys() != model.state_dict().keys():
        raise ValueError(
            f"the state at full width differs: {sorted(state.keys() ^ model.state_dict().keys())[:4]}"
        )
    finding.differences["state"] = max(
        difference(value, state[key]) for key, value in model.state_dict().items()
    )


def measure(finding: Finding, network: Any, batch: Tensor) -> None:
    slim, full = (network.plain(width).eval() for width in WIDTHS)
    counts = []
    for each in (slim, full):
        # The attention of a CPU is counted as the products that it is made of.
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            each(batch)
        counts.append(
            (sum(value.numel() for value in each.parameters()), counter.get_total_flops())
        )
    (parameters, flops), (full_parameters, full_flops) = counts
    finding.kept += unslimmed(full.network, slim.network)
    finding.shares = {
        "parameters": parameters / full_parameters,
        "multiply-adds": flops / full_flops,
    }


def unslimmed(model: nn.Module, slim: nn.Module) -> list[str]:
    """How many layers keep all of their outputs, the classifier aside."""
    layers = [
        (path, module.weight.shape[0])
        for path, module in model.named_modules()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) and module.weight.shape[0] > 1
    ]
    # The classifier is the last of them, in each of these networks.
    same = [
        path for path, rows in layers[:-1] if slim.get_parameter(f"{path}.weight").shape[0] == rows
    ]
    if not same:
        return []
    return [f"outputs of {len(same)} of {len(layers) - 1} layers, such as `{same[0]}`"]


@torch.no_grad()
def score(finding: Finding, network: Any, batch: Tensor) -> None:
    network.eval()
    width = WIDTHS[0]
    features, kinds = network.features(batch, width), ("gap", "entropy")
    head = network.head_at(width)
    found = dk.linear_scores(features, head.weight, kinds, head.bias)
    wanted = dk.scores(network(batch, width), kinds)
    finding.scores = max(difference(wanted[kind], found[kind]) for kind in kinds)


def train(finding: Finding, network: Any, batch: Tensor, labels: Tensor) -> None:
    network.train()
    norms = [
        each
        for name, each in network.named_modules()
        if name.endswith(width_name(WIDTHS[0])) and getattr(each, "running_mean", None) is not None
    ]
    before = [norm.running_mean.clone() for norm in norms]
    optimiser = torch.optim.SGD(network.parameters(), RATE, 0.9)
    losses = []
    for _ in range(STEPS + 1):
        torch.manual_seed(2)  # the same dropout in each step, so that losses compare
        found = [loss_of(logits, labels) for logits in network(batch, (1.0, WIDTHS[0]))]
        optimiser.zero_grad()
        sum(found).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0, error_if_nonfinite=True)
        optimiser.step()
        losses.append(found[1].item())
    finding.losses = losses[0], losses[-1]
    moved = [
        not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)
    ]
    finding.moved = sum(moved), len(norms)


def width_name(width: float) -> str:
    return "width_" + str(width).replace(".", "_")


def full_parameters(network: Any) -> dict[str, nn.Parameter]:
    slim = width_name(WIDTHS[0])
    return {key: value for key, value in network.network.named_parameters() if slim not in key}


def plain_name(key: str) -> str:
    return key.replace(f".{width_name(1.0)}", "")


def logits_of(output: Any) -> Tensor:
    """The logits of what a network returns: a tensor, or what libraries wrap around one."""
    return output if isinstance(output, Tensor) else output.logits


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, -2), labels.flatten())


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value; 0 is bit for bit."""
    if one.shape != other.shape:
        raise ValueError(f"shapes differ: {tuple(one.shape)} and {tuple(other.shape)}")
    if torch.equal(one, other) or not one.numel():
        return 0.0
    return ((one - other).abs().max() / one.abs().max().clamp(min=1e-30)).item()


@contextlib.contextmanager
def told(lines: list[str]) -> Iterator[None]:
    """Gather the log's warnings."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("dynams")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


HEAD = (
    "| network | identical at full width | parameters | multiply-adds | trains | scored by its head | kept whole |",
    "|---|---|--:|--:|---|---|---|",
)


def row(finding: Finding) -> str:
    """A network's row; one that was refused, or failed, has the reason."""
    name = f"`{finding.candidate.name}`"
    if finding.fault is not None:
        return f"| {name} | **no**: {shortened(finding.fault)} | {MISSING} | {MISSING} | {MISSING} | {MISSING} | {MISSING} |"
    largest = max(finding.differences, key=lambda key: finding.differences[key])
    same = (
        "yes"
        if finding.differences[largest] == 0
        else f"{finding.differences[largest]:.0e} ({largest})"
    )
    before, after = finding.losses or (0.0, 0.0)
    trained = f"loss {before:.2f} to {after:.2f}"
    if finding.moved[0] < finding.moved[1]:
        trained += f", of {finding.moved[1]} norms {finding.moved[0]} move"
    scored = (
        "yes"
        if finding.scores is not None and finding.scores <= SCORED
        else f"**{finding.scores:.0e} off**"
    )
    cells = (
        name,
        same if finding.same else f"**{same}**",
        *(percent(share, 0) for share in finding.shares.values()),
        trained if finding.trains else f"**{trained}**",
        scored,
        "; ".join(shortened(each) for each in finding.kept),
    )
    return f"| {' | '.join(cells)} |"


def shortened(text: str, most: int = 160) -> str:
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def page(findings: Sequence[Finding], missing: Sequence[str]) -> str:
    """The table of each library, and how many of its networks are as they should be."""
    versions = [
        f"{name} {package_version(name)}" for name in ("torch", *LIBRARIES) if name not in missing
    ]
    lines = [
        "# Networks that `slimmable.convert` takes",
        "",
        f"By `bench/networks.py` on {datetime.date.today()}: {', '.join(versions)}; CPU, float32, random weights, widths {WIDTHS[0]} and {WIDTHS[1]}.",
        "",
        "Identical: outputs, every parameter's gradient and the state afterwards, in eval and in training mode, bit for bit or the",
        f"largest difference relative to the largest value. Parameters and multiply-adds: of the network at {WIDTHS[0]}, as a share of the full one. Trains:",
        f"loss at {WIDTHS[0]} before and after {STEPS} steps of SGD at both widths on one random batch, in which every slim batch-norm's statistics move.",
        "Scored by its head: `linear_scores` of the slim features and the slim head are the scores of the slim logits.",
        "A network counts as one that converts if all of this holds and at most 90 % of the multiply-adds and parameters are left.",
    ]
    for library in LIBRARIES:
        of = [each for each in findings if each.candidate.library == library]
        for title, part in (
            (f"{library}: the list of {len(TIMM)}", [each for each in of if each.candidate.listed]),
            (
                f"{library}: others" if library == "timm" else library,
                [each for each in of if not each.candidate.listed],
            ),
        ):
            if part:
                good = sum(each.good for each in part)
                count = f"{good} of {len(part)} convert."
                failed = [f"`{each.candidate.name}`" for each in part if not each.good]
                if failed:
                    count += f" Not: {', '.join(failed)}."
                lines += ["", f"## {title}", "", *HEAD, *map(row, part), "", count]
    if missing:
        lines += ["", f"Not installed, so not tried: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of names; prints")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "networks.md"
    )
    options = parser.parse_args()
    findings, missing = [], []
    for library in LIBRARIES:
        try:
            known = candidates(library)
        except ImportError as error:
            print(f"{library}: {error}", file=sys.stderr)
            missing.append(library)
            continue
        for candidate in known:
            if options.only and not any(name in candidate.name for name in options.only):
                continue
            findings.append(find(candidate))
            verdict = "ok" if findings[-1].good else "NOT"
            print(f"{verdict:3} {row(findings[-1])}", file=sys.stderr, flush=True)
    if not findings:
        parser.error("no network to try: none is named so, or no library is installed")
    text = page(findings, missing)
    if options.only:
        print(text, end="")
    else:
        replace_file(options.out, text.encode())


if __name__ == "__main__":
    main()
