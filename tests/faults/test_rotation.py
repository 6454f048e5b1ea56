"""Certificates are renewed and the authority changes its root under 200 calls a second, and no call fails."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections import Counter, deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import mesh
from mesh import identity_files
from mesh.ports import free_port
from mesh.registry.dev import certificates
from mesh.scope import Scope
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.faults.conftest import RATE, started
from tests.faults.test_changes import served_by
from tests.fixtures.secured import SecuredHost, secured_host
from tests.fixtures.shop import shop_descriptors
from tests.integration.gateway.harness import Edge
from tests.integration.test_identity import configure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fixtures.consul import RegistryProcess

pytestmark = pytest.mark.timeout(180)

LEAF_SECONDS = 18
"""A leaf is renewed after 12.6 s."""

LEAVES = 2
"""Of each service, by renewal alone, where leaves are short-lived; then comes one with a new root."""


async def test_no_call_fails_while_leaves_and_the_root_are_replaced(
    own_registry: RegistryProcess, short_tmp: Path, tmp_path: Path
) -> None:
    """On connections that are made all the time, as a TLS connection that is there outlives its certificate."""
    leaves = LEAVES if short_lived(own_registry) else 0
    edge = Edge(tmp_path, own_registry.address, {"MESH_MTLS": "true"})
    try:
        async with secured_host(short_tmp, own_registry.address) as made, Scope() as scope:
            handshakes: Counter[str] = Counter()
            scope.start(come_and_go(made, handshakes))
            await asyncio.to_thread(edge.start)
            await served_by(edge, "order")
            environ = {**os.environ, "GRPC_XDS_BOOTSTRAP": str(made.plain.bootstrap)}
            async with started(environ, "tests.faults.shop_load", str(edge.port), "order", str(RATE)) as load:
                following = scope.start(load.read())
                await load.more(RATE)
                for _ in range(leaves):
                    await renewed(held(made, edge))
                before = held(made, edge)
                await asyncio.to_thread(configure, own_registry, replaced_root())
                await renewed(before)
                await load.more(2 * RATE)
                await load.end()
                following.cancel()
            print(load.totals.value, handshakes)
            assert Counter((failure["path"], failure["error"]) for failure in load.failures) == {}
            assert handshakes["instances"] > leaves
            roots = identity_files.read(identity_files.folder_of(made.identities, "order")).roots
            assert roots.count("BEGIN") == 2
    finally:
        await asyncio.to_thread(edge.stop)


def short_lived(registry: RegistryProcess) -> bool:
    """Whether leaves last a few seconds from now on, which no request may ask for: Consul's take an hour."""
    if registry.name == "consul":
        return False
    registry.stop()
    data = Path(registry.command[registry.command.index("--data") + 1])
    (file,) = (data / "authority").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "LeafSeconds": LEAF_SECONDS}))
    registry.start()
    return True


def replaced_root() -> dict[str, Any]:
    """What makes another root, and leaves as long as Consul's shortest."""
    return {"Provider": "consul", "Config": {"PrivateKey": certificates.new_key(), "LeafCertTTL": "1h"}}


def held(made: SecuredHost, edge: Edge) -> dict[Path, str]:
    """Everybody's certificate, by the folder that it is in."""
    folders = [identity_files.folder_of(made.identities, name) for name in ("mesh", "order")]
    folders.append(identity_files.folder_of(edge.paths.identities, "gateway"))
    return {folder: identity_files.read(folder).certificate for folder in folders}


async def renewed(before: Mapping[Path, str]) -> None:
    """Until everybody has another certificate."""
    async with asyncio.timeout(60):
        for folder, certificate in before.items():
            while identity_files.read(folder).certificate == certificate:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def come_and_go(made: SecuredHost, handshakes: Counter[str]) -> None:
    """Keep two instances of `order`; the older one leaves when the next has come."""
    living = deque([Instance(made)])
    try:
        await living[0].start()
        while True:
            living.append(Instance(made))
            await living[-1].start()
            await living[0].leave()
            living.popleft()
            handshakes["instances"] += 1
    finally:
        for instance in living:
            await instance.end()


class Instance:
    """A server that is on the mesh."""

    def __init__(self, made: SecuredHost) -> None:
        self.call: Any = made.plain.stub.Attach()
        port = free_port()
        self.workload = pb.Workload(
            service="order", id=f"order-{uuid.uuid4().hex[:6]}", address="127.0.0.1", port=port,
            meta={"tls": "mutual"}, descriptors=shop_descriptors(),
        )  # fmt: skip
        made.plain.instances.add(self.workload.id)
        self.serving = AsyncExitStack()
        self.server = mesh.server(made.settings("order", port=port))
        handler: Any = grpc.unary_unary_rpc_method_handler(answer)
        self.server.add_registered_method_handlers("shop.v1.Shop", {"Get": handler, "Buy": handler})

    async def start(self) -> None:
        """Start it, and wait until it is called."""
        await self.call.write(pb.AttachRequest(workload=self.workload))
        await self.serving.enter_async_context(self.server)
        await self.server.start()
        await self.until(pb.AttachResponse.STATE_SERVING)

    async def until(self, state: pb.AttachResponse.State.ValueType) -> None:
        """Until its sidecar says so."""
        while (await self.call.read()).state != state:
            pass

    async def leave(self) -> None:
        """Leave the mesh, and stop when nobody calls any more."""
        await self.call.write(pb.AttachRequest(leave=pb.Leave()))
        await self.until(pb.AttachResponse.STATE_LEFT)
        await self.server.stop(10)
        await self.serving.aclose()

    async def end(self) -> None:
        """Gone at once."""
        self.call.cancel()
        await self.server.stop(0)
        await self.serving.aclose()


async def answer(request: bytes, context: Any) -> bytes:
    """Nothing but an answer."""
    return b""
