"""A GPU report as Markdown: what ran, the targets, every benchmark, what failed. Needs neither torch nor a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import units
from gpu import candidate_table, predictions, targets, training_table
from gpu.entries import median

Report = dict[str, Any]
MOST_NAMED = 60
MOST_SLOW = 5


def is_gpu_report(report: Report) -> bool:
    """Whether a pytest-benchmark report is one of bench/gpu.sh."""
    return "gpu" in report["machine_info"]


def machine(report: Report) -> str:
    """The machine and the commit, in one line."""
    info, commit = report["machine_info"], report["commit_info"]
    packages = info.get("packages", {})
    gpu = info["gpu"]
    parts = [
        f"{gpu['name']}, driver {gpu.get('driver_version', 'unknown')}",
        f"SM clock at most {gpu['clocks.max.sm']}" if "clocks.max.sm" in gpu else "",
        f"Python {info['python_version']}, torch {info['torch']}, triton {packages.get('triton')}",
        f"{info['nvcc']}" if info.get("nvcc") else "no nvcc",
        f"commit {commit['id'][:10]}{' with changes' if commit.get('dirty') else ''}",
        report["datetime"][:10],
    ]
    return ", ".join(part for part in parts if part)


def ceilings(report: Report) -> str:
    """The rates measured in the same run."""
    found = report["run"].get("ceilings")
    if not found:
        return "Ceilings: not measured."
    rates = [
        f"{name} {found[name] / 1e12:.0f} TFLOP/s" for name in found if name.endswith("matmul")
    ]
    return (
        f"Ceilings of this run: copy {found['copy'] / 1e12:.2f} TB/s (read and written), {', '.join(rates)}; "
        f"smallest launch {units.time(found['launch'])}."
    )


def stages(report: Report) -> str:
    """What each stage came to."""
    rows = [
        [stage["stage"], stage["outcome"], f"{stage['seconds']} s", stage.get("note", "")]
        for stage in report["run"].get("stages", [])
    ]
    return targets.markdown(["stage", "outcome", "time", ""], rows)


def counts(suite: dict[str, Any]) -> str:
    """How many of a suite passed, failed, were skipped, and were not reached."""
    words = ("passed", "failed", "skipped", "not_reached")
    said = ", ".join(f"{suite[word]} {word.replace('_', ' ')}" for word in words)
    return f"{said} of {suite['collected']}"


def suites(report: Report) -> str:
    """What the tests, cases and benchmarks came to, and what failed or was running at the end."""
    lines = []
    for name, suite in report["run"].get("suites", {}).items():
        ended = "" if suite["finished"] else "; it did not run to its end"
        lines.append(f"- `{name}`: {counts(suite)}{ended}")
        slowest = list(suite.get("slowest", {}).items())[:MOST_SLOW]
        if slowest:
            told = ", ".join(f"`{_short(test)}` {seconds:.1f} s" for test, seconds in slowest)
            lines.append(f"    - slowest: {told}")
        named = [f"failed: {line}" for line in _alike(suite["failing"])]
        named += [
            f"running when its process died, hung or was stopped: `{_short(test)}`"
            for test in suite["running"]
        ]
        if len(named) > MOST_NAMED:
            named[MOST_NAMED:] = [f"and {len(named) - MOST_NAMED} more"]
        lines += [f"    - {line}" for line in named]
    return "\n".join(lines) + "\n" if lines else "None ran.\n"


def _alike(failing: dict[str, str]) -> Iterator[str]:
    """A line for those of one function that failed for one reason: the first of them, and how many more there are."""
    groups: dict[tuple[str, str], list[str]] = {}
    for test, why in failing.items():
        groups.setdefault((test.partition("[")[0], why), []).append(test)
    for (_function, why), tests in groups.items():
        more = f" and {len(tests) - 1} more of it" if len(tests) > 1 else ""
        yield f"`{_short(tests[0])}`{more}{f': {why}' if why else ''}"


def _short(test: str) -> str:
    folder, separator, name = test.partition("::")
    return f"{folder.rpartition('/')[2]}::{name}" if separator else test


def benchmarks(report: Report) -> str:
    """Every benchmark, with its peers; but what has tables of its own: the candidates of a linear head, and training."""
    rows = []
    predicted = predictions.of(report)
    for entry in report["benchmarks"]:
        if entry["name"].startswith((candidate_table.BENCHMARK, targets.SELECTING)):
            continue
        extra, seconds = entry["extra_info"], median(entry)
        count = extra.get("launches")
        ours = [
            entry["name"].removeprefix("bench_"),
            units.time(seconds),
            "" if extra.get("limit") == "host" else units.rate(extra, seconds),
            targets.share(entry),
            predictions.words(entry["name"], predicted),
            predictions.verdict(entry, predicted),
            "" if count is None else str(count),
        ]
        peers = extra.get("peers", {})
        for peer, result in peers.items():
            rows.append([*ours, peer, units.time(result["median_s"]), f"{result['speedup']:.2f}"])
            ours = [""] * len(ours)
        if not peers:
            rows.append([*ours, "", "", ""])
    headings = [
        "benchmark",
        "ours",
        "rate",
        "of the ceiling",
        "predicted",
        "against predicted",
        "launches",
        "peer",
        "its time",
        "speed-up",
    ]
    return targets.markdown(headings, rows)


def troubles(report: Report) -> Iterator[str]:
    """Benchmarks that were skipped, peers that could not be measured, and timings not taken from a graph, by what was the matter."""
    skipped = report["run"].get("suites", {}).get("benchmarks", {}).get("skipping", {})
    for name, why in skipped.items():
        yield f"`{name.rpartition('::')[2]}`: {why}"
    found: dict[tuple[str, str], list[str]] = {}
    for entry in report["benchmarks"]:
        name, extra = entry["name"].removeprefix("bench_"), entry["extra_info"]
        for peer, why in extra.get("failed_peers", {}).items():
            found.setdefault((peer, why), []).append(name)
        graphs = {"ours": extra.get("how", "graph")}
        graphs |= {
            peer: result.get("how", "graph") for peer, result in extra.get("peers", {}).items()
        }
        for whose, how in graphs.items():
            if how not in ("graph", "host clock"):
                found.setdefault((whose, f"timed by {how}"), []).append(name)
    for (whose, why), names in found.items():
        yield f"{whose}: {why}: {', '.join(f'`{name}`' for name in names)}"


def page(report: Report) -> str:
    """The whole report."""
    peers = report["run"].get("peers", {})
    plan = report["run"].get("plan")
    told = candidate_table.section(report)
    trained = training_table.section(report)
    candidates = [f"## Candidates of a linear head\n\n{told}"] if told else []
    parts = [
        f"{machine(report)}.{f' Plan: {plan}.' if plan else ''}",
        ceilings(report),
        "Medians of device time; speed-up is the median of the rounds' ratios peer / ours, above 1 where ours is faster.",
        f"## Stages\n\n{stages(report)}",
        f"## Tests, cases, benchmarks\n\n{suites(report)}",
        f"## Targets\n\n{targets.table(report)}",
        f"Predictions: {report['run'].get('predictions', {}).get('made', 'none')}.",
        *candidates,
        *([f"## Training\n\n{trained}"] if trained else []),
        f"## Benchmarks\n\n{benchmarks(report)}",
        "Peers: " + ", ".join(f"{name} {version}" for name, version in peers.items()) + ".",
    ]
    found = list(troubles(report))
    if found:
        parts.append(
            "## Not measured, or not as meant\n\n" + "\n".join(f"- {line}" for line in found)
        )
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
