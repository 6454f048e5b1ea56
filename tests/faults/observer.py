"""What clients hold: an xDS client of the sidecar that keeps score, and Envoy's own account of itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from mesh.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE


@dataclass
class XdsClient:
    """Follows one service as a gRPC client does: it reconnects, and says then which versions it holds."""

    service: str
    held: dict[str, str] = field(default_factory=dict)
    """Version by type."""

    addresses: frozenset[str] = frozenset()
    pushes: int = 0
    streams: int = 0
    """Streams on which the sidecar has answered or taken what is held."""

    async def follow(self, socket: Path) -> None:
        """Until cancelled."""
        options = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200))
        async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
            while True:
                with suppress(grpc.aio.AioRpcError):
                    await self._stream(AggregatedDiscoveryServiceStub(channel))
                await asyncio.sleep(0.05)

    async def _stream(self, stub: AggregatedDiscoveryServiceStub) -> None:
        call = stub.StreamAggregatedResources(wait_for_ready=True)
        for type_url in (LISTENER, ROUTE, CLUSTER, ENDPOINT):
            await call.write(self._request(type_url))
        self.streams += 1
        async for response in call:
            self._take(response)
            await call.write(self._request(response.type_url, response.nonce))

    def _request(self, type_url: str, nonce: str = "") -> DiscoveryRequest:
        request = DiscoveryRequest(
            type_url=type_url, version_info=self.held.get(type_url, ""), response_nonce=nonce,
            resource_names=[self.service],
        )
        request.node.id = "observer"
        request.node.user_agent_name, request.node.user_agent_version = "gRPC C-core linux Python", grpc.__version__
        return request

    def _take(self, response: DiscoveryResponse) -> None:
        self.pushes += 1
        self.held[response.type_url] = response.version_info
        for resource in response.resources:
            if response.type_url == ENDPOINT:
                found = ClusterLoadAssignment.FromString(resource.value)
                self.addresses = frozenset(_address(e) for zone in found.endpoints for e in zone.lb_endpoints)


def _address(endpoint: Any) -> str:
    address = endpoint.endpoint.address.socket_address
    return f"{address.address}:{address.port_value}"


@dataclass
class Envoy:
    """The admin interface of the edge."""

    session: aiohttp.ClientSession

    async def addresses(self, cluster: str) -> frozenset[str]:
        """Where it sends calls for a service."""
        found = await self._ask("clusters?format=json")
        hosts = [h for c in found["cluster_statuses"] if c["name"] == cluster for h in c.get("host_statuses", [])]
        addresses = [host["address"]["socket_address"] for host in hosts]
        return frozenset(f"{address['address']}:{address['port_value']}" for address in addresses)

    async def pushes(self) -> dict[str, int]:
        """How often it has taken something new, by what it was."""
        found = await self._ask("stats?format=json&filter=update_success")
        return {stat["name"]: stat["value"] for stat in found["stats"] if "name" in stat}

    async def retries(self) -> dict[str, int]:
        """What it counted of the calls to order that were sent again, and of the connections that they waited for."""
        names = "rq_(retry|per_try|timeout)|cx_connect_timeout"
        found = await self._ask(f"stats?format=json&filter=cluster.order.upstream_({names})")
        return {stat["name"]: stat["value"] for stat in found["stats"] if "name" in stat}

    async def _ask(self, path: str) -> Any:
        try:
            async with self.session.get(f"http://envoy/{path}") as answer:
                return json.loads(await answer.read())
        except (aiohttp.ClientError, OSError):
            return {"cluster_statuses": [], "stats": []}


@asynccontextmanager
async def envoy(socket: Path) -> AsyncIterator[Envoy]:
    """An Envoy's account, by its admin socket."""
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket), force_close=True)) as session:
        yield Envoy(session)
