"""From a configuration to the strategy that selects, and where each signal it needs comes from."""

from __future__ import annotations

from dataclasses import dataclass

from dynams.selection.methods.interface import BatchStrategy, Strategy
from dynams.selection.methods.registry import build_strategy, strategy_options
from dynams.selection.methods.uniform import Full
from dynams.selection.signals import GIVEN_SCORES, TENSORS, VALIDATION, VISIT_SCORES
from dynams.selection.switches import with_switches
from dynams.training.config import SelectionConfig, TrainConfig

# Scores that come from a row of logits alone.
ROW_SCORES: frozenset[str] = frozenset(
    {"gap", "probability", "label", "loss", "el2n", "entropy", "confidence"}
)
_IRREDUCIBLE = "irreducible_loss"


@dataclass(frozen=True)
class Choice:
    """What selects, and what it needs.

    Attributes:
        strategy: chooses the samples of the next epochs; everything where `batch` chooses.
        batch: chooses inside every step; None: nothing does.
        scored: signals that a scoring pass computes.
        given: the score that is read from selection.scores; None without a file.
        irreducible: a network has to be trained on held-out samples for the irreducible losses.
        visits: scores that training steps leave behind.
        proxy_width: width that scores the candidates, if it is a proxy; None at full width or unscored.
    """

    strategy: Strategy
    batch: BatchStrategy | None
    scored: frozenset[str]
    given: str | None
    irreducible: bool
    visits: frozenset[str]
    proxy_width: float | None


def build_choice(config: TrainConfig) -> Choice:
    """Build what ``config`` describes.

    Raises:
        ValueError: an option is unknown or out of range, a switch does not fit the strategy, or
            something that the strategy needs is not configured; names the setting.
    """
    chosen = config.selection
    bare = _bare(chosen)
    batch = bare if isinstance(bare, BatchStrategy) else None
    strategy = Full() if isinstance(bare, BatchStrategy) else _switched(chosen, bare)
    needs = strategy.needs if batch is None else batch.needs
    given = None if chosen.scores is None else _given(chosen, bare.needs)
    missing = (needs & GIVEN_SCORES) - {given}
    irreducible = missing == {_IRREDUCIBLE}
    if missing and not irreducible:
        raise ValueError(f"selection.scores: {chosen.strategy} needs a file of its scores")
    held_out = irreducible or any(name.startswith(VALIDATION) for name in needs)
    if held_out and config.data.holdout == 0.0:
        raise ValueError(
            f"data.holdout: {chosen.strategy} needs held-out samples"
            f"{', or selection.scores' if irreducible else ''}; got 0.0"
        )
    scored = needs - VISIT_SCORES - GIVEN_SCORES - {given, "labels"}
    visits = needs & VISIT_SCORES - {given}
    if batch is not None:
        if unknown := scored - ROW_SCORES:
            raise ValueError(
                f"selection.options: of a batch these scores are known: "
                f"{', '.join(sorted(ROW_SCORES))}; got {', '.join(sorted(unknown))}"
            )
        scored = frozenset()
    switched = (
        chosen.class_balance != "none"
        or chosen.exploration
        or chosen.unbiased
        or chosen.noise_guard
    )
    if batch is not None and switched:
        raise ValueError(
            f"selection.strategy: {chosen.strategy} chooses inside a batch, where class_balance, "
            "exploration, unbiased and noise_guard have no place"
        )
    if chosen.free:
        if not scored or scored - ROW_SCORES:
            raise ValueError(
                f"selection.free: a training step gives {', '.join(sorted(ROW_SCORES))}; "
                f"{chosen.strategy} scores {', '.join(sorted(scored)) or 'nothing'}"
            )
        visits |= scored
    width = config.score_width if scored and config.score_width < 1.0 else None
    return Choice(strategy, batch, scored, given, irreducible, visits, width)


def _bare(chosen: SelectionConfig) -> Strategy | BatchStrategy:
    options = dict(chosen.options)
    if "kind" in strategy_options(chosen.strategy):
        if "kind" in options:
            raise ValueError("selection.options: the margin is selection.kind, got kind in both")
        options["kind"] = chosen.kind
    try:
        return build_strategy(chosen.strategy, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"selection.options: {error}") from error


def _switched(chosen: SelectionConfig, strategy: Strategy) -> Strategy:
    try:
        return with_switches(
            strategy,
            class_shares=None if chosen.class_balance == "none" else chosen.class_balance,
            exploration=chosen.exploration,
            unbiased=chosen.unbiased,
            noise_share=chosen.noise_guard,
            noise_score=chosen.noise_score,
        )
    except ValueError as error:
        raise ValueError(f"selection.strategy: {chosen.strategy}: {error}") from error


def _given(chosen: SelectionConfig, needs: frozenset[str]) -> str:
    """The one score of a strategy that a file may hold."""
    one_number = {name for name in needs if name not in TENSORS and not name.startswith(VALIDATION)}
    names = sorted((one_number & GIVEN_SCORES) or one_number)
    if len(names) != 1:
        raise ValueError(
            f"selection.scores: {chosen.strategy} ranks by no one score that could be given"
        )
    return names[0]
