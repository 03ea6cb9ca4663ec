"""The report of a run: one HTML file with everything in it.

Pictures are data URIs, figures inline SVG, the style sheet is in the page. The same log gives the same
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynams.files import replace_file
from dynams.report import sections, selection_sections
from dynams.report.document import document
from dynams.report.facts import failure_of, is_given, setting
from dynams.report.records import Run, SamplePictures
from dynams.report.runlog import read_run
from dynams.report.selecting import Selecting, selecting, training_set_size

REPORT_NAME = "report.html"

_LINKS = {
    "cost": "Time",
    "curves": "Training",
    "subsets": "Selection",
    "margins": "Margins",
    "samples": "Samples",
    "settings": "Settings",
}


def write_report(
    run_dir: str | Path,
    *,
    samples: SamplePictures | None = None,
    classes: Sequence[str] | None = None,
    class_totals: Sequence[int] | None = None,
) -> Path:
    """Write ``run_dir/report.html`` from the run's log.

    Works on a run that is still going on, was interrupted or never ended: what is missing is left
    out. An existing report is replaced atomically.

    Args:
        run_dir: directory of the run, holding its log.
        samples: pictures of the samples at the two ends of the margins, if there are any.
        classes: names of the classes; by default those of ``samples``, otherwise numbers.
        class_totals: training samples of each class, against which the selection's class shares
            are compared; without it they are compared with an even share.

    Returns:
        The report's path.

    Raises:
        FileNotFoundError: the directory holds no log.
        ImportError: matplotlib or Pillow is missing.
        ValueError: the log is damaged, or ``samples`` holds no pictures.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    name = run_dir.resolve().name or str(run_dir)
    page = render_report(run, name, samples=samples, classes=classes, class_totals=class_totals)
    path = run_dir / REPORT_NAME
    replace_file(path, page.encode("utf-8"))
    return path


def render_report(
    run: Run,
    name: str,
    *,
    samples: SamplePictures | None = None,
    classes: Sequence[str] | None = None,
    class_totals: Sequence[int] | None = None,
) -> str:
    """The report's HTML for ``run``, headed ``name``; arguments as in `write_report`."""
    if classes is None:
        classes = samples.classes if samples is not None else ()
    how = selecting(run.config)
    size = training_set_size(run, how, class_totals)
    body = {
        "cost": sections.cost(run, how),
        "curves": sections.curves(run, how, size),
        "subsets": selection_sections.subsets(run, how, size, classes, class_totals),
        "margins": selection_sections.margins(run, how),
        "samples": selection_sections.samples(samples),
        "settings": sections.settings(run),
    }
    return document(
        "DynaMS run",
        name,
        state=_state(run),
        what=_what(run, how),
        headline_html=sections.headline(run, size),
        sections_html=body,
        links=_LINKS,
        foot="Written by dynams from the run\N{RIGHT SINGLE QUOTATION MARK}s log. Epochs count from 1; "
        "accuracies are on the test set.",
    )


def _state(run: Run) -> tuple[str, bool]:
    """How far the run came, and whether it is all of it."""
    done = run.summary.epochs if run.summary else len(run.epochs)
    planned = setting(run.config, "optim.epochs")
    of = f" of {planned}" if isinstance(planned, int) and planned > done else ""
    unit = "epoch" if f"{done}{of}" == "1" else "epochs"
    if run.summary is not None and run.summary.completed:
        return f"finished, {done} {unit}", True
    if failure := failure_of(run):
        return f"failed after {done}{of} {unit}: {failure}", False
    word = "interrupted after" if run.summary is not None else "no end recorded,"
    return f"{word} {done}{of} {unit}", False


def _what(run: Run, how: Selecting) -> list[str]:
    """Network, data and strategy in a few words, as far as the configuration names them."""
    model, data = setting(run.config, "model.name"), setting(run.config, "data.name")
    if is_given(run, "model"):  # the configuration's is not what was used
        told = str(run.environment["model"]).partition(",")[2].strip()
        model = f"own network{': ' if told else ''}{told}"
    if is_given(run, "data"):
        data = "own data"
    parts = {
        "{}": model,
        "on {}": data,
        "strategy {}": setting(run.config, "selection.strategy"),
        "budget {}": _budget(run) if how.budgeted else None,
        "seed {}": setting(run.config, "run.seed"),
    }
    return [
        shown.format(value)
        for shown, value in parts.items()
        if isinstance(value, (str, int, float))
    ]


def _budget(run: Run) -> object:
    """The budget, and where a schedule comes from on its way there."""
    schedule = setting(run.config, "selection.schedule")
    budget = setting(run.config, "selection.budget")
    if schedule in (None, "constant"):
        return budget
    return f"{setting(run.config, 'selection.start')} to {budget}, {schedule}"
