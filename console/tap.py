"""Calls as server-sent events: whoever watches gets those that it asked for, and how many it was too slow for."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from console.calls import Calls
from console.live import HEARTBEAT_SECONDS, opened
from mesh.recovery import now, sleep

if TYPE_CHECKING:
    from aiohttp import web
    from opentelemetry.proto.trace.v1 import trace_pb2

    from console.calls import Wish
    from console.store import Span

EVERY_SECONDS = 0.25
WAITING = 1_000
"""Calls that may wait for one watcher; what comes beyond that is left out and counted."""


class Watcher:
    """One who watches."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._calls: deque[dict[str, Any]] = deque()
        self._dropped = 0
        self.woken = asyncio.Event()

    def offer(self, call: dict[str, Any]) -> None:
        """Keep a call for it if it is one of those that it wants, and if there is room."""
        if not self._wish.takes(call):
            return
        if len(self._calls) < WAITING:
            self._calls.append(call)
        else:
            self._dropped += 1
        self.woken.set()

    def fetch(self) -> dict[str, Any] | None:
        """What came since the last time: calls, and how many were left out; None for nothing."""
        self.woken.clear()
        calls, dropped = list(self._calls), self._dropped
        self._calls.clear()
        self._dropped = 0
        return {"calls": calls, "dropped": dropped} if calls or dropped else None


class Tap:
    """All who watch, and the calls that are being put together for them; without anybody it costs nothing."""

    def __init__(self) -> None:
        self._calls = Calls()
        self._watchers: set[Watcher] = set()
        self._ended = False

    def take(self, trace_id: bytes, span: Span, full: trace_pb2.Span) -> None:
        """A span that has just been stored."""
        if self._watchers:
            self._calls.take(trace_id, span, full, now())

    async def follow(self, request: web.Request, wish: Wish) -> web.StreamResponse:
        """Answer with calls from now on, until the watcher goes or the process ends."""
        watcher = Watcher(wish)
        self._watchers.add(watcher)  # before the answer begins: who has that misses nothing
        try:
            stream = await opened(request)
            with suppress(ConnectionError):  # it has gone
                await stream.write(b": from now on\n\n")
                while not self._ended:
                    await _tell(stream, watcher)
            return stream
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._calls.clear()

    def end(self) -> None:
        """Let all who watch go."""
        self._ended = True
        for watcher in self._watchers:
            watcher.woken.set()

    async def run(self) -> None:
        """Tell calls that have come to rest; never ends."""
        while True:
            for call in self._calls.due(now()):
                for watcher in self._watchers:
                    watcher.offer(call)
            await sleep(EVERY_SECONDS)


async def _tell(stream: web.StreamResponse, watcher: Watcher) -> None:
    try:
        async with asyncio.timeout(HEARTBEAT_SECONDS):
            await watcher.woken.wait()
    except TimeoutError:
        await stream.write(b": still here\n\n")
        return
    if found := watcher.fetch():
        await stream.write(b"data: " + json.dumps(found).encode() + b"\n\n")
