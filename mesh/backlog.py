"""Calls that have come to a gRPC server and that Python has not begun yet, by gRPC's own count.

`grpc.aio` takes one call of a method in several turns of the loop; those behind it wait within gRPC, and Python is told
nothing of them. A server that is shut down answers them CANCELLED, as if their callers had given up, so that no client
sends them again: https://github.com/grpc/grpc/issues/41785. Nothing within reach changes that answer, and without the
shutdown no GOAWAY can be sent. So a server is not to be shut down while any wait, and channelz, which counts what has
come and what has ended, tells when none does: https://github.com/grpc/proposal/blob/master/A14-channelz.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_channelz.v1.channelz import ChannelzServicer
from grpc_channelz.v1.channelz_pb2 import GetServerRequest, GetServersRequest

from mesh.recovery import now, sleep

LOOK_SECONDS = 0.05
"""When no call came for so long, and none waits, no more are on their way from callers who know that we leave."""

LOOKS = 60
"""How often it is looked for callers who do not notice and go on calling."""

PATIENCE_SECONDS = LOOKS * LOOK_SECONDS
"""How long that takes, of a loop that is not late."""

_NOBODY: Any = None
"""Who is told of an error; there is none, as the server is there."""


@dataclass(frozen=True)
class Counts:
    """Of calls."""

    came: int
    open: int
    """Those that came and have not ended."""


class Backlog:
    """Of one server."""

    def __init__(self, server_id: int) -> None:
        self._request = GetServerRequest(server_id=server_id)

    def counts(self) -> Counts:
        """Up to this moment."""
        data = ChannelzServicer.GetServer(self._request, _NOBODY).server.data
        return Counts(data.calls_started, data.calls_started - data.calls_succeeded - data.calls_failed)

    async def empty(self, in_hand: Callable[[], int], limit_seconds: float) -> None:
        """Until none waits and no more come; `in_hand` tells how many were begun and have not ended.

        Callers who go on calling keep it for `LOOKS` only, and so does what waits and is not begun; all ends with the
        limit. What waits and is begun, however slowly, is waited for.
        """
        end, looks = now() + limit_seconds, Looks()
        while now() < end:
            counts = self.counts()
            if looks.enough(counts.came, counts.open - in_hand()):
                return
            await sleep(LOOK_SECONDS)


class Looks:
    """What was seen of a server that waits for its callers to notice."""

    def __init__(self) -> None:
        self._came = self._waiting = -1
        self._all = self._alike = 0

    def enough(self, came: int, waiting: int) -> bool:
        """Whether there is no reason to look again, by how many calls have come so far and how many wait."""
        self._all += 1
        self._alike = self._alike + 1 if waiting == self._waiting else 0
        quiet, self._came, self._waiting = came == self._came, came, waiting
        if waiting > 0:
            return self._alike >= LOOKS
        return quiet or self._all > LOOKS


class _Servers:
    """All of this process, in the order in which they were seen first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0

    def make(self, options: Sequence[tuple[str, Any]]) -> tuple[grpc.aio.Server, Backlog]:
        with self._lock:
            self._unseen()
            server = grpc.aio.server(options=(*options, ("grpc.enable_channelz", 1)))
            return server, Backlog(self._unseen()[-1])

    def _unseen(self) -> list[int]:
        unseen: list[int] = []
        while True:
            page = ChannelzServicer.GetServers(GetServersRequest(start_server_id=self._next), _NOBODY)
            unseen += (server.ref.server_id for server in page.server)
            self._next = max(self._next, *(one + 1 for one in unseen), 0)
            if page.end:
                return unseen


make = _Servers().make
"""A server, and its backlog. Where two threads make one at once without this, they may be taken for each other."""
