"""The sections of a run's configuration that say which samples it trains on: `selection`, and the `proxy` that scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dynams.checks import of_type, one_of
from dynams.selection.methods.registry import STRATEGIES
from dynams.training.settings import check, section, setting


@section
@dataclass(frozen=True)
class SelectionConfig:
    """Which samples each epoch trains on."""

    strategy: str = setting(
        "margin",
        "margin (DynaMS: the smallest margins, chosen again every refresh_every epochs), static-margin "
        "(the smallest margins, chosen once, after the warm-up), random (another random subset "
        "at every refresh), static-random, full (everything, always), loss, importance, el2n, "
        "grand, forgetting, confidence, entropy, memorisation, craig, gradmatch, "
        "gradmatch-batches, glister, rho-loss, infobatch, repb, orderdp, alignprune, seta; or one that chooses "
        "inside every step: batch-loss, batch-margin, batch-importance, batch-rho-loss, selective-backprop, filter "
        "(by a small network that is trained first)",
        known=STRATEGIES,
    )
    options: dict[str, Any] = setting(  # noqa: RUF009 (it makes a field)
        {},
        "strategies' own options under their names, such as {infobatch: {ratio: 0.3}}; those of "
        "strategies not in use do nothing. {margin: {kind: ...}} is which margin: gap (the default: "
        "best logit minus second), probability (the same after softmax), distance (to the nearest "
        "boundary in feature space), or label (logit of the true class minus best other; picks "
        "wrongly classified samples first)",
    )
    dynamic: bool | None = setting(
        None,
        "choose again at every refresh (true) or once (false); unset: as the strategy was "
        "published",
    )
    budget: float = setting(
        0.6, "fraction of the training samples to keep; where the schedule ends", within="(0, 1]"
    )
    schedule: Literal["constant", "linear", "cosine", "power"] = setting(
        "constant",
        "how the budget goes from start to budget over the run: constant (at budget "
        "throughout), linear, cosine or power",
    )
    start: float = setting(
        1.0, "fraction at which a linear, cosine or power schedule begins", within="(0, 1]"
    )
    exponent: float = setting(1.0, "exponent of the power schedule; 1 is linear", within="(0, inf)")
    refresh_every: int = setting(2, "epochs from one selection to the next (Q)", least=1)
    warmup_epochs: int = setting(
        2, "first epochs that train on everything, before the first selection", least=0
    )
    tail: float = setting(
        0.0,
        "fraction of the epochs, at the end of the run, that train on everything again",
        within="[0, 1)",
    )
    class_balance: Literal["none", "proportional", "equal"] = setting(
        "none",
        "give every class its share of the selection: proportional to its samples, or equal; "
        "none leaves classes alone",
    )
    age_weight: float = setting(
        0.0,
        "let samples come back that are not chosen: what each epoch since a sample's last training step adds to its rank "
        "by difficulty, which is between 0 (the easiest) and 1; those never trained on come first",
        within="[0, inf)",
    )
    softness: float = setting(
        0.0, "what chance adds to that rank: up to so much, drawn evenly", within="[0, inf)"
    )
    exploration: float = setting(
        0.0, "share of the selection that is drawn at random from the rest", within="[0, 1]"
    )
    unbiased: bool = setting(
        False,
        "let what is drawn at random count for all that was not chosen, so that the loss is, on "
        "average, that of all samples",
    )
    noise_guard: float = setting(
        0.0,
        "share of all samples, those most likely mislabelled, that is never selected",
        within="[0, 1)",
    )
    noise_score: Literal["loss", "label"] = setting(
        "loss",
        "what tells them: loss (the largest) or label (the most negative margin of the true class)",
    )
    scores: str | None = setting(
        None,
        ".npy or .pt file with one number for every training image, before any are held out: "
        "the score that the strategy ranks by (memorisation, rho-loss: the irreducible loss), "
        "in place of scoring",
        path=True,
    )
    holdout_epochs: int = setting(
        10,
        "epochs that rho-loss trains a network on the held-out images first, for the "
        "irreducible losses, where no scores are given",
        least=1,
    )
    free: bool = setting(
        False,
        "take the scores of samples that were just trained on from their training step, and "
        "score only the others",
    )
    max_age: int | None = setting(
        None, "epochs for which such a score counts; unset: refresh_every", least=1
    )
    batch_size: int | None = setting(
        None,
        "images scored, or evaluated, at a time; unset: 256, on a GPU as many as 2048 of 32 x 32 pixels",
        least=1,
    )

    def __post_init__(self) -> None:
        check("selection", self)
        for name, own in self.options.items():
            if name not in STRATEGIES and not isinstance(own, Mapping):
                raise ValueError(
                    f"selection.options.{name}: got {own!r}, want it under a strategy's name, such as "
                    f"selection.options.{self.strategy}.{name}"
                )
            one_of("selection.options", name, STRATEGIES)
            of_type(f"selection.options.{name}", own, dict)


@section
@dataclass(frozen=True)
class ProxyConfig:
    """The proxy: the leading channels of the same network, which score the candidates."""

    width: float = setting(
        0.5,
        "fraction of every layer's channels that the proxy has; 1 scores with the whole network "
        "and trains no proxy",
        within="(0, 1]",
    )
    recipe: Literal["joint", "distill", "probe", "batch_norm", "none"] = setting(
        "joint",
        "how the proxy is made fit to score: joint (the paper's: its loss L_p is added to the "
        "loss L of the full width, as long as selections are to come), distill (the same, its "
        "targets being the full width's outputs), probe (with nested: only a classifier of the "
        "proxy's own learns, the network is as without), batch_norm (no loss; before each scoring its "
        "batch-norms are estimated anew), or none (no proxy: the candidates are "
        "scored at full width, and the network is untouched)",
    )
    weight: float = setting(1.0, "weight of the proxy's loss: L + weight * L_p", within="(0, inf)")
    every: int = setting(
        1, "train the proxy at every n-th step only; 1 trains both at every step", least=1
    )
    share: float = setting(1.0, "part of each batch that the proxy trains on", within="(0, 1]")
    batches: int = setting(
        8,
        "batches of selection.batch_size images (unset: 256) that batch_norm estimates from",
        least=1,
    )
    nested: bool = setting(
        False,
        "let the proxy's channels depend on its own alone: then one forward gives both outputs, the "
        "proxy's loss costs next to nothing, and the full width is a little less free",
    )

    def __post_init__(self) -> None:
        check("proxy", self)
        if self.nested and not self.trains:
            raise ValueError(
                f"proxy.recipe: got {self.recipe}, want joint, distill or probe with proxy.nested"
            )
        if self.recipe == "probe" and not self.nested:
            raise ValueError("proxy.nested: got False, want True with proxy.recipe probe")
        if self.nested and self.width == 1.0:
            raise ValueError("proxy.width: got 1.0, want less with proxy.nested")
        if self.nested and self.share < 1.0:
            raise ValueError(
                f"proxy.share: got {self.share}, want 1 with proxy.nested: one forward takes the whole batch"
            )

    @property
    def trains(self) -> bool:
        """Whether the recipe has a loss of the proxy."""
        return self.recipe in ("joint", "distill", "probe")

    @property
    def head(self) -> Literal["shared", "own", "probe"]:
        """Which classifier the proxy has: the columns of the network's, or one of its own."""
        if not self.nested:
            return "shared"
        return "probe" if self.recipe == "probe" else "own"
