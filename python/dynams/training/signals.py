"""What a refresh knows: scored by the network, left behind by training steps, given, or held out.

Free scores (selection.free) are those of the last training step that saw a sample: only samples not
seen for selection.max_age epochs are scored again. Both kinds rank side by side, although a step's are of
an augmented image at full width; where the proxy is slim the two differ in scale too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dynams.selection.signals import ALIGNMENT, LAST_EPOCH, VALIDATION, Signals
from dynams.training.batches import Batches
from dynams.training.distributed import average_buffers
from dynams.training.network import as_module
from dynams.training.proxy_norms import reestimate_norms
from dynams.training.scoring import score_signals
from dynams.training.seeds import generator

if TYPE_CHECKING:
    from dynams.selection.visits import Visits
    from dynams.training.run import TrainingRun


def collect_signals(
    run: TrainingRun,
    wanted: frozenset[str],
    *,
    stop: Callable[[], bool],
    show: Callable[[int], None],
    advance: Callable[[int], None],
) -> Signals | None:
    """Collect what a strategy wants to know for the epoch that begins. All processes come here together.

    Args:
        run: the run.
        wanted: names of the signals.
        stop: asked after each batch scored, equally often in every process.
        show: told how many samples this process is going to score.
        advance: told the number of samples of each batch that is done.

    Returns:
        At least what is wanted, on the device, or None if ``stop`` said so.
    """
    candidates, chosen, selector = run.batches, run.config.selection, run.selector
    scores = {name: run.given[name] for name in wanted & run.given.keys()}
    stale: Tensor | None = None
    if run.visits is not None:
        with run.clock.measure("scoring"):
            run.visits.merge()
            visited = wanted & selector.visits
            scores |= {name: run.visits.score(name) for name in visited}
            if chosen.free:
                stale = _stale(run, run.visits, unvisited=LAST_EPOCH not in wanted)
    by_network = wanted & selector.scored
    if ALIGNMENT in scores:
        by_network |= {VALIDATION + "loss"}
    mine = frozenset(name for name in by_network if not name.startswith(VALIDATION))
    theirs = frozenset(name.removeprefix(VALIDATION) for name in by_network - mine)
    known: Signals | None = Signals(len(candidates), device=run.fabric.device)
    held: Signals | None = None
    if by_network and (stale is None or len(stale)):
        prepare_proxy(run)

    def score(batches: Batches, needs: frozenset[str], indices: Tensor | None) -> Signals | None:
        count = len(batches) if indices is None else len(indices)
        show(count // run.fabric.world_size)
        with run.clock.measure("scoring", count):
            return score_signals(
                run.fabric,
                run.network,
                batches,
                needs,
                width=selector.proxy_width or 1.0,
                batch_size=run.reading_size(count),
                indices=indices,
                stop=stop,
                advance=advance,
            )

    if mine and (stale is None or len(stale)):
        known = score(candidates, mine | (wanted & {"labels"}), stale)
    if theirs:
        assert run.held_out is not None
        held = score(run.held_out, theirs, None)
    if known is None or (theirs and held is None):
        return None
    if ALIGNMENT in scores:
        assert run.visits is not None
        assert held is not None
        run.visits.compare(held.score("loss"))
        scores[ALIGNMENT] = run.visits.score(ALIGNMENT)
    for name, values in known.scores.items():
        if stale is None:
            scores[name] = values
        else:
            scores[name][stale] = values
    labels = candidates.labels.to(run.fabric.device) if "labels" in wanted else None
    return Signals(
        len(candidates),
        scores,
        labels,
        known.features,
        known.residuals,
        held,
        run.fabric.device,
    )


def _stale(run: TrainingRun, visits: Visits, *, unvisited: bool) -> Tensor:
    """The samples (n,) int64 whose free scores are too old; those never visited too, if ``unvisited``."""
    config, epoch = run.config, run.position.epoch
    age = config.selection.max_age or config.selection.refresh_every
    if age >= config.optim.epochs and not unvisited:
        # Known without asking the device, for which the host would wait.
        return torch.empty(0, dtype=torch.int64, device=run.fabric.device)
    stale = ~visits.fresh(epoch, age)
    if not unvisited:
        stale &= visits.fresh(epoch, epoch + 1)
    return stale.nonzero().flatten()


def prepare_proxy(run: TrainingRun) -> None:
    """Bring the statistics that scoring reads, or looks at batches, up to date. All processes must come here together."""
    config, candidates = run.config, run.batches
    width = run.selector.proxy_width
    if config.proxy.recipe != "batch_norm" or width is None:
        average_buffers(run.fabric, as_module(run.network))
        return
    random = generator(
        "cpu", config.run.seed, purpose="batch-norm estimation", epoch=run.position.epoch
    )
    size = config.selection.batch_size or 256
    count = min(len(candidates), config.proxy.batches * size)
    drawn = torch.randperm(len(candidates), generator=random, device="cpu")[:count]
    with run.clock.measure("scoring", count):
        average_buffers(run.fabric, as_module(run.network))
        reestimate_norms(
            run.fabric,
            run.network,
            candidates,
            drawn,
            width=width,
            batch_size=size,
        )
