"""Whether Envoy leads calls to the services of a stack yet, as its admin interface says: it learns of them by xDS.

https://www.envoyproxy.io/docs/envoy/latest/operations/admin
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mesh.up import probes

PATIENCE_SECONDS: Final = 3.0
"""How long a start waits for routes: a service without a contract has none, nor one that an operator has led away."""

_CLUSTERS: Final = "/clusters?format=json"
_ROUTES: Final = "/config_dump?resource=dynamic_route_configs"


async def routed(admin: Path, services: Collection[str]) -> bool:
    """Wait until each service has an instance that some route leads to, but not for long; whether that is so."""

    async def look() -> bool:
        return set(services) <= await asyncio.to_thread(_reached, admin)

    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await probes.until(look)
            return True
    return False


def _reached(admin: Path) -> set[str]:
    """Services that Envoy would call; none when it does not answer."""
    from gateway.admin import read

    with suppress(OSError, ValueError, http.client.HTTPException):
        found = ends(json.loads(read(admin, _ROUTES))), filled(json.loads(read(admin, _CLUSTERS)))
        return set.intersection(*({cluster.partition(":")[0] for cluster in clusters} for clusters in found))
    return set()


def ends(found: Any) -> Iterator[str]:
    """Every cluster that is named in a dump of Envoy's routes: by itself, or as one of several with weights."""
    if isinstance(found, list):
        for each in found:
            yield from ends(each)
    elif isinstance(found, dict):
        action = found.get("route", {})
        if "cluster" in action:
            yield action["cluster"]
        yield from (share["name"] for share in action.get("weighted_clusters", {}).get("clusters", ()))
        for each in found.values():
            yield from ends(each)


def filled(found: Any) -> Iterator[str]:
    """Every cluster that has a healthy instance."""
    for cluster in found.get("cluster_statuses", ()):
        healths = [host["health_status"] for host in cluster.get("host_statuses", ())]
        if any(health == {"eds_health_status": "HEALTHY"} for health in healths):
            yield cluster["name"]
