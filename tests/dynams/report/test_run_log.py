from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynams.files import StorageError, storing
from dynams.report import EpochRecord, RefreshRecord, Run, RunLog, Summary, read_run
from file_limits import files_of_at_most


def strict(line: str) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in a strict JSON line")

    return json.loads(line, parse_constant=refuse)


def test_what_is_written_is_read_back(tmp_path, make_run, save_log):
    run = make_run()
    save_log(tmp_path, run)
    assert read_run(tmp_path) == run


finite = st.floats(allow_nan=False, allow_infinity=False)
any_float = st.floats()
counts = st.integers(0, 2**63)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    epoch=st.builds(
        EpochRecord,
        epoch=counts,
        loss=any_float,
        proxy_loss=st.none() | any_float,
        lr=any_float,
        budget=finite,
        samples=counts,
        steps=counts,
        accuracy=st.none() | finite,
        proxy_accuracy=st.none() | finite,
        seconds=st.dictionaries(st.text(), finite),
    ),
    refresh=st.builds(
        RefreshRecord,
        epoch=counts,
        selected=counts,
        threshold=any_float,
        overlap=st.none() | finite,
        quantiles=st.lists(any_float),
        histogram_edges=st.lists(finite),
        histogram_counts=st.lists(counts),
        class_counts=st.lists(counts),
    ),
    name=st.text(),
)
def test_any_record_survives_with_its_finite_numbers_exact(tmp_path_factory, epoch, refresh, name):
    def as_read(value):
        if isinstance(value, float):
            return value if math.isfinite(value) else "not finite"
        if isinstance(value, list):
            return [as_read(item) for item in value]
        return "not finite" if value is None else value

    run_dir = tmp_path_factory.mktemp("run")
    with RunLog(run_dir, tensorboard=False) as log:
        log.start({name: name}, {})
        log.epoch(epoch)
        log.refresh(refresh)
    for line in (run_dir / "log.jsonl").read_text().splitlines():
        strict(line)
    run = read_run(run_dir)
    assert run.config == {name: name}
    for wrote, read in ((epoch, run.epochs[0]), (refresh, run.refreshes[0])):
        for field in dataclasses.fields(wrote):
            before, after = getattr(wrote, field.name), getattr(read, field.name)
            assert as_read(before) == as_read(after), field.name


def test_numbers_that_are_not_finite_are_null_in_the_file_and_nan_when_read(
    tmp_path, epoch_record, nan
):
    with RunLog(tmp_path, tensorboard=False) as log:
        log.start({}, {})
        log.epoch(epoch_record(0, loss=nan, proxy_loss=math.inf, accuracy=None))
    line = strict((tmp_path / "log.jsonl").read_text().splitlines()[1])
    assert (line["loss"], line["proxy_loss"], line["accuracy"]) == (None, None, None)
    (read,) = read_run(tmp_path).epochs
    assert math.isnan(read.loss)
    assert read.proxy_loss is None


def test_each_record_is_in_the_file_before_the_next_is_made(tmp_path, epoch_record):
    with RunLog(tmp_path, tensorboard=False) as log:
        log.start({}, {})
        for epoch in range(3):
            log.epoch(epoch_record(epoch))
            assert len(read_run(tmp_path).epochs) == epoch + 1


def test_settings_that_json_does_not_know_are_kept_as_text(tmp_path):
    config = {"path": Path("a/b"), "dtype": torch.float16, "size": torch.tensor([3, 4]), 7: (1, 2)}
    with RunLog(tmp_path, tensorboard=False) as log:
        log.start(config, {"kinds": {"b", "a"}})
    run = read_run(tmp_path)
    assert run.config == {"path": "a/b", "dtype": "torch.float16", "size": [3, 4], "7": [1, 2]}
    assert run.environment == {"kinds": ["a", "b"]}


def test_a_log_cut_at_any_byte_gives_all_records_before_the_cut(tmp_path, make_run, save_log):
    save_log(tmp_path, make_run(epochs=2))
    path = tmp_path / "log.jsonl"
    content = path.read_bytes()
    kinds = [strict(line)["record"] for line in content.decode().splitlines()]
    ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        whole = kinds[: sum(end <= cut for end in ends)]  # a line lacking only its newline is whole
        run = read_run(tmp_path)
        assert len(run.epochs) == whole.count("epoch")
        assert len(run.refreshes) == whole.count("refresh")
        assert (run.summary is not None) == ("end" in whole)


def test_a_torn_line_in_the_middle_is_refused_by_file_and_line(tmp_path, make_run, save_log):
    save_log(tmp_path, make_run())
    path = tmp_path / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3][: len(lines[3]) // 2] + "\n"
    path.write_text("".join(lines))
    with pytest.raises(ValueError, match=r"log\.jsonl, line 4: not a line of JSON"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"record": "epoch", "epoch": 1}', "loss: is missing"),
        ('{"record": "lunch"}', "record: got 'lunch', want one of start, epoch, refresh, end"),
        ('{"record": "start", "format": 99}', "format: got 99, want 1"),
        (
            '{"record": "start", "format": 1, "config": 3, "environment": {}}',
            "config: got 3, want keys",
        ),
        ("[1, 2]", "got list, want a JSON object"),
        ('{"record": "end", "loss": NaN}', "NaN is not strict JSON"),
    ],
)
def test_a_line_of_another_kind_is_refused_by_what_is_wrong_with_it(tmp_path, line, complaint):
    (tmp_path / "log.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"line 1: ") as caught:
        read_run(tmp_path)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epoch", "one"), ("epoch", True), ("epoch", 1.5), ("loss", "low"), ("seconds", [1.0])],
)
def test_a_field_of_the_wrong_type_is_refused_by_its_name(tmp_path, epoch_record, field, value):
    data = {"record": "epoch", **dataclasses.asdict(epoch_record(0)), field: value}
    (tmp_path / "log.jsonl").write_text(json.dumps(data) + "\n")
    with pytest.raises(ValueError, match=f"line 1: {field}: got"):
        read_run(tmp_path)


def test_fields_of_a_later_version_are_ignored(tmp_path, epoch_record):
    data = {"record": "epoch", **dataclasses.asdict(epoch_record(0)), "mood": "good"}
    (tmp_path / "log.jsonl").write_text(json.dumps(data) + "\n")
    assert read_run(tmp_path).epochs == [epoch_record(0)]


def test_a_missing_log_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no log\.jsonl in"):
        read_run(tmp_path / "nowhere")


def test_a_new_log_never_overwrites_a_run(tmp_path, make_run, save_log):
    run = make_run()
    save_log(tmp_path, run)
    with pytest.raises(FileExistsError, match="already holds the log of a run"):
        RunLog(tmp_path, tensorboard=False)
    assert read_run(tmp_path) == run


@pytest.mark.parametrize("keep_refresh", [False, True])
@pytest.mark.parametrize("epoch", range(8))
def test_a_resumed_log_goes_on_as_if_never_interrupted(
    tmp_path, make_run, save_log, epoch, keep_refresh
):
    run = make_run()
    save_log(tmp_path, run)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"record": "epo')
    with RunLog.resume(tmp_path, epoch, keep_refresh=keep_refresh, tensorboard=False) as log:
        last_kept = epoch if keep_refresh else epoch - 1
        kept = Run(
            config=run.config,
            environment=run.environment,
            epochs=[record for record in run.epochs if record.epoch < epoch],
            refreshes=[record for record in run.refreshes if record.epoch <= last_kept],
            summary=None,
        )
        assert read_run(tmp_path) == kept
        for record in run.refreshes:
            if record.epoch > last_kept:
                log.refresh(record)
        for record in run.epochs[epoch:]:
            log.epoch(record)
        log.end(run.summary)
    assert read_run(tmp_path) == run


def test_resuming_without_a_log_begins_one(tmp_path, epoch_record):
    with RunLog.resume(tmp_path / "new", 3, tensorboard=False) as log:
        log.epoch(epoch_record(3))
    assert read_run(tmp_path / "new").epochs == [epoch_record(3)]


def test_a_damaged_log_is_not_touched_by_resuming(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"record": "epo\n{"record": "end"}\n')
    before = path.read_bytes()
    with pytest.raises(ValueError, match="line 1"):
        RunLog.resume(tmp_path, 0, tensorboard=False)
    assert path.read_bytes() == before


def test_a_failed_rewrite_leaves_the_old_log_and_nothing_else(
    tmp_path, make_run, save_log, monkeypatch
):
    run = make_run()
    save_log(tmp_path, run)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        RunLog.resume(tmp_path, 1, tensorboard=False)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert read_run(tmp_path) == run


def test_a_line_that_does_not_fit_leaves_nothing_and_can_be_written_again(tmp_path, epoch_record):
    path = tmp_path / "log.jsonl"
    with RunLog(tmp_path, tensorboard=False) as log:
        log.epoch(epoch_record(0))
        before = path.read_bytes()
        with files_of_at_most(len(before) + 20), pytest.raises(StorageError) as told:
            log.epoch(epoch_record(1))
        assert str(told.value).startswith(f"{path}: cannot be written: File too large; ")
        assert path.read_bytes() == before
        log.epoch(epoch_record(1))
    assert read_run(tmp_path).epochs == [epoch_record(0), epoch_record(1)]


def test_a_summary_of_before_it_told_failures_is_read(tmp_path, summary_record):
    values = {"record": "end", **dataclasses.asdict(summary_record(3))}
    del values["failure"]
    (tmp_path / "log.jsonl").write_text(json.dumps(values) + "\n")
    assert read_run(tmp_path).summary == summary_record(3)
    values["failure"] = 3
    (tmp_path / "log.jsonl").write_text(json.dumps(values) + "\n")
    with pytest.raises(ValueError, match="failure"):
        read_run(tmp_path)


def test_a_log_that_lost_its_beginning_says_so_to_who_resumes_it(tmp_path, make_run, save_log):
    save_log(tmp_path, make_run())
    with RunLog.resume(tmp_path, 1, tensorboard=False) as log:
        assert log.started
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes()[:20])
    with RunLog.resume(tmp_path, 0, tensorboard=False) as log:
        assert not log.started


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "No space left on device; make space on that disk, then x"),
        (errno.EDQUOT, "Disk quota exceeded; make space in your quota, then x"),
        (errno.EROFS, "Read-only file system; write to another disk, or have this one mounted"),
        (errno.EACCES, "Permission denied; allow writing there, then x"),
        (errno.EIO, "Input/output error; the disk fails: write to another one, then x"),
        (errno.ENXIO, "No such device or address; then x"),
    ],
)
def test_errors_of_storage_say_what_why_and_what_to_do(code, said):
    with pytest.raises(StorageError) as told, storing("runs/log.jsonl"):
        raise OSError(code, os.strerror(code), "some.tmp")
    told.value.afterwards = "then x"
    assert str(told.value).startswith(f"runs/log.jsonl: cannot be written: {said}")
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)
    assert told.value.errno == code


def test_summary_fields_are_all_read(tmp_path, summary_record):
    summary = summary_record(3, proxy_accuracy=None, proxy_width=None, completed=False)
    with RunLog(tmp_path, tensorboard=False) as log:
        log.end(summary)
    read = read_run(tmp_path).summary
    assert isinstance(read, Summary)
    assert read == summary


def events(run_dir: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(run_dir / "tensorboard"), {"histograms": 0})
    return found.Reload()


def test_tensorboard_has_the_same_values_and_forgets_what_a_resume_drops(
    tmp_path, epoch_record, refresh_record
):
    pytest.importorskip("tensorboard")
    refresh = refresh_record(1)
    with RunLog(tmp_path) as log:
        log.start({"optim": {"lr": 0.1}}, {})
        log.epoch(epoch_record(0))
        log.refresh(refresh)
        log.epoch(epoch_record(1, loss=math.nan))
        log.epoch(epoch_record(2, loss=9.0))
    with RunLog.resume(tmp_path, 2) as log:
        log.epoch(epoch_record(2, loss=0.25))
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss/full")] == [(0, 2.0), (2, 0.25)]
    assert [e.step for e in found.Scalars("accuracy/proxy")] == [0, 1, 2]
    assert found.Scalars("seconds/proxy_loss")[0].value == 1.0
    (histogram,) = found.Histograms("margin")
    assert histogram.step == 1
    assert list(histogram.histogram_value.bucket) == refresh.histogram_counts
    assert histogram.histogram_value.bucket_limit == pytest.approx(refresh.histogram_edges[1:])


def test_a_missing_tensorboard_is_said_once_and_the_log_goes_on(
    tmp_path, epoch_record, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RunLog(tmp_path) as log:
            log.start({}, {})
            log.epoch(epoch_record(0))
            log.epoch(epoch_record(1))
    (warning,) = caught
    assert "tensorboard" in str(warning.message)
    assert "pip install" in str(warning.message)
    assert warning.filename == __file__
    assert len(read_run(tmp_path).epochs) == 2


@pytest.mark.parametrize("when", ["at first", "later"])
def test_events_that_cannot_be_written_are_said_once_and_the_log_goes_on(
    tmp_path, epoch_record, when
):
    pytest.importorskip("tensorboard")
    if when == "at first":
        (tmp_path / "tensorboard").write_text("in the way")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RunLog(tmp_path) as log:
            log.start({f"setting {number}": number for number in range(400)}, {})
            if when == "later":
                (file,) = (tmp_path / "tensorboard").iterdir()
                assert file.stat().st_size > log.path.stat().st_size + 1000
                with files_of_at_most(file.stat().st_size):
                    log.epoch(epoch_record(0))
            else:
                log.epoch(epoch_record(0))
            log.epoch(epoch_record(1))
    (warning,) = caught
    why = {"at first": "File exists", "later": "File too large"}[when]
    said = f"TensorBoard events are written no more, the log is: {tmp_path}/tensorboard: cannot be "
    assert str(warning.message).startswith(f"{said}written: {why}")
    assert len(read_run(tmp_path).epochs) == 2
