"""What a configuration will cost, by the rates of an earlier run; and the budget that keeps it within a target.

Rates belong to what was measured: network, data, batch size, strategy, precision, device. A run that differs
in any of it is refused, and so is a strategy whose work does not follow from its budget. What a prediction
knows nothing of: compiling and tuning count for as much a sample as in the measured run's few epochs, and
the time of checkpoints as once a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynams.cost.forecast import Forecast, Outline, Scoring, estimate, fit, forecast
from dynams.cost.purposes import PURPOSES
from dynams.cost.rates import Rates, Work, measured
from dynams.paths import told_path
from dynams.report.records import Run
from dynams.report.runlog import read_run
from dynams.report.text import duration, percent
from dynams.selection.schedule import constant
from dynams.selection.signals import TENSORS, VALIDATION
from dynams.selection.timetable import Timetable
from dynams.training.changed_settings import changed_settings
from dynams.training.checkpoint import load_checkpoint
from dynams.training.config import TrainConfig
from dynams.training.devices import resolve_device
from dynams.training.environment import environment
from dynams.training.resolve import Selector, build_selector
from dynams.training.rundir import checkpoint_path
from dynams.training.timetable import timetable_of

# Settings that may differ between the run that was measured and the one that is planned: they decide how much
# is done, where things are and what comes of it, but not what a unit of it takes.
MAY_DIFFER = frozenset(
    {
        "data.path",  # but for folders
        "data.cache",
        "selection.dynamic",
        "selection.budget",
        "selection.schedule",
        "selection.start",
        "selection.exponent",
        "selection.refresh_every",
        "selection.warmup_epochs",
        "selection.tail",
        "proxy.weight",
        "proxy.every",
        "optim.epochs",
        "optim.lr",
        "optim.momentum",
        "optim.nesterov",
        "optim.weight_decay",
        "optim.decay_norm_bias",
        "optim.bias_lr",
        "optim.schedule",
        "optim.warmup",
        "optim.initial_lr",
        "optim.final_lr",
        "optim.label_smoothing",
        "run.name",
        "run.dir",
        "run.seed",
        "run.accelerator",  # the device itself is compared
        "run.evaluate_every",
        "run.save_every",
        "run.save_every_steps",
        "run.timeout",
        "run.tensorboard",
        "run.report",
        "run.progress",
    }
)


def outline_of(config: TrainConfig, num_samples: int) -> Outline:
    """Return the numbers of ``config`` that its cost depends on.

    Args:
        config: the whole run.
        num_samples: N, the training images without those held out.

    Raises:
        ValueError: its cost does not follow from a budget; names the setting.
    """
    chosen, selector = config.selection, build_selector(config)
    if selector.batch is not None or not selector.strategy.budgeted:
        raise ValueError(
            f"selection.strategy: got {chosen.strategy!r}, want one that keeps a budget to predict from"
        )
    times = timetable_of(config)
    if chosen.free and not _all_remembered(config, times):
        raise ValueError(
            "selection.free: got True, want False, or refreshes that are known to score nothing: with a "
            "selection.warmup_epochs of at least 1 and a selection.max_age of at least the "
            f"{_longest_memory(times)} epochs after it"
        )
    if selector.visits - (selector.scored if chosen.free else set()):
        raise ValueError(
            f"selection.strategy: got {chosen.strategy!r}, want one that does not score inside training "
            "steps, which no prediction knows"
        )
    dynamic = selector.strategy.dynamic if chosen.dynamic is None else chosen.dynamic
    scoring: Scoring = "never"
    if selector.scored and not chosen.free:
        scoring = "every refresh" if dynamic else "once"
    if scoring == "once" and chosen.schedule != "constant" and not _keeps_signals(selector):
        raise ValueError(
            f"selection.schedule: got {chosen.schedule!r}, want constant with {chosen.strategy} chosen "
            "once: no prediction knows how often a changing budget has it scored again"
        )
    proxy_share = 0.0
    if selector.proxy_width is not None and config.proxy.trains:
        proxy_share = config.proxy.share / config.proxy.every
    return Outline(
        num_samples,
        times,
        scoring=scoring,
        proxy_share=proxy_share,
        evaluate_every=config.run.evaluate_every,
        holdout=selector.irreducible,
        dynamic=dynamic,
        full_steps=config.optim.batch_size if config.optim.drop_last else 1,
    )


def forecast_of(
    config: TrainConfig,
    run_dir: str | Path,
    *,
    seconds: float | None = None,
    fraction: float | None = None,
) -> Forecast:
    """Predict what ``config`` will cost by the rates of an earlier run; with a target, at the budget that fits.

    Args:
        config: the whole run. With a target its budget does not matter.
        run_dir: directory of the earlier run: the same but for what `MAY_DIFFER`, with a selection and an
            evaluation at least.
        seconds: the target, everything counted.
        fraction: the target, over the cost of the same epochs on all samples.

    Raises:
        ValueError: the run is not there, was of other settings or on another device, or did not do all that
            ``config`` will; the cost does not follow from a budget; or the target cannot be met.
    """
    run_dir = told_path(run_dir)
    run = _read(run_dir)
    outline_of(config, 1)  # refuses what cannot be planned at all, whatever was measured
    _check_settings(run, config, run_dir)
    _check_device(run, config, run_dir)
    num_samples = _samples_of(run_dir)
    outline = outline_of(config, num_samples)
    rates = _rates(run, outline, run_dir)
    if seconds is None and fraction is None:
        found = forecast(outline, rates)
    else:
        found = fit(outline, rates, seconds=seconds, fraction=fraction)
    if run.summary is None or not run.summary.completed:
        unknown = f"{run_dir} did not finish: what its run took outside its epochs is not counted"
        return Forecast(found.outline, found.estimate, found.full, (*found.warnings, unknown))
    return found


def told(found: Forecast) -> list[str]:
    """Tell a forecast in two lines of plain text: budget, seconds and saving; seconds by purpose."""
    outline, expected, full = found.outline, found.estimate, found.full
    curve = "" if outline.schedule.kind == "constant" else f", the end of {outline.schedule!r}"
    purposes = []
    for purpose, takes in expected.seconds.items():
        if takes or full.seconds[purpose]:
            beside = full.seconds[purpose]
            purposes.append(
                f"{purpose} {duration(takes)} ({duration(beside) if beside else 'none'})"
            )
    epochs = "epoch" if outline.epochs == 1 else f"{outline.epochs} epochs"
    saves = "saves" if found.saving >= 0 else "loses"
    lines = [
        f"selection.budget {found.budget:g}{curve}: {duration(expected.total)} predicted, "
        f"{duration(full.total)} for the same {epochs} on all samples; "
        f"{saves} {percent(abs(found.saving))}",
        f"by purpose (on all samples): {', '.join(purposes)}",
    ]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def rates_of(run: Run, *, num_samples: int, scored_share: float = 1.0) -> Rates:
    """Measure the rates of a logged run, finished or not.

    The proxy-trained samples are those of the epochs with a proxy loss, times proxy.share / proxy.every
    of the run's configuration. Seconds outside all purposes are known of a run that ended only.

    Args:
        run: as `read_run` gives it.
        num_samples: N, the candidates of every refresh.
        scored_share: share of them that each refresh scored.

    Raises:
        ValueError: the run finished no epoch, or its records contradict each other.
    """
    seconds = dict.fromkeys(PURPOSES, 0.0)
    for epoch in run.epochs:
        for name in PURPOSES:
            seconds[name] += epoch.seconds.get(name, 0.0)
    # A scoring pass shows in its epoch's seconds: a random draw, or a static subset that is cut again
    # from old margins, has a refresh without one.
    passes = sum(1 for epoch in run.epochs if epoch.seconds.get("scoring", 0.0) > 0.0)
    joint = sum(epoch.samples for epoch in run.epochs if epoch.proxy_loss is not None)
    proxy = run.config.get("proxy", {})
    work = Work(
        trained=sum(epoch.samples for epoch in run.epochs),
        proxy_trained=joint * proxy.get("share", 1.0) / proxy.get("every", 1),
        scored=scored_share * num_samples * passes,
        selections=_selections(run),
        evaluations=sum(1 for epoch in run.epochs if epoch.accuracy is not None),
        epochs=len(run.epochs),
        holdouts=int(seconds.get("holdout model", 0.0) > 0.0),
    )
    total = None
    if run.summary is not None and run.summary.completed:
        total = run.summary.total_seconds
    return measured(seconds, work, total_seconds=total)


def _all_remembered(config: TrainConfig, times: Timetable) -> bool:
    """Whether every refresh finds every sample's score among those of training steps."""
    chosen = config.selection
    age = chosen.refresh_every if chosen.max_age is None else chosen.max_age
    return times.phase(0) == "warm-up" and age >= _longest_memory(times)


def _longest_memory(times: Timetable) -> int:
    """Epochs from the end of the warm-up, which visits every sample, to the end of the last refresh's first."""
    return 1 + max(times.refreshes, default=-1) - times.warmup_epochs


def _keeps_signals(selector: Selector) -> bool:
    """Whether a selection can be made again from the scores of before: the sampler keeps numbers only."""
    return not any(
        name in TENSORS or name.startswith(VALIDATION) for name in selector.strategy.needs
    )


def _read(run_dir: str | Path) -> Run:
    try:
        return read_run(run_dir)
    except FileNotFoundError as error:
        raise ValueError(f"rates: no run in {run_dir}, it has no log.jsonl") from error
    except ValueError as error:
        raise ValueError(f"rates: {error}") from error


def _check_settings(run: Run, config: TrainConfig, run_dir: str | Path) -> None:
    try:
        was = TrainConfig.from_dict(run.config)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"rates: the configuration of {run_dir} cannot be read: {error}"
        ) from error
    differing = changed_settings(was, config, MAY_DIFFER)
    if config.data.name in ("folder", "shards") and _resolved(was.data.path) != _resolved(
        config.data.path
    ):
        differing.append(("data.path", was.data.path, config.data.path))
    _refuse(run_dir, differing)


def _check_device(run: Run, config: TrainConfig, run_dir: str | Path) -> None:
    device = resolve_device(config.run.accelerator)
    here = environment(device)
    names = ["device"] if device.type == "cuda" else ["device", "cpu", "cores"]
    was = run.environment
    _refuse(
        run_dir,
        [
            (name, was[name], here[name])
            for name in names
            if was.get(name, here[name]) != here[name]
        ],
    )


def _refuse(run_dir: str | Path, differing: list[tuple[str, Any, Any]]) -> None:
    if differing:
        listed = "; ".join(f"{name}: got {now!r}, want {was!r}" for name, was, now in differing)
        raise ValueError(f"{listed}: {run_dir} measured that")


def _samples_of(run_dir: str | Path) -> int:
    """The candidates of a run, held-out ones apart: only its checkpoint always knows."""
    try:
        return int(load_checkpoint(checkpoint_path(run_dir)).data["train"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"rates: its number of samples is not known: {error}") from error


def _rates(run: Run, outline: Outline, run_dir: str | Path) -> Rates:
    try:
        rates = rates_of(run, num_samples=outline.num_samples)
        estimate(outline, rates)
    except ValueError as error:
        raise ValueError(
            f"rates: {run_dir}: {error}; a run with two selections has all rates"
        ) from error
    return rates


def _resolved(path: str | None) -> Path | None:
    return None if path is None else Path(path).resolve()


def _selections(run: Run) -> int:
    """Count the selections of the finished epochs: going back to all samples for a tail is none."""
    tail = run.config.get("selection", {}).get("tail", 0.0)
    epochs = run.config["optim"]["epochs"] if tail else None
    times = Timetable(constant(1.0), epochs=epochs, tail=tail)
    finished = {epoch.epoch for epoch in run.epochs}
    return sum(
        1 for each in run.refreshes if each.epoch in finished and times.phase(each.epoch) != "tail"
    )
