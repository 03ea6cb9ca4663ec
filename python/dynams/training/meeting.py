"""Where the processes of a run meet, on a store that outlives them.

torchrun keeps one store for all its restarts: it holds what processes wrote that are dead by now, some of which never came
as far as the others did. So nothing can be counted there. The first process of each attempt makes up a name that nobody
used before, and gives it to whoever asks with a word of its own.
"""

from __future__ import annotations

import secrets
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_ASKED = "dynams/asked"
_LOOK = 0.02


def agreed_name(store: Store, rank: int, size: int, timeout: timedelta) -> str:
    """Agree on a name that this attempt has to itself, for a part of ``store`` that nobody else writes to, or wrote to.

    Args:
        store: all processes reach it; it may hold what earlier ones left.
        rank: this process, in [0, ``size``).
        size: processes of the attempt; all of them come here.
        timeout: how long to wait for them.

    Returns:
        The same in all of them.

    Raises:
        RuntimeError: some did not come in time (`torch.distributed.DistError`, a kind of it, in all but the first).
    """
    mine = secrets.token_hex(8)
    if rank == 0:
        _answer(store, mine, size - 1, timeout)
        return mine
    place = store.add(_ASKED, 1)
    store.set(f"{_ASKED}/{place}", mine)
    end = time.monotonic() + timeout.total_seconds()
    # Waiting in the store itself, this process would heed no signal.
    while not store.check([f"dynams/answer/{mine}"]):
        if time.monotonic() > end:
            raise dist.DistStoreError(f"process 0 did not come in {timeout}")
        time.sleep(_LOOK)
    name = str(store.get(f"dynams/answer/{mine}").decode())
    store.add(f"dynams/came/{name}", 1)
    return name


def _answer(store: Store, name: str, others: int, timeout: timedelta) -> None:
    """Tell ``name`` to everybody who asks, the dead included, until as many took it up as there are others."""
    end = time.monotonic() + timeout.total_seconds()
    known, unanswered = 0, set[int]()
    while (came := store.add(f"dynams/came/{name}", 0)) < others:
        if time.monotonic() > end:
            raise RuntimeError(
                f"{others - came} of {others + 1} processes did not come in {timeout}"
            )
        asked = store.add(_ASKED, 0)
        unanswered.update(range(known + 1, asked + 1))
        known = asked
        for place in sorted(unanswered):
            # One that was killed between its two lines leaves a place without a word.
            if store.check([f"{_ASKED}/{place}"]):
                store.set(f"dynams/answer/{store.get(f'{_ASKED}/{place}').decode()}", name)
                unanswered.discard(place)
        time.sleep(_LOOK)
