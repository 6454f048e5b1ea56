"""Deadlines that Envoy keeps: its own timer is never early, and a service is told of no more than the deadline.

The whole configuration of the edge in a real Envoy, in front of a listener that writes down what it is told and never
answers. It takes HTTP/1.1, so that it reads the headers as they are.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.settings import EdgeSettings
from gateway.source import EdgeSource
from mesh.catalog import Catalog, Service
from mesh.contract import Contract
from mesh.ports import free_port
from mesh.recovery import now
from mesh.registry.model import Instance
from mesh.xds.dialect import ENVOY
from tests.golden.test_gateway import SOCKETS, static
from tests.integration.gateway.harness import ENVOY as BINARY
from tests.integration.gateway.harness import Process
from tests.unit.gateway.contracts import contract_of

pytestmark = pytest.mark.timeout(60)

GET, WATCH, REST = "POST /order.Api/GetOrder", "POST /order.Api/WatchOrder", "GET /v1/orders/1"
CONFIG = {"methodConfig": [{"name": [{"service": "order.Api", "method": "GetOrder"}], "timeout": "0.2s"}]}
GRPC, WEB, JSON = "application/grpc", "application/grpc-web+proto", "application/json"


PAUSE_SECONDS = 0.05
"""So that Envoy is done with the connection, and a call comes in a turn of its own: no margin holds for a turn in which
others have Envoy's core."""


class Case(NamedTuple):
    """A call of a method with a limit of 200 ms, or of one without."""

    request: str
    content_type: str
    deadline: str
    """The caller's."""

    told: str
    """What the service is told."""

    seconds: float = 0
    """When Envoy ends it; 0 for never."""


CASES = [
    Case(GET, GRPC, "", "200m", 0.2),
    Case(GET, GRPC, "1S", "200m", 0.2),
    Case(GET, GRPC, "99999999H", "200m", 0.2),
    Case(GET, GRPC, "200m", "200m", 0.2),
    Case(GET, GRPC, "201m", "200m", 0.2),
    Case(GET, GRPC, "nonsense", "200m", 0.2),
    Case(GET, GRPC, "50m", "50m", 0.05),
    Case(GET, GRPC, "50000u", "50m", 0.05),
    Case(GET, GRPC, "49999999n", "50m", 0.05),
    Case(GET, GRPC, "20m", "20m", 0.02),
    Case(GET, WEB, "", "200m", 0.2),
    Case(GET, WEB, "9S", "200m", 0.2),
    Case(GET, WEB, "50m", "50m", 0.05),
    Case(GET, WEB, "nonsense", "200m", 0.2),
    Case(REST, JSON, "", "200m", 0.2),
    Case(REST, JSON, "50m", "50m", 0.05),
    Case(WATCH, GRPC, "", ""),
    Case(WATCH, GRPC, "50m", "50m", 0.05),
    Case(WATCH, GRPC, "9S", "9000m"),
    Case(WATCH, GRPC, "99999999u", "100000m"),
    Case(WATCH, GRPC, "99999S", "99999000m"),
    Case(WATCH, GRPC, "000099999S", "99999000m"),
    Case(WATCH, GRPC, "100000S", "100000S"),
    Case(WATCH, GRPC, "1M", "60000m"),
    Case(WATCH, GRPC, "1666M", "99960000m"),
    Case(WATCH, GRPC, "1667M", "100020S"),
    Case(WATCH, GRPC, "99999999M", "99999999M"),
    Case(WATCH, GRPC, "1H", "3600000m"),
    Case(WATCH, GRPC, "27H", "97200000m"),
    Case(WATCH, GRPC, "28H", "100800S"),
    Case(GET, GRPC, "1M", "200m", 0.2),
    Case(WATCH, WEB, "1M", "60000m"),
    Case(WATCH, GRPC, "99999989m", "99999989m"),
    Case(WATCH, GRPC, "99999999H", "99999999H"),
    Case(WATCH, GRPC, "nonsense", ""),
]


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[int, dict[str, str]]]:
    """An instance that hangs: its port, and the deadline that it was told of in each case."""
    told: dict[str, str] = {}

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
        told[headers["x-case"]] = headers.get("grpc-timeout", "")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], told


@asynccontextmanager
async def edge(folder: Path, instance_port: int) -> AsyncIterator[int]:
    """An Envoy with all that the edge has for one service: its port."""
    port, file = free_port(), folder / "envoy.json"
    file.write_text(json.dumps(configuration(port, instance_port)))
    process = Process([BINARY, "-c", str(file), "--disable-hot-restart", "--log-level", "warning"], folder / "log")
    process.start()
    try:
        yield port
    finally:
        process.kill()


def configuration(port: int, instance_port: int) -> dict[str, Any]:
    """The edge's own, except that it speaks HTTP/1.1 with the service."""
    contract = contract_of("order", GetOrder="GET /v1/orders/{id}", WatchOrder="")
    contract.files[-1].service[0].method[1].server_streaming = True
    instance = Instance(service="order", id="order-1", address="127.0.0.1", port=instance_port)
    published = Contract(contract.services, contract.files, json.dumps(CONFIG))
    source = EdgeSource(EdgeSettings(**SOCKETS, port=port))
    source.update(Catalog({"order": Service("order", (instance,), True, published)}))
    made = static(source.snapshot(ENVOY))
    for cluster in made["staticResources"]["clusters"]:
        if cluster["name"] == "order":
            del cluster["typedExtensionProtocolOptions"]
    return made


async def shortest(port: int, told: Mapping[str, str], number: int, case: Case) -> float:
    """How long Envoy left a call to an instance that hangs, at the least, in as many tries as it takes to arrive."""
    took = [math.inf]
    while str(number) not in told:
        took.append(await seconds(port, told, number, case))
    return min(took)


async def seconds(port: int, told: Mapping[str, str], number: int, case: Case) -> float:
    """How long Envoy leaves one call; for ever, if it does not end it."""
    reader, writer = await connected(port)
    await asyncio.sleep(PAUSE_SECONDS)
    method, _, path = case.request.partition(" ")
    body = b"" if method == "GET" else bytes(5)
    lines = [f"{method} {path} HTTP/1.1", "host: x", f"content-type: {case.content_type}",
             f"content-length: {len(body)}", f"x-case: {number}"]  # fmt: skip
    lines += [f"grpc-timeout: {case.deadline}"] if case.deadline else []
    begun = now()
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    try:
        while not case.seconds:
            await asyncio.sleep(0.01)
            if str(number) in told:
                return math.inf
        head = await reader.readuntil(b"\r\n\r\n")
        took = now() - begun
    finally:
        writer.close()
    assert b"grpc-status: 4" in head or head.startswith(b"HTTP/1.1 504 "), (case, head)
    return took


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which Envoy, once it is there, has answered."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
            continue
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b'{"status":"SERVING"}\n')
        return reader, writer


async def test_envoys_timer_is_never_early_and_a_service_is_told_of_no_more_than_the_deadline(tmp_path: Path) -> None:
    async with asyncio.timeout(50), silent() as (instance_port, told), edge(tmp_path, instance_port) as port:
        took = await asyncio.gather(*(shortest(port, told, number, case) for number, case in enumerate(CASES)))
    assert [Case(*case[:3], told[str(number)], case.seconds) for number, case in enumerate(CASES)] == CASES
    assert [(case, took) for case, took in zip(CASES, took, strict=True) if took < case.seconds] == []
