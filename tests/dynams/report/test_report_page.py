from __future__ import annotations

import base64
import dataclasses
import io
import math
import re

import numpy as np
import pytest
import torch

from dynams.report import Run, SamplePictures, figures, render_report, write_report
from dynams.report.selecting import Selecting, training_set_size
from html_pages import Page, check

matplotlib = pytest.importorskip("matplotlib")
image = pytest.importorskip("PIL.Image")

SPACE = "\N{NO-BREAK SPACE}"
NONE = "\N{EN DASH}"


def pictures(classes: tuple[str, ...] = ("cat", "dog"), shape=(1, 8, 8)) -> SamplePictures:
    random = np.random.default_rng(0)

    def images(n: int) -> torch.Tensor:
        return torch.from_numpy(random.integers(0, 256, (n, *shape), dtype=np.uint8))

    return SamplePictures(
        closest=images(3),
        closest_margins=torch.tensor([0.001, 0.25, 0.5]),
        closest_labels=torch.tensor([0, 1, 1]),
        farthest=images(2),
        farthest_margins=torch.tensor([31.0, 29.5]),
        farthest_labels=torch.tensor([1, 0]),
        classes=classes,
    )


def test_the_report_tells_accuracy_samples_time_and_settings(tmp_path, make_run, save_log):
    run_dir = tmp_path / "my run"
    save_log(run_dir, make_run())
    path = write_report(run_dir, samples=pictures())
    assert path == run_dir / "report.html"
    text = check(path.read_text("utf-8")).text.replace(SPACE, " ")
    for expected in (
        "my run",
        "finished, 6 epochs",
        "Test accuracy, full width 91.31 %",
        "Test accuracy, width 0.5 88.52 %",
        "Samples trained on 3,600 60.0 % of the 6,000 of full data; in 60 steps",
        "training 48.00 78.4 %",
        "Wall time 61.25 100.0 %",
        "backends.cpu native",
        "base_channels null",
        "nesterov true",
        "torch 2.13.0",
    ):
        assert expected in text, expected


def changed(run: Run, **changes: object) -> Run:
    return dataclasses.replace(run, **changes)


def random_draws(run: Run) -> Run:
    bare = {
        "quantiles": [],
        "histogram_edges": [],
        "histogram_counts": [],
        "threshold": math.nan,
    }
    return changed(run, refreshes=[dataclasses.replace(r, **bare) for r in run.refreshes])


def nothing_finite(run: Run) -> Run:
    return changed(
        run,
        epochs=[
            dataclasses.replace(r, loss=math.nan, proxy_loss=math.inf, accuracy=math.nan)
            for r in run.epochs
        ],
        refreshes=[
            dataclasses.replace(r, quantiles=[math.nan] * 21, threshold=math.inf, overlap=None)
            for r in run.refreshes
        ],
    )


ODD_RUNS = {
    "as it should be": lambda make: make(),
    "empty": lambda make: Run(),
    "not one epoch": lambda make: changed(make(), epochs=[], refreshes=[], summary=None),
    "one epoch": lambda make: make(epochs=1),
    "two epochs": lambda make: make(epochs=2, every=1),
    "full data": lambda make: changed(make(), refreshes=[]),
    "random subsets": lambda make: random_draws(make()),
    "killed": lambda make: changed(make(), summary=None),
    "interrupted": lambda make: changed(
        make(), summary=dataclasses.replace(make().summary, completed=False)
    ),
    "diverged": lambda make: nothing_finite(make()),
    "no proxy": lambda make: changed(
        make(),
        epochs=[
            dataclasses.replace(r, proxy_loss=None, proxy_accuracy=None) for r in make().epochs
        ],
        summary=dataclasses.replace(make().summary, proxy_accuracy=None, proxy_width=None),
    ),
    "never evaluated": lambda make: changed(
        make(),
        epochs=[dataclasses.replace(r, accuracy=None, proxy_accuracy=None) for r in make().epochs],
    ),
    "huge losses": lambda make: changed(
        make(), epochs=[dataclasses.replace(r, loss=10.0 ** (10 * r.epoch)) for r in make().epochs]
    ),
    "many epochs": lambda make: make(epochs=90, every=1),
    "a thousand classes": lambda make: make(classes=1000),
    "no seconds": lambda make: changed(
        make(),
        epochs=[dataclasses.replace(r, seconds={}) for r in make().epochs],
        summary=dataclasses.replace(make().summary, seconds={}, total_seconds=0.0),
    ),
    "constant margins": lambda make: changed(
        make(),
        refreshes=[
            dataclasses.replace(
                r,
                quantiles=[0.0] * 21,
                threshold=0.0,
                histogram_edges=[0.0, 0.0],
                histogram_counts=[1000],
            )
            for r in make().refreshes
        ],
    ),
    "negative margins": lambda make: changed(
        make(),
        refreshes=[
            dataclasses.replace(
                r,
                quantiles=[q - 20.0 for q in r.quantiles],
                threshold=r.threshold - 20.0,
                histogram_edges=[e - 20.0 for e in r.histogram_edges],
            )
            for r in make().refreshes
        ],
    ),
    "no classes": lambda make: changed(
        make(), refreshes=[dataclasses.replace(r, class_counts=[]) for r in make().refreshes]
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ODD_RUNS)
def test_any_run_gives_a_whole_page(tmp_path, make_run, save_log, name):
    save_log(tmp_path, ODD_RUNS[name](make_run))
    check(write_report(tmp_path).read_text("utf-8"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("killed", "no end recorded, 6 epochs"),
        ("killed", "Sum of the finished epochs: the run did not record its end."),
        ("interrupted", "interrupted after 6 epochs"),
        ("full data", "No selection was made in the epochs that were trained."),
        ("not one epoch", "No epoch was finished."),
        ("diverged", "No finite loss in epochs 1 to 6."),
        ("never evaluated", "never evaluated"),
    ],
)
def test_what_a_run_lacks_is_said_in_words(make_run, name, words):
    assert words in check(render_report(ODD_RUNS[name](make_run), "run")).text


def test_a_purpose_has_one_colour_in_table_and_figure(make_run):
    """Also one that nobody knows, after others that took no time."""
    run = make_run(epochs=1)
    seconds = {"zeal": 2.0, "scoring": 0.0, "ardour": 1.0, "training": 3.0}
    epochs = [dataclasses.replace(run.epochs[0], seconds=seconds)]
    summary = dataclasses.replace(run.summary, seconds=seconds, total_seconds=6.5)
    source = render_report(changed(run, epochs=epochs, summary=summary), "run")
    section = source.partition('<section id="cost">')[2].partition("</section>")[0]
    listed = re.findall(r'class="dot" style="--tone: var\(--(\w+)\)">(\w+)', section)
    assert [name for _, name in listed] == ["training", "ardour", "zeal", "other"]
    drawn = re.findall(r"fill: var\(--(\w+)\)", section.partition("<svg")[2])
    colours = {name: colour for colour, name in listed}
    assert {colours[name] for name in ("training", "ardour", "zeal")} <= set(drawn)
    assert len(set(colours.values())) == 4


def test_a_run_that_failed_says_why(make_run):
    run = make_run(epochs=1)
    run.config["optim"]["epochs"] = 10
    summary = dataclasses.replace(run.summary, completed=False, accuracy=math.nan)
    object.__setattr__(summary, "failure", "the loss diverged in epoch 5: try <less>")
    text = check(render_report(changed(run, summary=summary), "run")).text
    assert "failed after 1 of 10 epochs: the loss diverged in epoch 5: try <less>" in text


def test_nothing_is_claimed_of_a_run_that_finished_no_epoch(make_run):
    run = changed(make_run(), epochs=[], refreshes=[], summary=None)
    text = check(render_report(run, "run")).text
    assert "no end recorded, 0 of 6 epochs" in text
    assert f"Samples trained on {NONE} not recorded" in text
    assert f"Wall time {NONE}" in text


def test_samples_of_an_epoch_that_was_cut_are_no_share_of_the_finished_ones(make_run):
    run = make_run(epochs=1)
    summary = dataclasses.replace(run.summary, completed=False, samples=1100, steps=18)
    text = check(render_report(changed(run, summary=summary), "run")).text.replace(SPACE, " ")
    assert "1,100 finished epochs: 60.0 % of the 1,000 of full data; in 18 steps" in text


def test_a_resumed_run_that_went_on_longer_is_not_part_of_its_first_plan(make_run):
    run = make_run(epochs=4)
    run.config["optim"]["epochs"] = 3
    summary = dataclasses.replace(run.summary, completed=False)
    assert (
        "interrupted after 4 epochs"
        in check(render_report(changed(run, summary=summary), "r")).text
    )


def test_what_was_given_is_named_in_place_of_the_configuration(make_run):
    run = make_run(epochs=1)
    run.config["data"] = {"name": "digits", "path": None}
    run.environment["model"] = "given, Net, 1,234 parameters"
    run.environment["data"] = "given"
    page = check(render_report(run, "run"))
    assert "own network: Net, 1,234 parameters on own data strategy margin" in page.text
    assert "The network was given: model.* was not used." in page.text
    assert "The data were given: data.name and data.path were not used." in page.text


@pytest.mark.parametrize(
    ("selection", "shown"),
    [
        ({"strategy": "margin", "budget": 0.6}, "strategy margin budget 0.6"),
        (
            {"strategy": "margin", "budget": 0.3, "start": 1.0, "schedule": "cosine"},
            "strategy margin budget 1.0 to 0.3, cosine",
        ),
        ({"strategy": "infobatch", "budget": 0.6}, "strategy infobatch Time"),
        ({"strategy": "full", "budget": 0.6}, "strategy full Time"),
    ],
)
def test_the_budget_is_named_where_it_had_an_effect(make_run, selection, shown):
    run = make_run(epochs=1)
    run.config["selection"] = selection
    text = check(render_report(run, "run")).text
    assert shown in text
    assert ("Budget" in text) == ("budget" in shown)


def test_columns_and_names_of_a_proxy_are_there_with_a_proxy_only(make_run):
    text = check(render_report(ODD_RUNS["no proxy"](lambda: make_run(epochs=1)), "run")).text
    assert "Test accuracy 91.31" in text.replace(SPACE, " ")
    for words in ("Proxy", "the proxy on its own", "full width"):
        assert words not in text.partition("Configuration")[0]
    assert "Proxy loss" in check(render_report(make_run(epochs=1), "run")).text


def test_paths_and_names_of_undecoded_bytes_are_written(tmp_path, make_run, save_log):
    run_dir = tmp_path / "caf\udce9"
    run = make_run(epochs=1)
    run.config["data"] = {"path": "/data/\udcff<b>", "name": "folder"}
    run = changed(run, summary=dataclasses.replace(run.summary, run_dir=str(run_dir)))
    save_log(run_dir, run)
    page = check(write_report(run_dir, classes=["<i>\udce9", "b" * 300]).read_text("utf-8"))
    gone = "\N{REPLACEMENT CHARACTER}"
    for words in (f"caf{gone}", f"/data/{gone}<b>", f"<i>{gone}", "b" * 300):
        assert words in page.text


def test_an_interrupted_run_says_how_far_it_was_to_go(make_run):
    run = make_run(epochs=10)
    run = changed(run, epochs=run.epochs[:4], refreshes=run.refreshes[:2], summary=None)
    assert "no end recorded, 4 of 10 epochs" in check(render_report(run, "run")).text


def test_gaps_in_the_loss_are_named(make_run):
    run = make_run(epochs=8)
    epochs = [
        dataclasses.replace(r, loss=math.nan) if r.epoch in (1, 4, 5, 6) else r for r in run.epochs
    ]
    page = check(render_report(changed(run, epochs=epochs), "run"))
    assert "No finite loss in epochs 2, 5 to 7." in page.text


def test_the_same_log_gives_the_same_bytes(tmp_path, make_run, save_log):
    save_log(tmp_path, make_run())
    first = write_report(tmp_path, samples=pictures()).read_bytes()
    assert write_report(tmp_path, samples=pictures()).read_bytes() == first


def test_a_user_s_matplotlib_settings_neither_show_nor_change(make_run):
    expected = render_report(make_run(), "run")
    odd = {"axes.facecolor": "#ff0000", "font.size": 30, "axes.grid": True, "lines.linewidth": 9}
    with matplotlib.rc_context(odd):
        before = dict(matplotlib.rcParams)
        assert render_report(make_run(), "run") == expected
        assert dict(matplotlib.rcParams) == before


def test_text_from_outside_cannot_become_markup(make_run):
    nasty = '<script>alert("1")</script>&amp;\'\x00\ud800'
    run = make_run()
    run = changed(
        run,
        config={nasty: {nasty: nasty, "deep": {"list": [nasty, None]}}, "model": {"name": nasty}},
        environment={nasty: nasty},
        epochs=[dataclasses.replace(r, seconds={nasty: 1.0}) for r in run.epochs],
        summary=dataclasses.replace(run.summary, seconds={nasty: 5.0}, run_dir=nasty),
    )
    source = render_report(run, nasty, samples=pictures((nasty, nasty)))
    page = check(source)
    assert page.text.count('<script>alert("1")</script>&amp;\'') >= 8
    source.encode("utf-8")
    assert "\x00" not in source


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 5, 9)])
def test_pictures_keep_every_pixel_their_class_and_their_margin(make_run, shape):
    samples = pictures(shape=shape)
    page = check(render_report(make_run(), "run", samples=samples))
    found = page.all("img")
    sent = [*samples.closest, *samples.farthest]
    assert len(found) == len(sent)
    for attributes, pixels in zip(found, sent, strict=True):
        encoded = attributes["src"].removeprefix("data:image/png;base64,")
        array = np.asarray(image.open(io.BytesIO(base64.b64decode(encoded))))
        expected = pixels.numpy() if shape[0] == 3 else pixels.numpy()[:1]
        np.testing.assert_array_equal(array.reshape(*shape[1:], -1), expected.transpose(1, 2, 0))
        assert "class" not in attributes  # hard pixels
    assert [attributes["alt"] for attributes in found] == [
        "cat, margin 0.001",
        "dog, margin 0.250",
        "dog, margin 0.500",
        "dog, margin 31.000",
        "cat, margin 29.500",
    ]


def test_large_pictures_are_reduced_in_proportion(make_run):
    page = check(render_report(make_run(), "run", samples=pictures(shape=(3, 300, 600))))
    encoded = page.all("img")[0]["src"].partition(",")[2]
    assert image.open(io.BytesIO(base64.b64decode(encoded))).size == (160, 80)


def test_pictures_of_the_wrong_type_are_refused(make_run):
    samples = dataclasses.replace(pictures(), closest=torch.zeros(3, 1, 8, 8))
    with pytest.raises(ValueError, match=r"images: got float32 \(3, 1, 8, 8\), want uint8"):
        render_report(make_run(), "run", samples=samples)


def class_rows(page: Page) -> list[str]:
    return [a["title"] for a in page.all("th") if "title" in a]


def test_of_many_classes_the_extremes_are_shown(make_run):
    run = make_run(epochs=1, classes=1000)
    counts = list(range(1000))
    run = changed(run, refreshes=[dataclasses.replace(run.refreshes[0], class_counts=counts)])
    page = check(render_report(run, "run"))
    assert class_rows(page) == [
        *(f"class {c}" for c in range(999, 989, -1)),
        *(f"class {c}" for c in range(9, -1, -1)),
    ]
    assert "980 classes between" in page.text


def test_class_shares_are_compared_with_the_data_where_its_classes_are_known(make_run):
    run = make_run(epochs=1, classes=3)
    run = changed(run, refreshes=[dataclasses.replace(run.refreshes[0], class_counts=[50, 30, 20])])
    names = ("a", "b", "c")
    even = check(render_report(run, "run", classes=names))
    assert class_rows(even) == ["a", "b", "c"]
    known = check(render_report(run, "run", classes=names, class_totals=[800, 100, 100]))
    assert class_rows(known) == ["b", "c", "a"]
    assert "b 10.0 % 30.0 %" in known.text.replace(SPACE, " ")


def moves(drawing: str, colour: str) -> list[str]:
    """The paths drawn in a colour of the page, fills apart."""
    return re.findall(rf'd="([^"]*)"[^>]*stroke: var\(--{colour}\); stroke-width', drawing)


def test_a_line_passes_over_what_was_not_measured_and_breaks_where_it_is_not_finite():
    def drawn(values: list[float | None]) -> str:
        source = figures.lines("x", range(30), [("full", values)], description="a line")
        (path,) = moves(source, "full")
        return path

    sparse = drawn([float(e) if e % 5 == 0 else None for e in range(30)])
    assert (sparse.count("M"), sparse.count("L")) == (1, 5)
    broken = drawn([math.nan if e in (10, 11, 20) else float(e) for e in range(30)])
    assert (broken.count("M"), broken.count("L")) == (3, 24)


def test_figures_of_a_run_without_refreshes_are_the_four_curves_and_the_cost(make_run):
    page = check(render_report(changed(make_run(), refreshes=[]), "run"))
    assert len(page.all("svg")) == 5


@pytest.mark.parametrize("size", [37, 1437, 50_000, 1_281_167])
@pytest.mark.parametrize("budget", [0.1, 0.37, 0.6, 1.0])
@pytest.mark.parametrize("scored", [True, False])
def test_the_training_set_s_size_is_worked_out_from_the_budget(make_run, size, budget, scored):
    run = make_run(epochs=2)
    epochs = [
        dataclasses.replace(r, budget=budget, samples=round(budget * size)) for r in run.epochs
    ]
    refreshes = [dataclasses.replace(run.refreshes[0], histogram_counts=[size - 3, 3])]
    run = changed(run, epochs=epochs, refreshes=refreshes if scored else [])
    found = training_set_size(run, Selecting())
    assert abs(found - size) <= (0 if budget == 1.0 else 0.5 / budget + 0.5)
    if scored and budget >= 0.37:
        assert found == size


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, make_run, save_log):
    save_log(tmp_path, make_run())
    path = write_report(tmp_path)
    before = path.read_bytes()
    bad = dataclasses.replace(pictures(), closest=torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="images: got"):
        write_report(tmp_path, samples=bad)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "report.html"]


def test_a_directory_without_a_log_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no log\.jsonl"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
