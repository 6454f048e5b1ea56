"""Server-sent events: one producer for all browsers of a topic, the newest state wins, a slow browser costs O(1).

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from console.body import HEADERS
from mesh.latest import Latest
from mesh.recovery import sleep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
HEARTBEAT_SECONDS = 15.0
_HEADERS = {**HEADERS, "X-Accel-Buffering": "no"}
_NOTHING = b""
_END = b"\x00"


async def opened(request: web.Request) -> web.StreamResponse:
    """A stream of events to whoever asked."""
    stream = web.StreamResponse(headers=_HEADERS)
    stream.content_type = "text/event-stream"
    await stream.prepare(request)
    return stream


class Topic:
    """One state that browsers follow. `run` makes it anew every two seconds for as long as somebody does."""

    def __init__(self, produce: Callable[[], Awaitable[bytes]], every_seconds: float = EVERY_SECONDS) -> None:
        """`produce` answers the state as one line; whatever it raises is logged, and the last state stays."""
        self._produce = produce
        self._every_seconds = every_seconds
        self._state = Latest(_NOTHING)
        self._followers = 0
        self._wanted = asyncio.Event()

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Answer with the state now and at each change, until the browser goes or the topic ends."""
        stream = await opened(request)
        self._join()
        try:
            await self._tell(stream)
        except ConnectionError:
            pass  # the browser has gone
        finally:
            self._leave()
        return stream

    def end(self) -> None:
        """Let all who follow go; to be called when the process stops, after `run`."""
        self._state.set(_END)

    async def _tell(self, stream: web.StreamResponse) -> None:
        told = _NOTHING
        async for state in self._state.changes(every_seconds=HEARTBEAT_SECONDS):
            if state == _END:
                return
            if state == told:
                await stream.write(b": still here\n\n")
            elif state != _NOTHING:
                await stream.write(b"data: " + state + b"\n\n")
                told = state

    async def run(self) -> None:
        """Keep the state new; never ends."""
        while True:
            await self._wanted.wait()
            try:
                self._state.set(await self._produce())
            except Exception:
                log.exception("the live state could not be made")
            await sleep(self._every_seconds)

    def _join(self) -> None:
        self._followers += 1
        self._wanted.set()

    def _leave(self) -> None:
        self._followers -= 1
        if not self._followers:
            self._wanted.clear()
            self._state.set(_NOTHING)
