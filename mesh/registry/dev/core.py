"""What the handlers of the built-in registry share: tables, held queries, the clock and the disk."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from mesh.recovery import now, time_of_day
from mesh.registry.dev.authority import LEAF_SECONDS, Authority
from mesh.registry.dev.disk import AUTHORITY, CONFIG, INTENTIONS, KV, Disk, content_of
from mesh.registry.dev.entries import ConfigEntries
from mesh.registry.dev.index import Index, Scope
from mesh.registry.dev.intentions import KIND, Intention, Intentions, of_entry
from mesh.registry.dev.kv import Values
from mesh.registry.dev.parse import Blocking
from mesh.registry.dev.shapes import Node
from mesh.registry.dev.state import Catalog

Answer = Callable[[], tuple[int, web.Response]]
"""The number of what is read, and the response it makes now."""


class Core:
    """All state of one built-in registry. Lives in one event loop, as `async with`: the end waits for the disk."""

    def __init__(
        self, disk: Disk, here: Callable[[int], Node], first_index: int, leaf_seconds: float = LEAF_SECONDS
    ) -> None:
        stored_values, stored_entries, stored_intentions = list(disk.kv()), list(disk.config()), list(disk.intentions())
        known = [value.modify_index for value in stored_values] + [entry["ModifyIndex"] for entry in stored_entries]
        known += [intention.modify_index for intention in stored_intentions]
        self.index = Index(first=max([first_index, *(number + 1 for number in known)]))
        self.node = here(self.index.first)
        self.catalog = Catalog(self.index)
        self.values = Values(self.index)
        self.entries = ConfigEntries(self.index)
        self.intentions = Intentions(self.index, self._entered)
        self.authority = Authority(self.index, leaf_seconds)
        for value in stored_values:
            self.values.load(value)
        for entry in stored_entries:
            self.entries.load(entry)
        for intention in stored_intentions:
            self.intentions.load(intention)
        for authority in disk.authority():
            self.authority.load(authority)
        self._disk = disk
        self._writing = asyncio.Lock()
        self._writes = asyncio.TaskGroup()
        self._held: dict[Scope, set[asyncio.Event]] = {}
        self._stopping = False

    async def __aenter__(self) -> Self:
        await self._writes.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._writes.__aexit__(None, None, None)

    def _entered(self) -> Iterator[Intention]:
        for entry in self.entries.of_kind(KIND):
            yield from of_entry(entry)

    async def query(self, request: web.Request, scope: Scope, answer: Answer) -> web.Response:
        """Answer at once, or hold the query until the number passes the one that it names."""
        blocking = Blocking.of(request.query)
        number, response = answer()
        deadline = now() + blocking.wait_seconds
        while 0 < number <= blocking.index and await self._changed(scope, deadline - now()):
            number, response = answer()
        response.headers.update(_headers(number))
        return response

    async def _changed(self, scope: Scope, seconds: float) -> bool:
        """Wait until a scope is touched; False when the time is over or the registry stops."""
        if self._stopping or seconds <= 0:
            return False
        event = asyncio.Event()
        self._held.setdefault(scope, set()).add(event)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        finally:
            self._release(scope, event)
        return not self._stopping

    def _release(self, scope: Scope, event: asyncio.Event) -> None:
        events = self._held[scope]
        events.discard(event)
        if not events:
            del self._held[scope]

    def announce(self) -> None:
        """Wake the queries that wait for what was changed."""
        for scope in self.index.take_touched():
            for event in self._held.get(scope, ()):
                event.set()

    def advance(self) -> None:
        """Let checks expire, and certificates."""
        self.catalog.advance(now())
        self.authority.advance(time_of_day())
        self.announce()

    def stop(self) -> None:
        """Answer every held query now, and hold no more."""
        self._stopping = True
        for events in self._held.values():
            for event in events:
                event.set()

    async def keep_value(self, key: str) -> None:
        """Write what is at a key to disk before its writer hears of success."""
        await self._keep(KV, key, lambda: content_of(self.values.get(key)))

    async def keep_entry(self, kind: str, name: str) -> None:
        """Write a config entry to disk before its writer hears of success."""
        await self._keep(CONFIG, f"{kind}/{name}", lambda: self.entries.get(kind, name))

    async def keep_intention(self, intention_id: str) -> None:
        """Write an intention to disk before its writer hears of success."""
        await self._keep(INTENTIONS, intention_id, lambda: _plain(self.intentions.get(intention_id)))

    async def keep_authority(self) -> None:
        """Write the certificate authority to disk before anybody hears of it."""
        await self._keep(AUTHORITY, "authority", self.authority.stored)

    async def _keep(self, part: str, name: str, content: Callable[[], Mapping[str, Any] | None]) -> None:
        """Raises OSError. Who goes away takes neither the write nor its turn along, as others may have seen it."""
        failure = await asyncio.shield(self._writes.create_task(self._write(part, name, content)))
        if failure is not None:
            raise failure

    async def _write(self, part: str, name: str, content: Callable[[], Mapping[str, Any] | None]) -> OSError | None:
        async with self._writing:
            try:
                await asyncio.to_thread(self._disk.write, part, name, content())
            except OSError as error:
                return error
        return None


def _plain(intention: Intention | None) -> Mapping[str, Any] | None:
    return None if intention is None else dataclasses.asdict(intention)


def _headers(number: int) -> dict[str, str]:
    return {"X-Consul-Index": str(number), "X-Consul-KnownLeader": "true", "X-Consul-LastContact": "0"}


def reply(content: object, status: int = 200) -> web.Response:
    """A JSON response."""
    body = json.dumps(content, separators=(",", ":")).encode()
    return web.Response(body=body, status=status, content_type="application/json")


def done() -> web.Response:
    """Success without content."""
    return web.Response()
