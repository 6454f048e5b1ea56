"""What the processes of this host know: the registry its instances and faults, the launcher its processes, the sidecar
and the gateway their clients, policies and findings. Each may be away; then what it knows is, too.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp

from console import feeds
from mesh import ask, faults
from mesh.errors import Error
from mesh.explain.show import as_json
from mesh.findings.show import as_json as findings_json
from mesh.registry import MESH_TAG
from mesh.up import client, show

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from console.topology import Place
    from mesh.paths import Paths
    from mesh.registry import Instance, Registry

_AT_ONCE = 8
"""How many services the registry is asked about at a time."""
_PATIENCE_SECONDS = 3.0
"""How long a part of the picture is waited for: the rest of it is worth showing."""
_FEEDS = ("sidecar", "gateway")
"""Jobs of the processes that serve xDS."""


class MeshView:
    """Asks them; nothing is kept. `registry` is None where none is known."""

    def __init__(self, paths: Paths, registry: Registry | None) -> None:
        self._paths = paths
        self._registry = registry

    async def places(self) -> tuple[dict[str, list[Place]], dict[str, Place]]:
        """Instances by service, and local processes by name; empty where nobody knows of any."""
        instances, processes = await asyncio.gather(_or(self._instances, {}), _or(self._processes, []))
        local = {one["address"]: one for one in processes}
        services = {name: [_place(one, local) for one in found] for name, found in instances.items()}
        return services, {one["name"]: _process_place(one) for one in processes}

    async def explanation(self, service: str) -> dict[str, Any] | None:
        """What `mesh explain SERVICE --output json` says; None when no sidecar can say it."""
        try:
            return json.loads(as_json(await ask.explanation(self._paths, service, "")))  # type: ignore[no-any-return]
        except Error:
            return None

    async def doubt(self, service: str) -> str:
        """Why there is no such service, as the sidecar says; empty where there is, or no sidecar says anything."""
        return await _or(partial(ask.doubt, self._paths, service), "")  # type: ignore[no-any-return]

    async def state(self) -> dict[str, Any]:
        """Processes, who serves xDS, its clients' subscriptions, findings and faults; a part that is away is null."""
        parts = {
            "processes": self._processes, "feeds": self._feeds, "subscriptions": self._subscriptions,
            "findings": self._findings, "faults": self._faults,
        }  # fmt: skip
        found = await asyncio.gather(*(_or(part, None) for part in parts.values()))
        return dict(zip(parts, found, strict=True))

    async def _instances(self) -> dict[str, tuple[Instance, ...]]:
        registry, turns = self._registry, asyncio.Semaphore(_AT_ONCE)
        if registry is None:
            return {}

        async def one(name: str) -> tuple[Instance, ...]:
            async with turns:
                return await registry.instances(name)

        names = sorted(name for name, tags in (await registry.services()).items() if MESH_TAG in tags)
        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    async def _processes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(show.process_json(await client.processes(self._paths)))
        return found

    async def _subscriptions(self) -> list[dict[str, Any]]:
        found = show.process_json((), await client.subscriptions(self._paths))
        return json.loads(found)["subscriptions"]  # type: ignore[no-any-return]

    async def _feeds(self) -> list[dict[str, Any]]:
        files = await asyncio.to_thread(_read, sorted(self._paths.run.glob("targets-*.json")))
        listed = [found for text in files for found in feeds.addresses(json.loads(text), _FEEDS)]
        async with aiohttp.ClientSession() as session:
            texts = await asyncio.gather(*(_metrics(session, address) for _, address in listed))
        return [feeds.feed(job, text) for (job, _), text in zip(listed, texts, strict=True) if text]

    async def _findings(self) -> Any:
        return json.loads(findings_json(await ask.findings(self._paths)))

    async def _faults(self) -> list[dict[str, Any]] | None:
        if self._registry is None:
            return None
        found, _ = await faults.held(self._registry)
        return [
            {
                "service": one.service, "path": one.path, "abort": one.abort.name if one.abort else None,
                "delay_seconds": one.delay_seconds, "percent": one.percent, "until": int(one.until.timestamp() * 1000),
            }
            for one in found
        ]  # fmt: skip


def _read(files: Iterable[Path]) -> list[str]:
    """What is in files; one that has just gone is left out."""
    found = []
    for file in files:
        with suppress(FileNotFoundError):
            found.append(file.read_text())
    return found


async def _metrics(session: aiohttp.ClientSession, address: str) -> str:
    """What a process says of itself; nothing when it has gone."""
    try:
        async with session.get(f"http://{address}/metrics") as answer:
            return await answer.text()
    except aiohttp.ClientError:
        return ""


async def _or(asked: Callable[[], Awaitable[Any]], nothing: Any) -> Any:
    """The answer, or `nothing` when nobody gives one in time."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await asked()
    except (Error, TimeoutError):
        return nothing


def _place(instance: Instance, local: dict[str, dict[str, Any]]) -> Place:
    """With what the launcher knows of it, if it is one of its processes by address."""
    address = f"{instance.address}:{instance.port}"
    process = local.get(address, {})
    return {
        "id": instance.id,
        "address": address,
        "zone": instance.meta.get("zone", ""),
        "version": instance.meta.get("version", ""),
        "health": instance.health.value,
        "note": process.get("note") or instance.output[:500],
        "restarts": process.get("restarts"),
    }


_HEALTH = {"ready": "passing", "draining": "warning"}


def _process_place(process: dict[str, Any]) -> Place:
    return {
        "id": process["name"],
        "address": process["address"],
        "zone": "",
        "version": "",
        "health": _HEALTH.get(process["state"], "critical"),
        "note": process.get("note", ""),
        "restarts": process["restarts"],
    }
