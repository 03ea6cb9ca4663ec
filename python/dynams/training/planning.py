"""What a configuration will cost, by the rates of an earlier run; and the budget that keeps it within a target.

Rates belong to what was measured: network, data, batch size, strategy, precision, device. A run that differs
in any of it is refused, and so is a strategy whose work does not follow from its budget. What a prediction
knows nothing of: compiling and tuning count for as much a sample as in the measured run's few epochs, and
the time of checkpoints as once a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dynams.report.records import Run
from dynams.report.runlog import read_run
from dynams.report.text import duration, percent
from dynams.selection.schedule import build_schedule
from dynams.selection.signals import TENSORS, VALIDATION
from dynams.training.checkpoint import checkpoint_path, load_checkpoint
from dynams.training.choosing import Choice, build_choice
from dynams.training.config import TrainConfig
from dynams.training.environment import environment
from dynams.training.plan import Forecast, Plan, Scoring, fit, forecast, predict
from dynams.training.rates import Rates, rates_of

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
        "optim.warmup",
        "optim.final_lr",
        "optim.label_smoothing",
        "run.name",
        "run.dir",
        "run.seed",
        "run.accelerator",  # the device itself is compared
        "run.evaluate_every",
        "run.save_every",
        "run.tensorboard",
        "run.report",
        "run.progress",
    }
)


def plan_of(config: TrainConfig, num_samples: int) -> Plan:
    """Return the numbers of ``config`` that its cost depends on.

    Args:
        config: the whole run.
        num_samples: N, the training images without those held out.

    Raises:
        ValueError: its cost does not follow from a budget; names the setting.
    """
    chosen, choice = config.selection, build_choice(config)
    if choice.batch is not None or not choice.strategy.budgeted:
        raise ValueError(f"selection.strategy: {chosen.strategy} keeps no budget to predict from")
    if chosen.free and not _all_remembered(config):
        raise ValueError(
            "selection.free: how many samples a refresh scores is known beforehand only where it scores "
            "none: with a selection.warmup_epochs of at least 1 and a selection.max_age of at least the "
            f"{config.optim.epochs - chosen.warmup_epochs} epochs after it"
        )
    if choice.visits - (choice.scored if chosen.free else set()):
        raise ValueError(
            f"selection.strategy: {chosen.strategy} scores inside training steps, which no prediction "
            "knows"
        )
    dynamic = choice.strategy.dynamic if chosen.dynamic is None else chosen.dynamic
    scoring: Scoring = "never"
    if choice.scored and not chosen.free:
        scoring = "every refresh" if dynamic else "once"
    if scoring == "once" and chosen.schedule != "constant" and not _keeps_signals(choice):
        raise ValueError(
            f"selection.schedule: {chosen.strategy}, chosen once, is scored again where the budget "
            "changes, which no prediction knows; constant has one"
        )
    proxy_share = 0.0
    if choice.proxy_width is not None and config.proxy.trains:
        proxy_share = config.proxy.share / config.proxy.every
    return Plan(
        num_samples,
        config.optim.epochs,
        build_schedule(
            chosen.schedule, chosen.budget, start=chosen.start, exponent=chosen.exponent
        ),
        refresh_every=chosen.refresh_every,
        warmup_epochs=chosen.warmup_epochs,
        scoring=scoring,
        proxy_share=proxy_share,
        evaluate_every=config.run.evaluate_every,
        holdout=choice.irreducible,
        tail=chosen.tail,
        dynamic=dynamic,
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
    run = _read(run_dir)
    plan_of(config, 1)  # refuses what cannot be planned at all, whatever was measured
    _check_settings(run, config, run_dir)
    _check_device(run, config, run_dir)
    num_samples = _samples_of(run_dir)
    plan = plan_of(config, num_samples)
    rates = _rates(run, plan, run_dir)
    if seconds is None and fraction is None:
        found = forecast(plan, rates)
    else:
        found = fit(plan, rates, seconds=seconds, fraction=fraction)
    if run.summary is None or not run.summary.completed:
        unknown = f"{run_dir} did not finish: what its run took outside its epochs is not counted"
        return Forecast(found.plan, found.prediction, found.full, (*found.warnings, unknown))
    return found


def told(found: Forecast) -> list[str]:
    """Tell a forecast in two lines of plain text: budget, seconds and saving; seconds by purpose."""
    plan, prediction, full = found.plan, found.prediction, found.full
    curve = "" if plan.schedule.kind == "constant" else f", the end of {plan.schedule!r}"
    purposes = []
    for purpose, takes in prediction.seconds.items():
        if takes or full.seconds[purpose]:
            beside = full.seconds[purpose]
            purposes.append(
                f"{purpose} {duration(takes)} ({duration(beside) if beside else 'none'})"
            )
    epochs = "epoch" if plan.epochs == 1 else f"{plan.epochs} epochs"
    saves = "saves" if found.saving >= 0 else "loses"
    lines = [
        f"selection.budget {found.budget:g}{curve}: {duration(prediction.total)} predicted, "
        f"{duration(full.total)} for the same {epochs} on all samples; "
        f"{saves} {percent(abs(found.saving))}",
        f"by purpose (on all samples): {', '.join(purposes)}",
    ]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _all_remembered(config: TrainConfig) -> bool:
    """Whether every refresh finds every sample's score among those of training steps."""
    chosen = config.selection
    age = chosen.refresh_every if chosen.max_age is None else chosen.max_age
    return chosen.warmup_epochs >= 1 and age >= config.optim.epochs - chosen.warmup_epochs


def _keeps_signals(choice: Choice) -> bool:
    """Whether a selection can be made again from the scores of before: the sampler keeps numbers only."""
    return not any(name in TENSORS or name.startswith(VALIDATION) for name in choice.strategy.needs)


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
    before, now = was.to_dict(), config.to_dict()
    differing = [
        (f"{section}.{key}", old, now[section][key])
        for section, values in before.items()
        for key, old in values.items()
        if old != now[section][key] and f"{section}.{key}" not in MAY_DIFFER
    ]
    if config.data.name == "folder" and _resolved(was.data.path) != _resolved(config.data.path):
        differing.append(("data.path", was.data.path, config.data.path))
    _refuse(run_dir, differing)


def _check_device(run: Run, config: TrainConfig, run_dir: str | Path) -> None:
    device = torch.device(_accelerator(config.run.accelerator))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.accelerator: wanted cuda, but torch sees no CUDA device here")
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
        listed = "; ".join(f"{name} was {was!r}, is {now!r}" for name, was, now in differing)
        raise ValueError(f"rates: {run_dir} measured something else: {listed}")


def _accelerator(name: str) -> str:
    """The device type that ``auto`` takes here."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _samples_of(run_dir: str | Path) -> int:
    """The candidates of a run, held-out ones apart: only its checkpoint always knows."""
    try:
        return int(load_checkpoint(checkpoint_path(run_dir)).data["train"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"rates: its number of samples is not known: {error}") from error


def _rates(run: Run, plan: Plan, run_dir: str | Path) -> Rates:
    try:
        rates = rates_of(run, num_samples=plan.num_samples)
        predict(plan, rates)
    except ValueError as error:
        raise ValueError(
            f"rates: {run_dir}: {error}; a run with two selections has all rates"
        ) from error
    return rates


def _resolved(path: str | None) -> Path | None:
    return None if path is None else Path(path).expanduser().resolve()
