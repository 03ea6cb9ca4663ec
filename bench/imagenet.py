"""What a training of ResNet-50 on ImageNet takes with and without selection, on paper, from measured pieces.

python bench/imagenet.py                           the table
python bench/imagenet.py --into docs/imagenet.md   between the page's imagenet:begin and :end marks

Nothing is measured here: every piece names its report below, and what no report holds is an assumption, and called one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from marks import insert, lines

# The preset: `dynams train --preset imagenet`.
SAMPLES, EPOCHS, WARM_UP = 1_281_167, 120, 36
BUDGETS = (0.7, 0.6, 0.5)
# Images a second on one H100, CIFAR's ResNet-18, bf16: bench/results/h100/2026-11-27-9f19dd2.
TRAINED = 39_556
# `dk.distributed.smallest_k` of 1,280,000 values on one H100 by the clock: bench/results/h100/2026-11-27-71e0ad9.
SELECTED = 288e-6
# Images of 500 x 375 decoded a second by one core: docs/training.md, bench/results/epyc-zen4-2-cores/2026-11-27-399e2ab.
DECODED = 1_630
# Multiplications and additions of a forward pass, by the layers' shapes: CIFAR's ResNet-18 at 32, ResNet-50 at 224.
WORK_18, WORK_50 = 0.556e9, 4.09e9
# Assumed: an H100 does the work of ResNet-50 as fast as that of ResNet-18; an image is 110 kB of JPEG.
RATE = TRAINED * WORK_18 / WORK_50
ENCODED = 110e3
GPUS = 8


def epochs_worth(budget: float) -> float:
    """Epochs' worth of samples: a warm-up on everything, then the budget."""
    return WARM_UP + (EPOCHS - WARM_UP) * budget


def seconds(budget: float, gpus: int = GPUS) -> float:
    """Of a whole training by the rate above; free scores, so that choosing is all that a selection adds."""
    choosing = (EPOCHS - WARM_UP) * SELECTED if budget < 1.0 else 0.0
    return epochs_worth(budget) * SAMPLES / (gpus * RATE) + choosing


def table() -> str:
    """A row for each budget."""
    head = [
        "budget",
        "epochs' worth of samples",
        f"hours on {GPUS} GPUs",
        "of all data",
        "choosing, in all",
        "read, TB",
        "cores to decode for each GPU",
    ]
    rows = [head]
    for budget in (1.0, *BUDGETS):
        worth = epochs_worth(budget)
        choosing = 1e3 * (EPOCHS - WARM_UP) * SELECTED if budget < 1.0 else 0.0
        rows.append(
            [
                "all data" if budget == 1.0 else f"{budget:g}",
                f"{worth:.1f}",
                f"{seconds(budget) / 3600:.2f}",
                f"{100 * seconds(budget) / seconds(1.0):.0f} %",
                f"{choosing:.0f} ms",
                f"{worth * SAMPLES * ENCODED / 1e12:.1f}",
                f"{RATE / DECODED:.1f}",
            ]
        )
    return lines(rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    if options.into is None:
        print(table(), end="")
    else:
        insert(options.into, "imagenet", table())


if __name__ == "__main__":
    main()
