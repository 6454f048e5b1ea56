"""`/v1/kv` and `/v1/config`: what is kept on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mesh.registry.dev import shapes
from mesh.registry.dev.core import Core, reply
from mesh.registry.dev.entries import CONFIG, check_kind, kind_scope
from mesh.registry.dev.intentions import KIND, check_entry
from mesh.registry.dev.kv import KV
from mesh.registry.dev.parse import Blocking, config_entry, flag, number
from mesh.registry.dev.rejected import Rejected
from mesh.registry.model import MAX_VALUE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.registry.dev.index import Scope
    from mesh.registry.dev.kv import Entry


class StoreRoutes:
    """Handlers of KV and config entries."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def routes(self) -> list[web.RouteDef]:
        """Paths and their handlers."""
        return [
            web.get("/v1/kv/{key:.*}", self.get),
            web.put("/v1/kv/{key:.*}", self.put),
            web.delete("/v1/kv/{key:.*}", self.delete),
            web.put("/v1/config", self.put_entry),
            web.get("/v1/config/{kind:[^/]*}", self.entries),
            web.get("/v1/config/{kind:[^/]+}/{name:.*}", self.entry),
            web.delete("/v1/config/{kind:[^/]+}/{name:.*}", self.delete_entry),
        ]

    async def get(self, request: web.Request) -> web.Response:
        """One value, a prefix of values, or keys."""
        key, query = request.match_info["key"], request.query
        if flag(query, "keys"):
            separator = query.get("separator", "")
            return await self._core.query(request, KV, lambda: self._keys(key, separator))
        if flag(query, "recurse"):
            return await self._core.query(request, KV, lambda: self._prefix(key))
        if not key:
            raise Rejected(400, "Missing key name")
        raw = flag(query, "raw")
        return await self._core.query(request, KV, lambda: self._value(key, raw))

    def _value(self, key: str, raw: bool) -> tuple[int, web.Response]:
        entry, index = self._core.values.get(key), self._core.values.index_of(key)
        if entry is None:
            return index, web.Response(status=404)
        return index, _raw(entry) if raw else reply([shapes.value(entry)])

    def _prefix(self, prefix: str) -> tuple[int, web.Response]:
        found = [shapes.value(entry) for entry in self._core.values.under(prefix)]
        return self._core.values.index_under(prefix), reply(found) if found else web.Response(status=404)

    def _keys(self, prefix: str, separator: str) -> tuple[int, web.Response]:
        keys = dict.fromkeys(_cut(entry.key, prefix, separator) for entry in self._core.values.under(prefix))
        return self._core.values.index_under(prefix), reply(list(keys)) if keys else web.Response(status=404)

    async def put(self, request: web.Request) -> web.Response:
        """Store a value; the answer says whether `cas` allowed it."""
        key, query = request.match_info["key"], request.query
        Blocking.of(query)
        flags, cas = number(query, "flags") or 0, number(query, "cas")
        value = await request.read()
        if not key:
            raise Rejected(400, "Missing key name")
        if len(value) > MAX_VALUE_BYTES:
            raise Rejected(413, f"Request body({len(value)} bytes) too large, max size: {MAX_VALUE_BYTES} bytes.")
        stored = self._core.values.put(key, value, flags=flags, cas=cas)
        if stored:
            await self._core.keep_value(key)
        return reply(stored)

    async def delete(self, request: web.Request) -> web.Response:
        """Remove a value or a prefix of values."""
        key, query = request.match_info["key"], request.query
        if flag(query, "recurse"):
            return await self._delete_prefix(key)
        if not key:
            raise Rejected(400, "Missing key name")
        known = self._core.values.get(key) is not None
        removed = self._core.values.delete(key, cas=number(query, "cas"))
        if known and removed:
            await self._core.keep_value(key)
        return reply(removed)

    async def _delete_prefix(self, prefix: str) -> web.Response:
        keys = [entry.key for entry in self._core.values.under(prefix)]
        for key in keys:
            self._core.values.delete(key)
        for key in keys:
            await self._core.keep_value(key)
        return reply(True)

    async def put_entry(self, request: web.Request) -> web.Response:
        """Store a config entry; the answer says whether `cas` allowed it."""
        cas = number(request.query, "cas")
        entry = config_entry(await request.read())
        if entry["Kind"] == KIND:
            check_entry(entry, self._core.intentions.held)
        stored = self._core.entries.put(entry, cas=cas)
        if stored:
            await self._core.keep_entry(entry["Kind"], entry["Name"])
        return reply(stored)

    async def entries(self, request: web.Request) -> web.Response:
        """All config entries of a kind; all there are when no kind is given."""
        kind = request.match_info["kind"]
        if not kind:
            return await self._query_entries(request, CONFIG, lambda: reply(self._core.entries.all()))
        check_kind(kind)
        return await self._query_entries(request, kind_scope(kind), lambda: reply(self._core.entries.of_kind(kind)))

    async def entry(self, request: web.Request) -> web.Response:
        """One config entry."""
        kind, name = request.match_info["kind"], request.match_info["name"]
        check_kind(kind)
        return await self._query_entries(request, kind_scope(kind), lambda: self._entry(kind, name))

    async def _query_entries(
        self, request: web.Request, scope: Scope, answer: Callable[[], web.Response]
    ) -> web.Response:
        return await self._core.query(request, scope, lambda: (self._core.index.of(scope), answer()))

    def _entry(self, kind: str, name: str) -> web.Response:
        found = self._core.entries.get(kind, name)
        if found is None:
            return web.Response(status=404, text=f'Config entry not found for "{kind}" / "{name}"')
        return reply(found)

    async def delete_entry(self, request: web.Request) -> web.Response:
        """Remove a config entry; with `cas`, only where its ModifyIndex is that, and the answer says whether."""
        cas = number(request.query, "cas")
        kind, name = request.match_info["kind"], request.match_info["name"]
        try:
            check_kind(kind)
        except Rejected as rejected:
            raise Rejected(400, rejected.text) from rejected
        if cas is not None and not self._core.entries.matches(kind, name, cas):
            return reply(False)
        self._core.entries.delete(kind, name)
        await self._core.keep_entry(kind, name)
        return reply({} if cas is None else True)


def _raw(entry: Entry) -> web.Response:
    headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
    return web.Response(body=entry.value, content_type="text/plain", headers=headers)


def _cut(key: str, prefix: str, separator: str) -> str:
    end = key.find(separator, len(prefix)) if separator else -1
    return key if end < 0 else key[: end + len(separator)]
