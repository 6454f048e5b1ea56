"""xDS that says one thing: a service on given ports, balanced in a given way, for a client of this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster, LoadBalancingPolicy
from envoy.service.discovery.v3.ads_pb2_grpc import add_AggregatedDiscoveryServiceServicer_to_server

from mesh.catalog import Service
from mesh.contract import Contract
from mesh.latest import Latest
from mesh.policy import compiled
from mesh.registry.model import Instance
from mesh.xds.dialect import CORE, Dialect
from mesh.xds.resources import Peer, proxyless
from mesh.xds.server import AdsServicer
from mesh.xds.snapshot import Snapshot, pack, snapshot


def balanced(service: str, ports: Sequence[int], policy: LoadBalancingPolicy | None = None) -> Snapshot:
    """The service with these instances on this host; with no policy, by round_robin."""
    instances = tuple(Instance(service=service, id=str(port), address="127.0.0.1", port=port) for port in ports)
    peer = Peer(Service(name=service, instances=instances, registered=True), compiled(service, Contract()))
    messages = proxyless(service, {service: peer}, CORE)
    for message in messages:
        if policy and isinstance(message, Cluster):
            message.load_balancing_policy.CopyFrom(policy)
    return snapshot(map(pack, messages))


class Fixed:
    """A source of one snapshot."""

    def __init__(self, made: Snapshot) -> None:
        self._made = Latest(made)

    def want(self, who: object, names: Iterable[str]) -> None:
        """All is there already."""

    def snapshot(self, dialect: Dialect, zone: str = "") -> Snapshot:
        """The snapshot."""
        return self._made.value

    def changes(self) -> AsyncIterator[object]:
        """Once."""
        return self._made.changes()


@asynccontextmanager
async def told(made: Snapshot, socket: Path) -> AsyncIterator[str]:
    """A bootstrap that names a server of this snapshot."""
    server = grpc.aio.server()
    add_AggregatedDiscoveryServiceServicer_to_server(AdsServicer(Fixed(made)), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    uri = {"server_uri": f"unix:{socket}", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
    yield json.dumps({"xds_servers": [uri], "node": {"id": "bench", "locality": {"zone": ""}}})
    await server.stop(0)
