"""A sidecar with much to follow: `nox -s bench -- scale`.

1,000 services with 10 instances each, 100 clients that are each subscribed to 100 of them. One instance leaves or
comes back, again and again, each time until every client that uses its service has been told; then all services change
at once. The registry is a table in the sidecar's process, so that this measures the sidecar alone. All instances demand
mutual TLS, as is the default, so that each cluster says how and whom to trust; `-- scale plaintext` is without.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.ads_pb2_grpc import (
    AggregatedDiscoveryServiceStub,
    add_AggregatedDiscoveryServiceServicer_to_server,
)
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from bench import parts
from bench.figures import milliseconds, quantile
from mesh.catalog_watcher import CatalogWatcher
from mesh.latest import Latest
from mesh.recovery import now
from mesh.registry.model import EMPTY, Instance
from mesh.scope import Scope
from mesh.xds.proxyless import ProxylessSource
from mesh.xds.resources import unproven
from mesh.xds.server import AdsServicer
from mesh.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE

SERVICES, INSTANCES, CLIENTS, EACH = 1000, 10, 100, 100
PLAINTEXT = "plaintext"
CHANGES = 60
TYPES = (CLUSTER, ENDPOINT, LISTENER, ROUTE)


class Table:
    """A registry whose content is made up, as far as a catalog asks it."""

    outages = 0

    def __init__(self, meta: Mapping[str, str]) -> None:
        self._meta = meta
        self.services = {f"service-{i}": Latest(_instances(i, meta)) for i in range(SERVICES)}

    def watch_instances(self, service: str) -> AsyncIterator[tuple[Instance, ...]]:
        """The instances, again at each change."""
        return self.services[service].changes()

    def watch_prefix(self, prefix: str) -> AsyncIterator[Mapping[str, bytes]]:
        """No keys."""
        return Latest[Mapping[str, bytes]]({}).changes()

    def __getattr__(self, name: str) -> Any:
        """Nothing else is asked for, but the newer parts of a catalog may follow tables that are empty here."""
        if name == "watch_config_entries":
            return lambda kind: Latest[tuple[Any, ...]](()).changes()
        raise AttributeError(name)

    def toggle(self, service: str) -> None:
        """Take the last instance of a service away, or put it back."""
        made = _instances(int(service.rpartition("-")[2]), self._meta)
        found = self.services[service]
        found.set(made if len(found.value) < len(made) else made[:-1])


def _instances(number: int, meta: Mapping[str, str]) -> tuple[Instance, ...]:
    addresses = (f"10.{number // 250}.{number % 250}.{i + 1}" for i in range(INSTANCES))
    return tuple(
        Instance(service=f"service-{number}", id=f"{number}-{i}", address=address, port=1, meta=meta)
        for i, address in enumerate(addresses)
    )


def _spiffe_id(service: str) -> str:
    return f"spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/{service}"


async def serve(socket: str, *, mtls: bool) -> None:
    """The sidecar's part; each line of the input names a service to change, or `*` for all."""
    table = Table(parts.SECURED if mtls else EMPTY)
    server = grpc.aio.server()
    registry: Any = table
    async with CatalogWatcher(registry, hold_seconds=0) as catalog:
        source = ProxylessSource(catalog, spiffe_id=_spiffe_id if mtls else unproven)
        add_AggregatedDiscoveryServiceServicer_to_server(AdsServicer(source), server)
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        print("ready", flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            began = now()
            for service in table.services if line == "*" else [line]:
                table.toggle(service)
            print(json.dumps(began), flush=True)
        await server.stop(0)


@dataclass
class Client:
    """A client that takes all it is sent, and says when it was told of a service."""

    names: frozenset[str]
    told: dict[str, float] = field(default_factory=dict)
    responses: int = 0
    count: Latest[int] = field(default_factory=lambda: Latest(0))

    async def run(self, channel: grpc.aio.Channel) -> None:
        """Until cancelled."""
        call = AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources()
        node = Node(id="bench", user_agent_name="gRPC C-core")
        for type_url in TYPES:
            await call.write(DiscoveryRequest(node=node, type_url=type_url, resource_names=self.names))
        async for response in call:
            ack = DiscoveryRequest(
                type_url=response.type_url, resource_names=self.names, version_info=response.version_info,
                response_nonce=response.nonce,
            )  # fmt: skip
            await call.write(ack)
            self.responses += 1
            if response.type_url == ENDPOINT:
                self.told |= dict.fromkeys((_name_of(each.value) for each in response.resources), now())
                self.count.set(self.count.value + 1)

    async def until_told(self, names: frozenset[str], after: float) -> None:
        """Until the client was told of these services at a moment after another."""
        async for _ in self.count.changes():
            if all(self.told.get(name, 0.0) > after for name in names):
                return


def _name_of(assignment: bytes) -> str:
    """The first field of a ClusterLoadAssignment, which is not worth parsing as a whole here."""
    return assignment[2 : 2 + assignment[1]].decode()


async def main(*, mtls: bool) -> None:
    """Measure and print."""
    print(f"mutual TLS: {'on' if mtls else 'off'}")
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
        socket, pipe = str(Path(folder) / "s"), asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.scale", socket, *([] if mtls else [PLAINTEXT]), stdin=pipe, stdout=pipe
        )
        assert process.stdin
        assert process.stdout
        await process.stdout.readline()
        try:
            async with asyncio.timeout(100), Scope() as scope, AsyncExitStack() as stack:
                chosen = (chance.sample(range(SERVICES), EACH) for _ in range(CLIENTS))
                clients = [Client(frozenset(f"service-{i}" for i in numbers)) for numbers in chosen]
                bench = Bench(process, clients)
                for number, client in enumerate(clients):
                    option = [("number", number)]  # so that no two share a connection
                    channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"unix:{socket}", option))
                    scope.start(client.run(channel))
                await bench.run(chance)
        finally:
            process.kill()
            await process.wait()


@dataclass
class Bench:
    """The sidecar's process and its clients."""

    process: asyncio.subprocess.Process
    clients: list[Client]

    async def run(self, chance: random.Random) -> None:
        """All measurements, printed."""
        began, cpu = now(), parts.cpu_seconds(self.process.pid)
        await asyncio.gather(*(client.until_told(client.names, 0.0) for client in self.clients))
        self._say("all clients hold all", now() - began, cpu)
        users = defaultdict[str, list[Client]](list)
        for client in self.clients:
            for name in client.names:
                users[name].append(client)
        cpu, taken = parts.cpu_seconds(self.process.pid), []
        before = sum(client.responses for client in self.clients)
        for _ in range(CHANGES):
            taken += await self._change(chance.choice(list(users)), users)
        self._say("one change at a time", sum(taken) / len(taken), cpu, per=CHANGES)
        sent = sum(client.responses for client in self.clients) - before
        p50, p99 = (milliseconds(quantile(taken, share)) for share in (0.5, 0.99))
        print(f"  until a client has taken it: p50 {p50}, p99 {p99}; {sent / len(taken):.2f} responses to each of them")
        cpu, before = parts.cpu_seconds(self.process.pid), sum(client.responses for client in self.clients)
        began = await self._ask("*")
        await asyncio.gather(*(client.until_told(client.names, began) for client in self.clients))
        self._say(f"{len(users)} changes at once", now() - began, cpu)
        sent = sum(client.responses for client in self.clients) - before
        print(f"  {sent / CLIENTS:.1f} responses to each client")
        print(f"memory of the sidecar: {parts.memory_mib(self.process.pid):.0f} MiB")

    async def _change(self, name: str, users: Mapping[str, list[Client]]) -> list[float]:
        began = await self._ask(name)
        await asyncio.gather(*(client.until_told(frozenset([name]), began) for client in users[name]))
        return [client.told[name] - began for client in users[name]]

    async def _ask(self, line: str) -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{line}\n".encode())
        return float(await self.process.stdout.readline())

    def _say(self, what: str, seconds: float, cpu: float, per: int = 1) -> None:
        used = (parts.cpu_seconds(self.process.pid) - cpu) / per
        print(f"{what}: {milliseconds(seconds)}, {milliseconds(used)} of CPU")


if __name__ == "__main__":
    said = sys.argv[1:]
    secured, sockets = PLAINTEXT not in said, [word for word in said if word != PLAINTEXT]
    asyncio.run(serve(sockets[0], mtls=secured) if sockets else main(mtls=secured))
