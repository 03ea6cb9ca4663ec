"""The small runs of bench/gpu.sh (see trained.py): every strategy and switch once, on noise, runs that are stopped and resumed, and margins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpu.training_setting import Bench, Found, Sections, log_of, made_up

if TYPE_CHECKING:
    from dynams.report import Summary

SMALL: Sections = {
    "model": {"name": "resnet8", "base_channels": 4},
    "selection": {"refresh_every": 1, "warmup_epochs": 1, "batch_size": 20},
    "optim": {"epochs": 3, "batch_size": 12, "lr": 0.05},
}
HELD_OUT: Sections = {"data": {"holdout": 0.2}, "selection": {"holdout_epochs": 1}}
# What some strategies need beside their name.
NEEDS: dict[str, Sections] = {
    "craig": {"selection": {"options": {"craig": {"part_size": 16}}}},
    "gradmatch": {"selection": {"options": {"gradmatch": {"part_size": 16}}}},
    "gradmatch-batches": {"selection": {"options": {"gradmatch-batches": {"batch_size": 4}}}},
    "glister": {"data": {"holdout": 0.2}, "selection": {"options": {"glister": {"rounds": 3}}}},
    "rho-loss": HELD_OUT,
    "batch-rho-loss": HELD_OUT,
    "filter": {"selection": {"options": {"filter": {"model": "resnet8"}}}},
}
SWITCHES: dict[str, Sections] = {
    "kind distance": {"selection": {"options": {"margin": {"kind": "distance"}}}},
    "kind probability, bfloat16": {"selection": {"options": {"margin": {"kind": "probability"}}}, "run": {"precision": "bf16-mixed"}},
    "kind label, balanced, explored, guarded": {"selection": {"options": {"margin": {"kind": "label"}}, "class_balance": "equal", "exploration": 0.3, "noise_guard": 0.1}},
    "free, explored, unbiased": {"selection": {"free": True, "exploration": 0.5, "unbiased": True}},
    "weighted, with replacement": {"selection": {"strategy": "importance", "options": {"importance": {"replacement": True}}}},
    "part of a batch distilled": {"proxy": {"recipe": "distill", "share": 0.5, "every": 2}},
    "norms estimated anew": {"proxy": {"recipe": "batch_norm", "batches": 2}},
    "schedule and tail": {"selection": {"schedule": "cosine", "budget": 0.4, "tail": 0.34}},
}  # fmt: skip


def small(bench: Bench, where: str, *layers: Sections) -> Found:
    """A run of seconds on noise that lies on the device or on the host."""
    from dynams.training import train

    summary = train(bench.config(SMALL, *layers), made_up(60, 8, 3, where))
    run = log_of(summary)
    return [("samples of each epoch", ", ".join(str(each.samples) for each in run.epochs), "")]


def strategy(bench: Bench, name: str) -> Found:
    """A run by one strategy."""
    import numpy as np

    given: Sections = {"selection": {"strategy": name}}
    if name == "memorisation":
        np.save(bench.folder / "scores.npy", np.arange(60)[::-1] / 60.0)
        given["selection"]["scores"] = str(bench.folder / "scores.npy")
    return small(bench, bench.device, NEEDS.get(name, {}), given)


def frozen_margins(bench: Bench) -> Found:
    """Margins of a frozen ResNet-18 in bfloat16, against float32's: as off as where its layers run one by one, whatever memory held."""
    import torch

    import dynams_kernels as dk
    from dynams.models import build_model
    from dynams.slimmable.moulds import filled
    from dynams.training.network import frozen

    device, last = bench.device, torch.channels_last
    network = build_model("resnet18", 10, base_channels=bench.sizes.channels).to(device)
    images = torch.randn(bench.sizes.batch, 3, 32, 32, device=device).to(memory_format=last)

    def margins(scorer: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=scorer is not exact):
            features = scorer.features(images)
        return dk.linear_margin(features.float(), scorer.head.weight, scorer.head.bias)

    with torch.no_grad():
        for _ in range(4):
            network(images, width=0.5)
        network.eval()
        exact = frozen(network, 0.5)
        one_by_one = network.plain(0.5)
        one_by_one.fold_batch_norms()
        one_by_one.to(memory_format=last)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            want = margins(exact)
        off = (margins(one_by_one) - want).abs().mean().item()
        spoilt = [torch.full((size,), torch.nan, device=device) for size in [1 << 22] * 16]
        del spoilt
        with filled(network, 0.5, last, torch.bfloat16) as scorer:
            joined_off = (margins(scorer) - want).abs().mean().item()
    assert joined_off <= 1.5 * off, f"margins off by {joined_off}, one by one by {off}"
    return [
        ("margins in float32", want.mean().item(), ""),
        ("in bfloat16, layers one by one, off by", off, ""),
        ("activations joined to convolutions, off by", joined_off, ""),
    ]


def resumed(bench: Bench) -> Found:
    """Runs stopped within an epoch, within a scoring pass and at an epoch's end, against one that was not."""
    from dynams.training import load_checkpoint, train
    from dynams.training.rundir import checkpoint_path
    from gpu.watched import Watch

    data, config = made_up(60, 8, 3, bench.device), bench.config(SMALL)

    def end(summary: Summary) -> Any:
        log_of(summary)
        return load_checkpoint(checkpoint_path(summary.run_dir))

    def apart(one: Any, other: Any) -> float:
        differences = [
            (one.model[name].double() - other.model[name].double()).abs().max().item()
            for name in one.model
        ]
        return float(max(differences))

    whole = end(train(config, data))
    repeated = apart(end(train(config, data)), whole)
    found: Found = [("weights of a run repeated, off by", repeated, "")]
    # Epoch 0 asks 5 + 1 times, epoch 1 scores in 3 batches, then takes 3 steps.
    for place, question in (("an epoch's end", 6), ("a scoring pass", 8), ("an epoch", 11)):
        stopped = train(config, data, interrupt=Watch(stop_at=question))
        assert not stopped.completed, f"question {question} did not stop the run"
        done = end(train(config, data, resume=stopped.run_dir))
        for name in ("epoch", "global_step", "samples"):
            got, want = getattr(done, name), getattr(whole, name)
            assert got == want, f"{name}: got {got} after resuming, want {want}"
        off = apart(done, whole)
        assert off == 0 or repeated > 0, f"off by {off} after {place}, where a repeated run is not"
        found.append((f"weights of one resumed in {place}, off by", off, ""))
    return found
