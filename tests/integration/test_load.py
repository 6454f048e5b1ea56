"""What a server says of its load, and what a real gRPC client does with it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from base64 import b64decode
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from opentelemetry.trace import SpanKind
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

import mesh
from bench import ads
from mesh.load import REPORT_KEY, WINDOW_SECONDS
from mesh.policy import Balancing
from mesh.recovery import now
from mesh.xds.balancing import weighted_round_robin
from mesh.xds.snapshot import CLUSTER, LISTENER, ROUTE
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceServicer, add_OrderServiceServicer_to_server
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.ads import AdsClient
from tests.fixtures.callers import named_descriptors
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.echo import bare, path, served, unary_unary
from tests.fixtures.shop import BOOTSTRAP_OPTION, BUY, GET, Host, host, joined, shop_descriptors
from tests.fixtures.spans import Spans

WAIT_SECONDS = 30.0


async def answer(request: bytes, context: Any) -> bytes:
    context.set_trailing_metadata((("mine", "kept"),))
    return request


async def fail(request: bytes, context: Any) -> bytes:
    raise mesh.Error(mesh.Code.NOT_FOUND, "no", reason="NO")


async def test_every_call_tells_the_load_in_its_trailer(tmp_path: Path) -> None:
    """Asked with gRPC-Go, as C-core keeps the report to itself."""
    protoset = tmp_path / "shop.binpb"
    protoset.write_bytes(named_descriptors())
    service, _, _ = GET.strip("/").partition("/")
    async with mesh.server(mesh.Settings(max_concurrent_calls=10)) as server:
        server.add_registered_method_handlers(service, {"Get": unary_unary(answer), "Buy": unary_unary(fail)})
        await server.start()
        async with bare(server) as channel:
            end = now() + 2 * WINDOW_SECONDS
            while now() < end:
                await channel.unary_unary(GET)(b"")
        got, bought = [await grpcurl(server, protoset, path) for path in (GET, BUY)]
    assert "mine: kept" in got
    assert "NotFound" in bought
    for said in (got, bought):
        report = OrcaLoadReport.FromString(b64decode(re.findall(rf"{REPORT_KEY}: (\S+)", said)[0] + "=="))
        assert report.rps_fractional > 0
        assert 0 < report.application_utilization <= 0.1
        assert report.eps == 0


async def grpcurl(server: mesh.Server, protoset: Path, path: str) -> str:
    """All that a call says, metadata included."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("grpcurl"), "-v", "-plaintext", "-max-time", f"{WAIT_SECONDS:g}",
        "-protoset", str(protoset), "-d", "{}", server.address, path[1:],
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode()


async def test_a_client_waits_as_long_as_a_full_server_asks(
    dev_registry: RegistryProcess, short_tmp: Path, service: str, spans: Spans
) -> None:
    """And is served then. By xDS its policy has it try again at once, and the server wants that to be later."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        begun.set()
        await go_on.wait()
        return request

    own, _, method = GET.strip("/").partition("/")
    config = {"methodConfig": [{"name": [{"service": own, "method": method}], "timeout": "30s", "retryPolicy": {
        "maxAttempts": 2, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
    }}]}  # fmt: skip
    async with (
        asyncio.timeout(WAIT_SECONDS),
        host(short_tmp, dev_registry.address, mtls=False) as made,
        mesh.server(mesh.Settings(host="127.0.0.1", max_concurrent_calls=1)) as server,
    ):
        server.add_registered_method_handlers(own, {method: unary_unary(wait)})
        await server.start()
        stream = await joined(made, pb.Workload(
            service=service, id=service, address="127.0.0.1", port=server.port, descriptors=shop_descriptors(),
            service_config=json.dumps(config),
        ))  # fmt: skip
        channel: Any = await made.channel(f"xds:///{service}")
        async with bare(server) as filling:
            first = filling.unary_unary(GET)(b"")
            await begun.wait()
            asked = now()
            again = channel.unary_unary(GET)(b"served")
            refused = await spans.next(SpanKind.SERVER)
            go_on.set()
            await first
        assert await again == b"served"
        waited = now() - asked
        stream.cancel()
    assert (refused.attributes or {})["rpc.response.status_code"] == "RESOURCE_EXHAUSTED"
    assert waited >= 0.9, "two attempts, with a second between them"


async def test_servers_that_tell_their_load_are_balanced_by_it(
    dev_registry: RegistryProcess, short_tmp: Path, service: str
) -> None:
    """What tells it when asked is balanced so, and what was put on the mesh with that said; others go round."""
    servicer: Any = OrderServiceServicer
    async with (
        asyncio.timeout(WAIT_SECONDS),
        host(short_tmp, dev_registry.address, mtls=False) as made,
        mesh.server(mesh.Settings(host="127.0.0.1")) as server,
    ):
        add_OrderServiceServicer_to_server(servicer(), server)
        await server.start()
        told = pb.Workload(service=f"{service}-told", id=service, address="127.0.0.1", port=server.port)
        call = await joined(made, told)
        await made.shop(f"{service}-said", meta={"load": "orca"})
        await made.shop(f"{service}-plain")
        found = {name: await policies_of_cluster(made, f"{service}-{name}") for name in ("told", "said", "plain")}
        call.cancel()
    weights = ["envoy.load_balancing_policies.wrr_locality"]
    assert found == {"told": weights, "said": weights, "plain": []}


async def policies_of_cluster(made: Host, service: str) -> list[str]:
    """What a client is told to balance by."""
    client = AdsClient(node=service)
    async with client.connected(made.socket):
        for type_url in (LISTENER, ROUTE, CLUSTER):
            await client.ask(type_url, service)
            response = await client.take()
        (resource,) = response.resources
        cluster = Cluster.FromString(resource.value)
    return [policy.typed_extension_config.name for policy in cluster.load_balancing_policy.policies]


async def test_a_slow_instance_gets_less_of_the_work(short_tmp: Path) -> None:
    calls: Counter[int] = Counter()

    async def instance(stack: AsyncExitStack, number: int, seconds: float) -> mesh.Server:
        async def work(request: bytes, context: Any) -> bytes:
            calls[number] += 1
            await asyncio.sleep(seconds)
            return b""

        return await stack.enter_async_context(served({"It": unary_unary(work)}, host="127.0.0.1"))

    async with asyncio.timeout(WAIT_SECONDS), AsyncExitStack() as stack:
        servers = [await instance(stack, number, seconds) for number, seconds in enumerate([0.001, 0.001, 0.1])]
        policy = weighted_round_robin(Balancing(blackout_seconds=0.1, weight_update_seconds=0.1))
        made = ads.balanced("echo", [server.port for server in servers], policy)
        bootstrap = await stack.enter_async_context(ads.told(made, short_tmp / "ads"))
        options = [(BOOTSTRAP_OPTION, bootstrap)]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel("xds:///echo", options))
        call: Any = channel.unary_unary(path("It"))
        for slow_share in (range(15, 25), range(7)):  # as much as the others, until they have reported
            calls[2] = -1
            while calls[2] not in slow_share:
                calls.clear()
                await asyncio.gather(*(call(b"", timeout=20) for _ in range(60)))
