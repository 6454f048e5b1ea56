"""The registry behind Consul's HTTP API, on py-consul's asyncio client."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp
from consul import aio, base
from consul.callback import CB
from consul.exceptions import ConsulException

from mesh.errors import Code, Error
from mesh.recovery import Backoff, now
from mesh.registry import wire
from mesh.registry.failure import invalid, is_forgotten, is_unknown_kind, refused_write, to_error
from mesh.registry.model import MAX_VALUE_BYTES
from mesh.registry.watch import watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from datetime import datetime
    from types import TracebackType

    from mesh.registry.model import Health, Instance, Intended, Leaf, Registration
    from mesh.registry.settings import RegistrySettings

T = TypeVar("T")
log = logging.getLogger("mesh.registry")

_INTENTIONS = "/v1/connect/intentions"
_NOBODY = "mesh-nobody"
"""A service that nobody has."""

RETRY = Backoff(first_seconds=0.1, limit_seconds=5.0)
"""Between attempts to reach a registry that is away: short, because the way back should be."""

DENIED = Backoff(first_seconds=0.5, limit_seconds=30.0)
"""When it refuses the token: only people can change that, who may do so in either place."""

CALL_CONNECTIONS = 16

_ROOTS = "/v1/agent/connect/ca/roots"


class ConsulRegistry:
    """A `Registry` on one Consul agent, or on the built-in registry.

    Watches and calls have separate connection pools: a report must not wait behind blocking queries.
    Use as `async with`, or call `close`.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings = settings
        self._calls: Any = None
        self._watches: Any = None
        self.outages = 0
        self.answered_at = now()
        self._failing: dict[str, Code] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release connections; calls still running fail."""
        clients, self._calls, self._watches = (self._calls, self._watches), None, None
        for client in filter(None, clients):
            await client.close()

    async def register(self, registration: Registration) -> None:
        """Announce an instance with its TTL check (one that is there keeps its status)."""
        done = await self._call(
            self._client.agent.service.register(
                registration.service,
                service_id=registration.id,
                address=registration.address,
                port=registration.port,
                tags=list(registration.tags),
                meta=dict(registration.meta),
                check=wire.check_of(registration, self.settings.deregister_after_seconds),
                replace_existing_checks=True,
            )
        )
        self._expect(done, f"the registration of {registration.id}")

    async def report(self, instance_id: str, health: Health, output: str = "") -> None:
        """Renew the TTL check. Consul passes on a new output without a new status only minutes later."""
        body = json.dumps({"Status": str(health), "Output": output})
        path = f"/v1/agent/check/update/{wire.check_id(instance_id)}"
        try:
            done = await self._call(self._client.http.put(CB.boolean(), path, headers=self._headers, data=body))
        except Error as error:
            if not is_forgotten(error):
                raise
            done = False
        if not done:
            message = f"the registry at {self.settings.address} does not know the instance {instance_id}; register it"
            raise Error(Code.NOT_FOUND, message, reason="INSTANCE_NOT_REGISTERED", metadata={"instance": instance_id})

    async def deregister(self, instance_id: str) -> None:
        """Remove an instance; absent ones are fine (Consul 1.8 answers 200, newer ones 404)."""
        await self._call(self._client.agent.service.deregister(instance_id))

    async def services(self) -> Mapping[str, tuple[str, ...]]:
        """All service names but Consul's own, with the union of their tags."""
        return self._parsed(wire.services, (await self._read("/v1/catalog/services"))[1])

    def watch_services(self) -> AsyncIterator[Mapping[str, tuple[str, ...]]]:
        """`services`, again at each change."""
        return self._watch("/v1/catalog/services", wire.services)

    async def instances(self, service: str) -> tuple[Instance, ...]:
        """All instances of a service whatever their health, sorted by id."""
        return self._parsed(wire.instances, (await self._read(f"/v1/health/service/{_name(service)}"))[1])

    def watch_instances(self, service: str) -> AsyncIterator[tuple[Instance, ...]]:
        """`instances`, again at each change."""
        return self._watch(f"/v1/health/service/{_name(service)}", wire.instances)

    async def date(self) -> datetime | None:
        """Its date and time, to the second, from the head of an answer; None when that does not say."""
        text = await self._call(self._client.http.get(lambda answer: answer.headers.get("Date"), "/v1/status/leader"))
        return self._parsed(parsedate_to_datetime, text) if text else None

    async def leader(self) -> str:
        """Address of the server that leads; empty while there is none. Needs no token."""
        answer = await self._call(self._client.http.get(CB.json(), "/v1/status/leader"))
        if not wire.is_leader(answer):
            message = f"what answers at {self.settings.address} is no Consul: it knows nothing of a leader."
            raise Error(Code.INTERNAL, message, reason="REGISTRY_INTERNAL")
        return str(answer)

    async def roots(self) -> tuple[str, ...]:
        """As `watch_roots`, once."""
        return self._parsed(wire.roots, (await self._read(_ROOTS))[1])

    async def get(self, key: str) -> bytes | None:
        """The value at a key of the KV store."""
        _, entry = await self._call(self._client.kv.get(_key(key)))
        return None if entry is None else entry["Value"] or b""

    async def put(self, key: str, value: bytes) -> None:
        """Store a value of at most 512 KiB."""
        if len(value) > MAX_VALUE_BYTES:
            raise invalid(f"the value of {key} has {len(value)} bytes; the registry takes at most {MAX_VALUE_BYTES}")
        self._expect(await self._call(self._client.kv.put(_key(key), value)), f"the value of {key}")

    async def delete(self, key: str) -> None:
        """Remove a key; absent ones are fine."""
        await self._call(self._client.kv.delete(_key(key)))

    async def values(self, prefix: str) -> Mapping[str, bytes]:
        """All keys below a prefix with their values."""
        return self._parsed(wire.values, (await self._read(f"/v1/kv/{prefix}", ("recurse", "1"), decode="Value"))[1])

    def watch_prefix(self, prefix: str) -> AsyncIterator[Mapping[str, bytes]]:
        """`values`, again at each change."""
        return self._watch(f"/v1/kv/{prefix}", wire.values, ("recurse", "1"), decode="Value")

    async def put_config_entry(self, entry: Mapping[str, Any]) -> None:
        """Store a config entry. INVALID_ARGUMENT with Consul's own words when it refuses the content."""
        kind, name = str(entry.get("Kind") or ""), str(entry.get("Name") or "")
        if not kind or not name:
            raise invalid("a config entry needs Kind and Name")
        try:
            done = await self._call(self._client.config.set(kind, name, dict(entry)))
        except Error as error:
            raise refused_write(error) from error
        self._expect(done, f"the config entry {kind}/{name}")

    async def delete_config_entry(self, kind: str, name: str) -> None:
        """Remove a config entry; absent ones are fine."""
        await self._call(self._client.config.delete(kind, name))

    def watch_config_entries(self, kind: str) -> AsyncIterator[tuple[Mapping[str, Any], ...]]:
        """All config entries of a kind. Raises INVALID_ARGUMENT when this Consul does not know the kind."""
        return self._watch(f"/v1/config/{kind}", wire.config_entries)

    async def intended(self) -> Intended:
        """Who may call whom."""
        return (await self._intended())[1]

    def watch_intended(self) -> AsyncIterator[Intended]:
        """`intended`, again at each change."""

        async def read(index: int) -> tuple[int, Intended]:
            found = await self._intended(index)
            self._note_success(_INTENTIONS)
            return found

        return watch(read, partial(self._recover, _INTENTIONS))

    def watch_leaf(self, service: str) -> AsyncIterator[Leaf]:
        """The certificate of a service, again when it is renewed."""
        return self._watch(f"/v1/agent/connect/ca/leaf/{_name(service)}", wire.leaf)

    def watch_roots(self) -> AsyncIterator[tuple[str, ...]]:
        """The root certificates to trust."""
        return self._watch(_ROOTS, wire.roots)

    @property
    def _client(self) -> Any:
        if self._calls is None:
            self._calls = _Client(self.settings, CALL_CONNECTIONS, retry=True)
        return self._calls

    @property
    def _watcher(self) -> Any:
        if self._watches is None:
            self._watches = _Client(self.settings, self.settings.watch_connections, retry=False)
        return self._watches

    @property
    def _headers(self) -> dict[str, str]:
        return {"X-Consul-Token": self.settings.token} if self.settings.token else {}

    def _watch(
        self, path: str, parse: Callable[[Any], T], *params: tuple[str, str], decode: str | bool = False
    ) -> AsyncIterator[T]:
        async def read(index: int) -> tuple[int, T]:
            answered, answer = await self._read(path, *params, index=index, decode=decode)
            value = self._parsed(parse, answer)
            self._note_success(path)
            return answered, value

        return watch(read, partial(self._recover, path))

    async def _read(
        self, path: str, *params: tuple[str, str], index: int | None = None, decode: str | bool = False
    ) -> tuple[int, Any]:
        """One GET with its index; a watch passes `index` and may be held for `wait_seconds`."""
        query = [*params, *self._place]
        held = 0.0
        if index:
            held = self.settings.wait_seconds
            query += [("index", str(index)), ("wait", wire.duration(held))]
        pool = self._client if index is None else self._watcher
        request = pool.http.get(CB.json(index=True, decode=decode), path, params=query, headers=self._headers)
        answered, answer = await self._call(request, held * 17 / 16)  # Consul adds up to a 16th
        self.answered_at = now()
        return int(answered), answer

    async def _intended(self, index: int | None = None) -> tuple[int, Intended]:
        answered, answer = await self._read(_INTENTIONS, index=index)
        parse = partial(wire.intended, default_allow=await self._default_allow())
        return answered, self._parsed(parse, answer)

    async def _default_allow(self) -> bool:
        """What Consul says of two services that nobody has: only its default is about them, or an intention for all.

        Which of the two it was, `wire.intended` tells.

        Who may not ask learns that ACLs are on and deny by default, or that little may be read: a no, either way.
        """
        query = [("source", _NOBODY), ("destination", _NOBODY), *self._place]
        path = f"{_INTENTIONS}/check"
        try:
            answer = await self._call(self._client.http.get(CB.json(), path, params=query, headers=self._headers))
        except Error as error:
            if error.code is not Code.PERMISSION_DENIED:
                raise
            return False
        return bool(self._parsed(lambda found: found["Allowed"] is True, answer))

    @property
    def _place(self) -> list[tuple[str, str]]:
        return [("dc", self.settings.datacenter)] if self.settings.datacenter else []

    async def _call(self, request: Awaitable[T], held_seconds: float = 0.0) -> T:
        try:
            async with asyncio.timeout(self.settings.call_timeout_seconds + held_seconds):
                return await request
        except (aiohttp.ClientError, ConsulException, OSError, ValueError) as error:
            raise to_error(error, self.settings.address) from error

    def _parsed(self, parse: Callable[[Any], T], answer: Any) -> T:
        try:
            return parse(answer)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = f"the registry at {self.settings.address} answered what Consul does not: {error!r}"
            raise Error(Code.INTERNAL, message, reason="REGISTRY_INTERNAL") from error

    def _expect(self, done: object, what: str) -> None:
        if done is not True:
            message = f"the registry at {self.settings.address} did not take {what}; is it a Consul agent?"
            raise Error(Code.UNKNOWN, message, reason="REGISTRY_WRITE_FAILED")

    def _recover(self, path: str, error: Exception) -> Backoff:
        if not isinstance(error, Error) or is_unknown_kind(error):
            raise error
        self._note_failure(path, error)
        return DENIED if error.code is Code.PERMISSION_DENIED else RETRY

    def _note_failure(self, path: str, error: Error) -> None:
        """Log the first failure of a watch; when the registry is away, that of the first watch only."""
        self.outages += error.code is Code.UNAVAILABLE and path not in self._failing
        told = path in self._failing or (error.code is Code.UNAVAILABLE and error.code in self._failing.values())
        self._failing[path] = error.code
        if not told:
            log.warning("watching %s: %s Trying again; what is known stays.", path, error.message)

    def _note_success(self, path: str) -> None:
        if self._failing.pop(path, None) is not None and not self._failing:
            log.info("the registry at %s answers again", self.settings.address)


class _Client(aio.Consul):
    """py-consul's client with a bounded pool of our own, and no token but the one given."""

    def __init__(self, settings: RegistrySettings, connections: int, *, retry: bool) -> None:
        self._settings = settings
        self._connections = connections
        self._retry = retry
        super().__init__(
            host=settings.host,
            port=settings.port,
            scheme=settings.scheme,
            dc=settings.datacenter or None,
            verify=settings.verify,
        )
        self.token = settings.token or None  # py-consul lets CONSUL_HTTP_TOKEN win over its argument

    def http_connect(self, host: str, port: int, scheme: str, verify: object = True, cert: object = None) -> Any:
        return _Http(self._settings, self._connections, retry=self._retry)


class _Http(aio.HTTPClient):
    """py-consul's HTTP on a session without a total timeout, and with TLS only where it is used."""

    def __init__(self, settings: RegistrySettings, connections: int, *, retry: bool) -> None:
        base.HTTPClient.__init__(self, settings.host, settings.port, settings.scheme)
        self.base_uri = settings.address
        context = _tls(settings) if settings.scheme == "https" else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.call_timeout_seconds),
        )
        # A lost connection must be seen by a watch: aiohttp would send the query again with its old index, which a
        # restarted registry, counting from 1, holds until the wait ends.
        self._session._retry_connection = retry


def _tls(settings: RegistrySettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    if not settings.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file or None)
    return context


def _key(key: str) -> str:
    """A key that arrives as it is: Consul redirects paths with such parts to others without them."""
    if any(part in ("", ".", "..") for part in key.removesuffix("/").split("/")):
        raise invalid(f"{key!r} cannot be a key: each part between slashes needs a name, other than . and ..")
    return key


def _name(service: str) -> str:
    if not service:
        raise invalid("the service name is missing")
    return service
