"""The page on clusters: every command of it is run as it stands, most of them with the nightly tests.

Two hosts are two network namespaces, with a file system in common; where none can be made these tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from PIL import Image

from dynams.data import load_data
from dynams.training.checkpoint import Checkpoint, load_checkpoint
from fake_slurm import FakeSlurm
from pages import ROOT, blocks_of
from two_hosts import ADDRESSES, NAMES, TwoHosts

PAGE = "docs/cluster.md"
nightly = pytest.mark.skipif(
    os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="whole runs, with the nightly tests"
)
# What `dynams` is to a batch script where only the start is looked at.
STAND_IN = """\
import os, sys
from pathlib import Path
from dynams.training.launched import launched
here = launched()
Path(f"rank{here.rank}").write_text(f"{here.size} {here.local_size} {here.address} {sys.argv[1:]}")
sys.exit(130 if here.rank == 0 and not os.environ.get("SLURM_RESTART_COUNT") else 0)
"""


def block(heading: str, place: int = 0) -> str:
    return blocks_of(PAGE, "bash", heading)[place].strip("\n") + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a reader would be: the configuration is there, and so are the examples."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "job.yaml").write_text(blocks_of(PAGE, "yaml")[0].strip("\n"))
    (work / "examples").symlink_to(ROOT / "examples")
    return work


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with ExitStack() as stack:
        try:
            both = stack.enter_context(TwoHosts())
        except OSError as error:
            pytest.skip(str(error))
        yield both


def environ() -> dict[str, str]:
    """As in a shell of the environment that the tests run in."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    packages = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PATH": programs, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1"}


def shell(text: str, folder: Path, **more: str) -> str:
    """Run a block; returns what it wrote."""
    done = subprocess.run(
        ["bash", "-e", "-c", text],
        cwd=folder,
        env=environ() | more,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def start(hosts: TwoHosts, host: int, text: str, folder: Path) -> subprocess.Popen[str]:
    """Start a block on one of the hosts; what it writes goes to a file there."""
    with (folder / f"{NAMES[host]}.txt").open("a") as told:
        return hosts.start(
            host, ["bash", "-c", text], cwd=folder, env=environ(), stdout=told, stderr=told
        )


def ended(
    processes: list[subprocess.Popen[str]], folder: Path, status: int | None = 0
) -> list[str]:
    """Wait until all have ended with a status, None: any; those that do not are told to. Returns what each has written."""
    try:
        statuses = [process.wait(300) for process in processes]
    finally:
        for process in processes:
            process.terminate()
            process.wait(60)
    told = [(folder / f"{name}.txt").read_text() for name in NAMES]
    assert status is None or all(each == status for each in statuses), told
    return told


def last(folder: Path) -> Checkpoint:
    return load_checkpoint(folder / "runs" / "first" / "checkpoints" / "last.pt")


def records(folder: Path, kind: str) -> list[dict[str, object]]:
    lines = map(json.loads, (folder / "runs" / "first" / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["record"] == kind]


def with_epochs(folder: Path, count: int) -> None:
    job = folder / "job.yaml"
    job.write_text(job.read_text().replace("epochs: 3", f"epochs: {count}"))


def wait_for(folder: Path, text: str) -> None:
    """Until the first host has written so."""
    end = time.monotonic() + 200
    while text not in (folder / "node1.txt").read_text():
        assert time.monotonic() < end, (folder / "node1.txt").read_text()
        time.sleep(0.05)


def same_weights(first: Checkpoint, second: Checkpoint) -> bool:
    return first.model.keys() == second.model.keys() and all(
        torch.equal(first.model[name], second.model[name]) for name in first.model
    )


def test_every_command_is_shell_and_has_a_test():
    """By the headings that the tests below ask for: whoever writes a block under another one writes a test too."""
    page = (ROOT / PAGE).read_text()
    tested = set(re.findall(r'block\(\s*"([^"]+)"', Path(__file__).read_text()))
    for section in page.split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        if "```bash" in section:
            assert heading in tested
    for text in blocks_of(PAGE, "bash"):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_one_command_on_two_hosts_makes_one_run(hosts, folder):
    # One process on each in place of two, in one epoch after that of all samples: a minute less.
    text = block("Torchrun", 1).replace("--nproc-per-node 2", "--nproc-per-node 1")
    with_epochs(folder, 2)
    ended([start(hosts, host, text, folder) for host in (0, 1)], folder)
    assert [path.name for path in (folder / "runs").iterdir()] == ["first"]
    assert last(folder).config["run"]["devices"] == 2
    assert len(records(folder, "refresh")) == 1
    assert (folder / "node1.txt").read_text().count("Run finished") == 1
    assert "Run finished" not in (folder / "node2.txt").read_text()


@pytest.fixture
def slurm(hosts: TwoHosts, tmp_path: Path) -> FakeSlurm:
    (tmp_path / "slurm").mkdir()
    return FakeSlurm(
        tmp_path / "slurm", {name: hosts.prefix(host) for host, name in enumerate(NAMES)}
    )


def batch(slurm: FakeSlurm, text: str, folder: Path, **more: str) -> subprocess.Popen[str]:
    (folder / "job.sh").write_text(text)
    return slurm.batch(folder / "job.sh", environ() | more, folder)


def test_a_batch_script_starts_its_tasks_and_is_queued_again_when_it_was_stopped(slurm, folder):
    text = block("Slurm")
    assert "\nsrun dynams train --config" in text
    (folder / "stand_in.py").write_text(STAND_IN)
    text = text.replace("srun dynams", f"srun {sys.executable} stand_in.py")
    job = batch(slurm, text, folder)
    assert job.communicate(timeout=60) == ("", "")
    assert job.returncode == 130
    assert slurm.calls == ["requeue 4711"]
    for rank in range(4):
        told = (
            "4 2 node1 ['train', '--config', 'job.yaml', '--run.devices', '4', '--resume', 'auto']"
        )
        assert (folder / f"rank{rank}").read_text() == told
    job = batch(slurm, text, folder, SLURM_RESTART_COUNT="1")
    assert job.communicate(timeout=60) == ("", "")
    assert job.returncode == 0
    assert slurm.calls == ["requeue 4711"]


def test_a_batch_script_with_torchrun_starts_one_on_each_node(slurm, folder):
    text = block("Slurm", 1)
    assert "\nsrun torchrun --nnodes" in text
    job = batch(slurm, text.replace("srun torchrun", "srun echo"), folder)
    told, _ = job.communicate(timeout=60)
    assert job.returncode == 0
    options = "--nnodes 2 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint node1:29500 --rdzv-id 4711"
    assert [line.startswith(options) for line in told.splitlines()] == [True, True]
    job = batch(slurm, text.replace("srun torchrun", "srun false"), folder)
    job.communicate(timeout=60)
    assert (job.returncode, slurm.calls) == (1, ["requeue 4711"])
    job = batch(
        slurm, text.replace("srun torchrun", "srun false"), folder, SLURM_RESTART_COUNT="10"
    )
    job.communicate(timeout=60)
    assert (job.returncode, slurm.calls) == (1, ["requeue 4711"])


@nightly
def test_the_same_command_begins_goes_on_and_finds_nothing_more_to_do(folder):
    shell(block("One command, however often"), folder)
    assert last(folder).epoch == 3
    assert "all 3 epochs are done" in shell(block("Torchrun"), folder)
    told = shell(block("Other numbers of processes"), folder)
    assert "run.devices: 2 -> 1" in told
    assert last(folder).epoch == 4


@nightly
def test_two_processes_on_each_of_two_hosts_are_four_on_one(hosts, folder):
    text = block("Torchrun", 1)
    ended([start(hosts, host, text, folder) for host in (0, 1)], folder)
    shutil.move(folder / "runs", folder / "two hosts")
    shell(block("Torchrun").replace("--nproc-per-node 2", "--nproc-per-node 4"), folder)
    path = folder / "two hosts" / "first" / "checkpoints" / "last.pt"
    assert same_weights(load_checkpoint(path), last(folder))


@nightly
def test_a_job_that_is_told_to_stop_goes_on_in_the_next_one(slurm, folder):
    """The signal is what Slurm sends before the time is up; the result is that of a run that was never stopped."""
    with_epochs(folder, 12)
    text = block("Slurm")
    job = batch(slurm, text, folder)
    log = folder / "runs" / "first" / "log.jsonl"
    while not (log.exists() and len(records(folder, "epoch")) >= 2):
        assert job.poll() is None
        time.sleep(0.05)
    slurm.signal(signal.SIGUSR1)
    job.communicate(timeout=300)
    assert job.returncode == 130
    assert slurm.calls == ["requeue 4711"]
    assert 2 <= last(folder).epoch < 12
    job = batch(slurm, text, folder)
    told = job.communicate(timeout=300)
    assert job.returncode == 0, told
    shutil.move(folder / "runs", folder / "stopped")
    job = batch(slurm, text, folder)
    job.communicate(timeout=300)
    path = folder / "stopped" / "first" / "checkpoints" / "last.pt"
    assert same_weights(load_checkpoint(path), last(folder))


@nightly
def test_torchrun_by_slurm_trains(slurm, folder):
    job = batch(slurm, block("Slurm", 1), folder)
    told = job.communicate(timeout=300)
    assert job.returncode == 0, told
    assert last(folder).config["run"]["devices"] == 4
    assert slurm.calls == []


@nightly
def test_images_are_read_by_their_index(folder):
    digits = load_data("digits")
    for name, part in (("train", digits.train), ("val", digits.test)):
        for number, (image, label) in enumerate(
            zip(part.images, part.labels.tolist(), strict=True)
        ):
            path = folder / "pictures" / name / f"{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)
    shell(block("Data larger than memory"), folder)
    path = folder / "runs" / "pictures" / "checkpoints" / "last.pt"
    assert load_checkpoint(path).epoch == 3


@nightly
def test_a_host_that_comes_takes_part_and_one_that_goes_is_not_waited_for(hosts, folder):
    with_epochs(folder, 1000)
    text = block("Other numbers of processes", 1)
    first = start(hosts, 0, text, folder)
    wait_for(folder, "epoch    2/1000")
    second = start(hosts, 1, text, folder)
    wait_for(folder, "run.devices: 2 -> 4")
    second.send_signal(signal.SIGTERM)
    second.wait(60)
    wait_for(folder, "run.devices: 4 -> 2")
    first.send_signal(signal.SIGTERM)
    first.wait(60)
    assert last(folder).config["run"]["devices"] == 2


@nightly
def test_hosts_whose_own_names_lead_to_the_loopback_need_the_interface(folder):
    known = "127.0.0.1 localhost\n"
    hosts_files = (
        f"{known}127.0.1.1 {NAMES[0]}\n{ADDRESSES[1]} {NAMES[1]}\n",
        f"{known}127.0.1.1 {NAMES[1]}\n{ADDRESSES[0]} {NAMES[0]}\n",
    )
    text = block("Torchrun", 1).replace("--max-restarts 3", "--max-restarts 0")
    with TwoHosts(hosts_files) as hosts:
        # Whoever cannot reach the others fails; those that wait for it name it in the end.
        soon = text.replace("--resume auto", "--resume auto --run.timeout 20")
        failing = [start(hosts, host, soon, folder) for host in (0, 1)]
        ended(failing, folder, status=1)
        text = block("Networks between machines") + text
        ended([start(hosts, host, text, folder) for host in (0, 1)], folder)
    assert last(folder).epoch == 3


@nightly
def test_a_loop_of_your_own_goes_on_with_one_process(hosts, folder):
    text = block("A loop of your own")
    # A torchrun that ends after the one with the rendezvous may fail to take its leave there, whatever its processes did.
    told = ended([start(hosts, host, text, folder) for host in (0, 1)], folder, status=None)
    assert "test accuracy" in told[0]
    assert not any("ChildFailedError" in each for each in told), told
    assert "epoch 3" in shell(block("A loop of your own", 1), folder)
