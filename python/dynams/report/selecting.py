"""How a run selects, worked out of its configuration: what its report may say of it, and in which words.

The strategies' classes say what they need and whether they choose again; the words are here. Of a
configuration that cannot be read (another version's, none) nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynams.report.facts import setting
from dynams.report.records import Run
from dynams.report.text import percent

# What each strategy selects; those of batches: which samples of a batch a step back-propagates.
WHAT: dict[str, str] = {
    "full": "all samples",
    "random": "a random subset",
    "static-random": "a random subset",
    "margin": "the samples with the smallest margins",
    "static-margin": "the samples with the smallest margins",
    "loss": "the samples with the largest losses",
    "importance": "samples drawn at random, the likelier the larger their score ({score}), and weighted",
    "el2n": "the samples with the largest errors (EL2N)",
    "grand": "the samples with the largest gradients of the last layer (GraNd)",
    "forgetting": "the samples that were forgotten most often",
    "confidence": "the samples whose predictions are the least confident",
    "entropy": "the samples whose predictions have the largest entropy",
    "memorisation": "the most memorised samples",
    "craig": "samples that stand for those with similar gradients, and are weighted for them",
    "gradmatch": "samples, weighted, whose mean gradient comes close to that of all",
    "gradmatch-batches": "batches, weighted, whose mean gradient comes close to that of all",
    "glister": "the samples whose gradients lower the loss of the held-out samples most",
    "rho-loss": "the samples with the largest reducible losses",
    "infobatch": "all samples but some, drawn at random, of those with a loss below the mean; "
    "the others of those count for more",
    "repb": "all samples but some, drawn at random, of those with a loss below their batch\N{RIGHT SINGLE QUOTATION MARK}s mean "
    "or not trained on in the epoch before; the less often one was, the more it counts",
    "orderdp": "of samples drawn at random those with the largest losses",
    "seta": "of samples drawn at random those of some neighbouring groups by loss, of groups that move from the "
    "easiest to the hardest and back",
    "alignprune": "all samples but some, drawn at random, of those whose losses move least like those of "
    "held-out samples; the others of those count for more",
    "batch-loss": "those with the largest losses",
    "batch-margin": "those with the smallest margins",
    "batch-importance": "samples drawn at random, the likelier the larger their score ({score}), "
    "and weighted",
    "batch-rho-loss": "the samples with the largest reducible losses",
    "selective-backprop": "samples drawn at random, the likelier the larger their loss",
    "filter": "those with the largest losses of a small network, which was trained first on the same batches",
}
# What the kinds of margins are.
KINDS: dict[str, str] = {
    "gap": "the best logit minus the second: small where the network is undecided between two classes",
    "probability": "the largest class probability minus the second: small where the network is "
    "undecided between two classes",
    "distance": "the distance to the nearest decision boundary, in the space of the last layer\N{RIGHT SINGLE QUOTATION MARK}s "
    "inputs",
    "label": "the logit of a sample\N{RIGHT SINGLE QUOTATION MARK}s own class minus the best other one: negative where the "
    "network is wrong",
}
_VISITS = {
    "last_loss", "last_epoch", "trained_epochs", "window_loss", "alignment", "forgetting",
}  # fmt: skip
_TENSORS = {"labels", "features", "residuals"}


@dataclass(frozen=True)
class Selecting:
    """How a run selects.

    Attributes:
        known: the configuration tells. If not, nothing below is to be relied on.
        words: that in a few sentences; "" if not known.
        selects: there are selections; False: everything is trained on, or steps choose for themselves.
        budgeted: selections keep to the budget.
        exact: an epoch trains on as many samples as its budget says.
        dynamic: a new selection at every refresh.
        passes: a pass scores samples for a selection, whose seconds are the epoch's that it begins.
        margin: the kind of margin that is known of the samples; None: none is.
        by_margin: the smallest of these margins, up to the largest selected, are the selection.
        warmup: first epochs, which train on everything.
        tail: the first epoch, from 0, of those at the end that train on everything; None: there is none.
    """

    known: bool = False
    words: str = ""
    selects: bool = True
    budgeted: bool = True
    exact: bool = True
    dynamic: bool = True
    passes: bool = True
    margin: str | None = None
    by_margin: bool = True
    warmup: int = 0
    tail: int | None = None

    def trains_on_all(self, epoch: int) -> bool:
        """Whether ``epoch`` is one of the first or last that train on everything."""
        return epoch < self.warmup or (self.tail is not None and epoch >= self.tail)


def selecting(config: Mapping[str, Any]) -> Selecting:
    """Work out how a run of ``config`` selects."""
    name, chosen = setting(config, "selection.strategy"), setting(config, "selection")
    try:
        return Selecting() if name not in WHAT else _of(config, name, chosen)
    except (TypeError, ValueError, AttributeError, KeyError):  # of another version
        return Selecting()


def training_set_size(
    run: Run, how: Selecting, class_totals: Sequence[int] | None = None
) -> int | None:
    """Number of samples in the training set; None if nothing tells it.

    ``class_totals`` add up to it. Without them the epoch with the largest budget tells it to within
    rounding, where an epoch trains on as many samples as its budget says; the number of margins of a
    refresh, where it agrees, tells it exactly. Other epochs tell it where they train on everything.
    """
    if class_totals is not None and sum(class_totals) > 0:
        return sum(class_totals)
    usable = [r for r in run.epochs if math.isfinite(r.budget) and r.budget > 0 and r.samples > 0]
    if not how.exact:
        usable = [record for record in usable if how.trains_on_all(record.epoch)]
    scored = max((sum(record.histogram_counts) for record in run.refreshes), default=0)
    if not usable:
        return scored or None
    widest = max(usable, key=lambda record: record.budget)
    estimate = round(widest.samples / widest.budget)
    return scored if abs(scored - estimate) <= 2 else estimate


def _of(config: Mapping[str, Any], name: str, chosen: Mapping[str, Any]) -> Selecting:
    from dynams.selection.methods.interface import Strategy
    from dynams.selection.methods.registry import build_strategy

    strategy = build_strategy(name, **(chosen.get("options") or {}).get(name, {}))
    what = WHAT[name].format(score=getattr(strategy, "score", ""))
    epochs = setting(config, "optim.epochs") or 0
    warmup = min(chosen.get("warmup_epochs") or 0, epochs)
    tail_epochs = int((chosen.get("tail") or 0.0) * epochs + 0.5)
    tail = epochs - tail_epochs if tail_epochs else None
    if not isinstance(strategy, Strategy):
        words = [f"Each step trains on some samples of its batch: {what}."]
        if "irreducible_loss" in strategy.needs:
            words.append(_irreducible(chosen))
        words.append(_look(config, name))
        words += _whole_epochs(warmup, tail_epochs)
        return Selecting(
            True,
            " ".join(words),
            selects=False,
            budgeted=False,
            exact=False,
            passes=False,
            warmup=warmup,
            tail=tail,
        )
    guard = chosen.get("noise_guard") or 0.0
    if name == "full" and not guard:
        words = ["Every epoch trains on all samples."]
        return Selecting(True, words[0], selects=False, budgeted=False, passes=False)
    guarded = {chosen.get("noise_score") or "loss"} if guard else set()
    needs = strategy.needs | guarded
    given = _given(strategy.needs) if chosen.get("scores") else None
    scored = needs - _VISITS - {given, "irreducible_loss", "memorisation", "labels"}
    own = chosen.get("dynamic")
    dynamic = strategy.dynamic if own is None else bool(own)
    steady = not strategy.budgeted or (chosen.get("schedule") or "constant") == "constant"
    balanced = (chosen.get("class_balance") or "none") != "none"
    kept = not balanced and not any(n in _TENSORS or "." in n for n in strategy.needs)
    margin = next((kind for kind in KINDS if kind in needs), None)
    mixed = balanced or guard > 0
    mixed |= any(
        (chosen.get(name) or 0.0) > 0 for name in ("age_weight", "softness", "exploration")
    )
    words = [_when(what, dynamic, steady)]
    words += _whence(config, strategy.needs, scored, given, once=not dynamic and (steady or kept))
    words += _switches(chosen, guard) + _whole_epochs(warmup, tail_epochs)
    return Selecting(
        True,
        " ".join(words),
        budgeted=strategy.budgeted,
        exact=strategy.budgeted and name not in ("importance", "gradmatch", "gradmatch-batches"),
        dynamic=dynamic,
        passes=bool(scored),
        margin=margin,
        by_margin=name in ("margin", "static-margin") and not mixed,
        warmup=warmup,
        tail=tail,
    )


def _given(needs: frozenset[str]) -> str:
    """Which of the scores that a strategy needs selection.scores holds."""
    only_given = sorted(needs & {"memorisation", "irreducible_loss"})
    return (only_given or sorted(needs - _TENSORS))[0]


def _when(what: str, dynamic: bool, steady: bool) -> str:
    if dynamic:
        return f"Each refresh selects {what}."
    if steady:
        return f"The selection is made once and kept: {what}."
    return f"A new selection is made only where the budget changes: {what}."


def _whence(
    config: Mapping[str, Any],
    needs: frozenset[str],
    scored: frozenset[str],
    given: str | None,
    *,
    once: bool,
) -> list[str]:
    """Say where the scores come from."""
    chosen, words = config["selection"], []
    if "irreducible_loss" in needs:
        words.append(_irreducible(chosen))
    elif given is not None:
        words.append("What it goes by was read from a file (selection.scores).")
    elif needs & _VISITS:
        words.append("What it goes by is what training steps left behind.")
    if not scored:
        return [*words, "Nothing is scored apart."] if needs else words
    proxy = config.get("proxy") or {}
    width = proxy.get("width", 1.0)
    slim = proxy.get("recipe", "joint") != "none" and width < 1.0
    by = f"by the proxy (width {width:g})" if slim else "by the whole network"
    if chosen.get("free"):
        words.append(
            "Scores of samples that were just trained on are those of their training step; only the "
            f"other samples are scored, {by}."
        )
    else:
        when = "once, before the first selection" if once else "before each selection"
        words.append(f"Every sample is scored {when}, {by}.")
    return words


def _look(config: Mapping[str, Any], name: str) -> str:
    """Say by what a step chooses of its batch."""
    if name == "filter":
        return "What it kept of every batch was noted; the training itself looks at none."
    proxy = config.get("proxy") or {}
    width = proxy.get("width", 1.0)
    slim = proxy.get("recipe", "joint") != "none" and width < 1.0
    by = (
        f" by the proxy (width {width:g})"
        if slim and name in ("batch-loss", "batch-margin")
        else ""
    )
    return f"It chooses by a forward pass of the batch{by}; nothing else is scored."


def _irreducible(chosen: Mapping[str, Any]) -> str:
    if chosen.get("scores"):
        return "The irreducible losses were read from a file (selection.scores)."
    return "The irreducible losses are those of a network trained on held-out samples first."


def _switches(chosen: Mapping[str, Any], guard: float) -> list[str]:
    words = []
    age, softness = (chosen.get(name) or 0.0 for name in ("age_weight", "softness"))
    if age or softness:
        words.append(
            "The rank of a sample by difficulty, from 0 to 1, is raised"
            + (f" by {age:g} for every epoch since it was trained on" if age else "")
            + (" and" if age and softness else "")
            + (f" by chance, up to {softness:g}" if softness else "")
            + "; those never trained on come first."
        )
    balance = chosen.get("class_balance")
    if balance == "proportional":
        words.append("Every class has a share of the selection in proportion to its samples.")
    elif balance == "equal":
        words.append("Every class has an equal share of the selection, as far as it has samples.")
    explored = chosen.get("exploration") or 0.0
    if explored:
        for_all = ", and count for all that were not taken" if chosen.get("unbiased") else ""
        words.append(f"{percent(explored)} of it are drawn at random from the rest{for_all}.")
    if guard:
        which = "the most negative margins of their own class"
        if chosen.get("noise_score", "loss") == "loss":
            which = "the largest losses"
        words.append(
            f"Never selected are up to {percent(guard)} of the samples, those with {which}, which may "
            "be mislabelled."
        )
    return words


def _whole_epochs(warmup: int, tail: int) -> list[str]:
    """Say which epochs train on everything."""
    parts = [
        f"the {end} epoch" if count == 1 else f"the {end} {count} epochs"
        for end, count in (("first", warmup), ("last", tail))
        if count
    ]
    if not parts:
        return []
    verb = "trains" if warmup + tail == 1 else "train"
    return [f"{' and '.join(parts).capitalize()} {verb} on everything."]
