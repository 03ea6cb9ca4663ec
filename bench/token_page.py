"""Writes what bench/token_selection.py measured as a page."""

from __future__ import annotations

import statistics
from typing import Any

Row = dict[str, Any]

CHOICES = ("all", "random", "hardest", "most reducible")
PARTS = ("body forward", "choice", "head loss", "backward", "optimiser")
LOSSES = {
    "torch": "torch",
    "scores": "`linear_scores`",
    "liger": "Liger",
    "cut": "cut cross-entropy",
}

# Names of times of the head alone.
PRODUCT, SCORES = "product alone", "scores and selection"


def every(loss: str) -> str:
    """The name of a loss of all tokens, with its backward pass."""
    return f"{loss}, all"


def some(loss: str) -> str:
    """The name of a loss of the tokens kept, with its backward pass."""
    return f"{loss}, kept"


def page(report: Row) -> str:
    """The page of a report."""
    lines = [
        "# Tokens to train on, at equal time",
        "",
        "`bench/token_selection.py`: a small Llama of random weights (head and embeddings share their weight) on Python source text, trained for the same seconds on all tokens, on a random "
        "60 % of each batch's, on its hardest and on its most reducible 60 % (`examples/language_model.py`, `examples/reducible_tokens.py`). Same first weights, same order of batches, "
        "taking turns. Held-out loss is of all tokens of other files, in nats a token: not comparable between vocabularies. The reference's training is not counted; its forward pass in each step is.",
    ]
    for section in report["sections"]:
        lines += ["", *_section(section)]
    return "\n".join(lines) + "\n"


def _section(section: Row) -> list[str]:
    lines = [f"## V = {section['vocabulary']:,}", "", _setting(section), ""]
    if section["trainings"]:
        lines += [*_trainings(section), "", *_parts(section), ""]
    return lines + _heads(section)


def _setting(section: Row) -> str:
    setting, text, machine = section["setting"], section["text"], section["machine"]
    packages = ", ".join(f"{name} {found}" for name, found in section["packages"].items() if found)
    threads = f", {machine['threads']} threads" if "threads" in machine else ""
    told = (
        f"{machine['name']}{threads}, torch {section['torch']}, {packages}, commit {section['commit']['id'][:10]}, {section['datetime'][:10]}. "
        f"Width {setting['width']}, {setting['layers']} layers, {setting['batch']} sequences of {setting['length']} tokens a step, "
        f"{setting['dtype'].removeprefix('torch.')}, AdamW at {setting['rate']:g}. "
        f"{text['training tokens'] / 1e6:.1f} M tokens of training text, {text['different tokens']:,} of them different: no other row of the head is ever a label. "
        f"{text['held-out tokens']:,} held-out tokens."
    )
    if "reference" in section:
        reference = section["reference"]
        told += f" The reference: {reference['steps']} steps in {reference['seconds']:.1f} s on text of its own, held-out loss {reference['held-out loss']:.3f}."
    return told


def _of(section: Row, choice: str) -> list[Row]:
    """The trainings of a choice that went well, one a seed."""
    return [
        cell for cell in section["trainings"] if cell["choice"] == choice and cell.get("held-out")
    ]


def _trainings(section: Row) -> list[str]:
    lines = [
        f"{section['seconds']:.1f} s a training (to the end of a step), {len({cell['seed'] for cell in section['trainings']})} seed(s), head's loss by {LOSSES[section['loss']]}, the fastest here (below).",
        "",
        "| tokens | steps | seconds | tokens read/s | held-out loss | less than all's | by seed | a step's memory |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    of_all = {cell["seed"]: cell["held-out"][-1]["loss"] for cell in _of(section, "all")}
    for choice in CHOICES:
        cells = _of(section, choice)
        if cells:
            losses = {cell["seed"]: cell["held-out"][-1]["loss"] for cell in cells}
            less = [of_all[seed] - loss for seed, loss in losses.items() if seed in of_all]
            rate = statistics.mean(cell["tokens read"] / cell["seconds"] for cell in cells)
            memory = section["step's memory, bytes"][choice]
            lines.append(
                f"| {choice} | {statistics.mean(cell['steps'] for cell in cells):.0f} | {statistics.mean(cell['seconds'] for cell in cells):.1f} | {rate:,.0f} | {statistics.mean(losses.values()):.3f} | "
                f"{statistics.mean(less) if less else float('nan'):+.3f} | {', '.join(f'{loss:.3f}' for loss in losses.values())} | "
                f"{'' if memory is None else f'{memory / 1e9:.1f} GB'} |"
            )
    failed = [cell for cell in section["trainings"] if "failed" in cell]
    return lines + [f"\nFailed: {cell['choice']}: {cell['failed']}" for cell in failed]


def _parts(section: Row) -> list[str]:
    lines = [
        "Milliseconds of a step's parts, medians of all steps (a fused loss computes gradients in its forward pass; the choice of the most reducible contains the reference's forward pass):",
        "",
        "| tokens | " + " | ".join(PARTS) + " | together |",
        "|---|" + "--:|" * (len(PARTS) + 1),
    ]
    for choice in CHOICES:
        cells = _of(section, choice)
        if cells:
            parts = [statistics.mean(cell["parts, ms"][part] for cell in cells) for part in PARTS]
            row = " | ".join(f"{part:.1f}" for part in [*parts, sum(parts)])
            lines.append(f"| {choice} | {row} |")
    return lines


def _heads(section: Row) -> list[str]:
    times: dict[str, float] = section["head, ms"]
    product, scored = times.get(PRODUCT), times.get(SCORES)
    lines = [
        f"The head alone, milliseconds, best of a few: its product and nothing else {_shown(product)}, `linear_scores` and `smallest_k` {_shown(scored)}; a loss and its backward pass:",
        "",
        "| loss by | all tokens | 60 % | scored, then 60 % | over all |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, saying in LOSSES.items():
        full, kept = times.get(every(name)), times.get(some(name))
        if full is not None and kept is not None and scored is not None:
            both = scored + kept
            lines.append(f"| {saying} | {full:.2f} | {kept:.2f} | {both:.2f} | {both / full:.2f} |")
    return lines + [f"\nFailed: {name}: {why}" for name, why in section["head failed"].items()]


def _shown(milliseconds: float | None) -> str:
    return "failed" if milliseconds is None else f"{milliseconds:.2f}"
