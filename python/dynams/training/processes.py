"""The processes of a run on several devices: started, joined, watched and left together.

A run whose processes nobody started starts them itself: the same command once more for each further device. One
that dies ends the others within seconds, one that hangs after a while, with a line that names it and the command
that resumes.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from dynams.training.children import MEETING, Children, told_end
from dynams.training.devices import World
from dynams.training.errors import LostProcessError
from dynams.training.heartbeat import Heartbeat, RunPlace
from dynams.training.interrupt import Interrupt, Told
from dynams.training.launched import Launched
from dynams.training.meeting import agreed_name
from dynams.training.rundir import checkpoint_path, resume_command

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

# Seconds that a process has to end in good order once another one is lost; a collective may hold it.
_GRACE = 5.0
_LOOK = 0.25
_INTERRUPTED = 130  # as the command line's
# Between two looks that are further apart this process itself was stopped.
_STOPPED = 2.0
_LONGEST = 30 * 24 * 3600.0


class Companions:
    """The processes of a run, this one among them; to be had from `joined`.

    Attributes:
        world: the processes.
        run_dir: the run's directory, once it is known: the command that resumes names it.
        told: whether this one was told to end; for the time in which it would not heed it.
    """

    def __init__(
        self,
        world: World,
        store: Store | None = None,
        children: Children | None = None,
        stop: Interrupt | None = None,
    ) -> None:
        self.world = world
        self.run_dir: Path | None = None
        self._store = store
        self._children = children
        self.told = Told(stop)
        self._heartbeat: Heartbeat | None = None
        self._over = threading.Event()

    def over(self) -> None:
        """Say that all have met for the last time: from here on each ends for itself."""
        self._over.set()

    def come_to(self, place: RunPlace) -> None:
        """Say how far this process has come; at each place the others may wait for it."""
        if self._heartbeat is not None:
            self._heartbeat.place = place

    @contextmanager
    def watched(self) -> Iterator[None]:
        """End this process soon after another is lost, or it was told to end, if it does not end by itself, or hangs."""
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    @contextmanager
    def heard(self, store: Store, heartbeat: Heartbeat) -> Iterator[None]:
        """Let the others hear of this process, and hear of them."""
        self._store = store
        with heartbeat:
            self._heartbeat = heartbeat
            yield

    @contextmanager
    def losses_told(self) -> Iterator[None]:
        """Name the process that an error is the consequence of; the others are told of an error of one's own.

        It takes seconds: best where signals still are listened for, which torchrun sends as soon as one is lost.

        Raises:
            LostProcessError: another process was lost, in place of what came of that here.
            KeyboardInterrupt: this one was stopped at once, and while it ended the others were gone.
        """
        outside = sys.exc_info()[1]
        try:
            yield
        except LostProcessError:
            raise
        except Exception as error:
            if _while_stopping(error, outside):
                raise KeyboardInterrupt from error
            lost = self._lost(error)
            if lost is not None:
                raise lost from error
            raise

    def _lost(self, error: Exception) -> LostProcessError | None:
        here = self.world.here
        if self._over.is_set() or here is None:
            return None
        consequence = _of_the_connection(error)
        told = self._tell_others("lost" if consequence else _failed(error))
        if not consequence:
            if told and here.rank and self._said_by_the_first(_failed(error)):
                error.speaks = False  # type: ignore[attr-defined]
            return None
        # Where nothing can be told, it was the first process that kept what is told.
        kept = range(self._store is not None, here.size)
        said = self._heard(here) if told else dict.fromkeys(kept, "lost")
        said[here.rank] = "lost"
        names = [self._ended(rank) for rank in range(here.size) if rank not in said]
        names += [f"process {rank} failed" for rank in sorted(said) if said[rank] != "lost"]
        if not names:
            names = ["the connection to another process is lost"]
        first = min(rank for rank in said if said[rank] == "lost")
        return LostProcessError("; ".join([*names, self._advice()]), speaks=here.rank == first)

    def _advice(self) -> str:
        """The command that resumes."""
        if self.run_dir is None or not checkpoint_path(self.run_dir).exists():
            return "nothing was saved yet"
        return f"resume with: {resume_command(self.run_dir)}"

    def leave(self, *, failed: bool) -> None:
        """Dissolve the process group that `joined` made."""
        if self._children is not None:
            self._children.failed = failed
        # Between processes that no longer meet, NCCL would wait.
        if dist.is_initialized() and not (failed and dist.get_backend() == "nccl"):
            # What still belongs to collectives goes first: else a worker of gloo drops it while the interpreter ends.
            gc.collect()
            dist.destroy_process_group()
            gc.collect()

    def _ended(self, rank: int) -> str:
        code = None if self._children is None else self._children.wait_for(rank)
        return told_end(rank, code)

    def _tell_others(self, text: str) -> bool:
        assert self.world.here is not None
        if self._store is None:
            return False
        try:
            self._store.set(f"ended/{self.world.here.rank}", text)
        except RuntimeError:  # it was the first process' or torchrun's
            return False
        return True

    def _said_by_the_first(self, text: str) -> bool:
        """Whether the first process, within a second, ends by the same error: then it tells it for all."""
        assert self._store is not None
        with suppress(RuntimeError):
            self._store.wait(["ended/0"], timedelta(seconds=1))
            return bool(self._store.get("ended/0").decode() == text)
        return False

    def _heard(self, here: Launched) -> dict[int, str]:
        """What the others tell of their ends, as far as they do within some seconds."""
        assert self._store is not None
        said: dict[int, str] = {}
        end = time.monotonic() + _GRACE / 2
        silent = set(range(here.size)) - {here.rank}
        while silent and time.monotonic() < end:
            if self._children is not None:
                silent -= self._children.ended(silent)
            for rank in sorted(silent):
                with suppress(RuntimeError):  # whose the store is may be lost as well
                    if self._store.check([f"ended/{rank}"]):
                        said[rank] = self._store.get(f"ended/{rank}").decode()
            silent -= set(said)
            time.sleep(0.05)
        return said

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._over.wait(_LOOK):
            now = time.monotonic()
            if self._heartbeat is not None and now - looked > _STOPPED:
                self._heartbeat.excuse(now - looked)
            looked = now
            if self.told.to_end() and not self._over.wait(_GRACE):
                self._end_at_once(None, status=_INTERRUPTED)
            if (lost := self._gone()) is not None and not self._over.wait(_GRACE):
                here = self.world.here
                speaks = self._children is not None or (here is not None and here.rank == 1)
                self._end_at_once(lost if speaks else None)
            if hung := self._hung():
                self._end_at_once(self._told_hung(hung), tuple(hung))
            if self._heartbeat is not None and self._heartbeat.unanswered():
                self._end_at_once(self._told_unanswered())

    def _gone(self) -> str | None:
        """Name a process of this machine that is no more, where one can tell."""
        here = self.world.here
        if self._children is not None:
            return self._children.failure()
        if here is not None and here.starter and os.name == "posix":
            return _first_gone(here)
        return None

    def _hung(self) -> dict[int, str]:
        return {} if self._heartbeat is None else self._heartbeat.hung()

    def _told_hung(self, hung: dict[int, str]) -> str | None:
        """What the first process that does not hang says; None: this is another one."""
        here = self.world.here
        assert here is not None
        assert self._heartbeat is not None
        if here.rank != min(set(range(here.size)) - set(hung), default=0):
            return None
        seconds = f"{self._heartbeat.timeout:g} s"
        return "; ".join(
            f"process {rank} has not come on for {seconds} ({where})"
            for rank, where in hung.items()
        )

    def _told_unanswered(self) -> str | None:
        """What the first process of a machine that is cut off says; None: this is another one."""
        here = self.world.here
        assert here is not None
        assert self._heartbeat is not None
        if here.local_rank:
            return None
        return f"{here.by} at {here.address} has not answered for {self._heartbeat.timeout:g} s"

    def _end_at_once(self, why: str | None, hung: Collection[int] = (), status: int = 1) -> None:
        """End this process, those that it started, and those that hang beside it, on which a launcher would wait."""
        if why is not None:
            with suppress(OSError):
                sys.stderr.write(f"dynams: error: {why}; {self._advice()}\n")
                sys.stderr.flush()
        here = self.world.here
        if self._children is not None:
            self._children.kill()
        elif here is not None and self._heartbeat is not None:
            numbers = {self._heartbeat.number_of(rank) for rank in hung}
            beside = {number for number in numbers if number and _parent(number) == os.getppid()}
            if 0 in hung and here.starter == os.getppid():  # known also before it was heard
                beside.add(here.starter)
            for number in beside:
                with suppress(OSError):
                    os.kill(number, getattr(signal, "SIGKILL", signal.SIGTERM))
        os._exit(status)


@contextmanager
def joined(
    world: World, device: torch.device, timeout: float = 600.0, stop: Interrupt | None = None
) -> Iterator[Companions]:
    """Bring the run's processes together, in a process group of their own, for as long as the block lasts.

    A process group that the caller made is used, and stays. One process needs none.

    Args:
        world: the processes; those that nobody started are started.
        device: what they compute on.
        timeout: seconds after which one that does not come on hangs, and ends the others.
        stop: what listens for signals; one that comes while they meet ends this process within seconds.

    Raises:
        LostProcessError: another process was lost, in place of what came of that here.
    """
    if world.size == 1 or dist.is_initialized():
        yield Companions(world)
        return
    children = None
    if world.here is None:
        children = _children(world.size)
        if ended := children.ended(range(1, world.size)):
            raise LostProcessError(
                f"process {min(ended)} ended after an earlier run: start the program anew"
            )
        here = Launched("dynams", 0, world.size, 0, world.size, "127.0.0.1", children.store.port)
        world = World(world.local, world.machines, here)
    assert world.here is not None
    with ExitStack() as stack:
        companions = Companions(world, None, children, stop)
        stack.enter_context(companions.watched())
        store = _store(world.here) if children is None else children.store
        name = f"dynams/{agreed_name(store, world.here.rank, world.size, MEETING)}"
        store = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
        stack.enter_context(companions.heard(store, Heartbeat(world.here, name, timeout)))
        with companions.told:
            _meet(world.here, device, store, timeout)
        try:
            with companions.losses_told():
                yield companions
        except BaseException as error:
            if children is not None and isinstance(error, KeyboardInterrupt):
                children.kill()  # they would wait for this one, and have nothing to save either
            companions.leave(failed=True)
            raise
        companions.leave(failed=False)


@contextmanager
def told_environment(world: World) -> Iterator[None]:
    """Say in the environment how many processes are here, and leave it as it was in the end."""
    names = ("LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")  # the engine sets the other one
    before = {name: os.environ.get(name) for name in names}
    os.environ["LOCAL_WORLD_SIZE"] = str(world.local)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@functools.cache
def _children(size: int) -> Children:
    """The processes that this one started: those of an earlier run run the same program, and come to this one too."""
    return Children(size)


@functools.cache
def _store(here: Launched) -> Store:
    """Where the processes meet, in all runs of this process."""
    if here.starter:
        found: Store = dist.TCPStore(  # type: ignore[attr-defined]
            here.address, here.port, is_master=False, timeout=MEETING
        )
        return found
    url = f"tcp://{here.address}:{here.port}"
    meeting = dist.rendezvous(url, here.rank, here.size, timeout=MEETING)  # type: ignore[attr-defined]
    store: Store = next(iter(meeting))[0]
    return store


def _meet(here: Launched, device: torch.device, store: Store, timeout: float) -> None:
    """Make the process group."""
    more: dict[str, Any] = {}
    if device.type == "cuda":
        more["device_id"] = torch.device("cuda", here.local_rank)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=here.rank,
        world_size=here.size,
        # Of use only where nobody can be named: all compute, or none is heard.
        timeout=max(MEETING, timedelta(seconds=min(2 * timeout, _LONGEST))),
        **more,
    )


def _first_gone(here: Launched) -> str | None:
    return None if os.getppid() == here.starter else told_end(0, None)


def _parent(number: int) -> int | None:
    """The process that started another one; None where nobody can tell."""
    try:
        told = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(told.rpartition(")")[2].split()[1])


def _failed(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {error}"


def _while_stopping(error: BaseException, outside: BaseException | None) -> bool:
    """Whether an error took the place of a `KeyboardInterrupt`, as that of a barrier that is met on the way out does.

    Args:
        error: the error.
        outside: what was being handled before anything of this was begun.
    """
    while (before := error.__context__) not in (None, outside):
        if isinstance(before, KeyboardInterrupt):
            return True
        error = before
    return False


def _of_the_connection(error: Exception) -> bool:
    """Whether an error came of a collective: of gloo only the message tells."""
    if isinstance(error, dist.DistError):
        return True
    told = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in told for sign in ("gloo", "by peer", "NCCL", "Broken pipe")
    )
