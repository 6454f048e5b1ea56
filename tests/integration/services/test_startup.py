"""Services that start before their Postgres: they live, say that they are not ready, and begin when it comes."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

import mesh
from mesh import Code
from mesh.bootstrap import bootstrap
from mesh.ports import free_port
from meshwright.order.v1.order_service_pb2 import ListOrdersRequest
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceStub
from meshwright.status.v1.status_pb2 import HEALTH_CRITICAL, HEALTH_PASSING
from meshwright.status.v1.status_service_pb2 import GetSystemStatusRequest, ListTaskResultsRequest
from meshwright.status.v1.status_service_pb2_grpc import StatusServiceStub
from services import database
from services.database import DatabaseSettings
from services.order.store import MIGRATIONS, SCHEMA
from services.settings import RedisSettings, ServiceSettings
from services.startup import Later, prepared
from tests.fixtures.services import refusal
from tests.fixtures.shop import until

if TYPE_CHECKING:
    from meshwright.status.v1.status_service_pb2_grpc import StatusServiceAsyncStub
    from tests.fixtures.stores import OwnPostgres

WAIT_SECONDS = 60.0
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def process(name: str, **environ: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the process of a service."""
    port = str(free_port())
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{name}", env=os.environ | environ | {"PORT": port, "METRICS_PORT": "0"}
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        child.terminate()
        await child.wait()


async def health(channel: grpc.aio.Channel, name: str = "") -> int:
    stub = HealthStub(channel)  # type: ignore[no-untyped-call] # in grpcio-health-checking itself
    answer = await stub.Check(HealthCheckRequest(service=name), wait_for_ready=True)
    return int(answer.status)


async def postgres(status: StatusServiceAsyncStub) -> int:
    """What the status says of it."""
    found = await status.GetSystemStatus(GetSystemStatusRequest())
    return next(part.health for part in found.components if part.name == "postgres")


async def test_services_that_start_before_their_postgres_wait_for_it(
    own_postgres: OwnPostgres, valkey_url: str, tmp_path: Path
) -> None:
    await own_postgres.stop()
    environ = {
        "DATABASE_URL": own_postgres.url, "REDIS_URL": valkey_url, "CONSUL_HTTP_ADDR": "http://127.0.0.1:1",
        "GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap(tmp_path / "nobody.sock", node_id="test"),
    }  # fmt: skip
    async with asyncio.timeout(WAIT_SECONDS), AsyncExitStack() as stack:
        order, status = [await stack.enter_async_context(process(name, **environ)) for name in ("order", "status")]
        assert await health(order, "meshwright.order.v1.OrderService") == SERVING, "it lives"
        assert await health(order) == NOT_SERVING
        orders, tasks = OrderServiceStub(order), StatusServiceStub(status)
        assert (await refusal(orders.ListOrders(ListOrdersRequest(), timeout=1))).code is Code.UNAVAILABLE
        assert await health(status) == SERVING
        assert await postgres(tasks) == HEALTH_CRITICAL

        await own_postgres.start()
        await until(lambda: ready(order))
        assert not (await orders.ListOrders(ListOrdersRequest())).orders
        assert await postgres(tasks) == HEALTH_PASSING
        await until(lambda: lists(tasks))


async def ready(channel: grpc.aio.Channel) -> bool:
    return await health(channel) == SERVING


async def lists(status: StatusServiceAsyncStub) -> bool:
    """Whether the schema is there."""
    try:
        await status.ListTaskResults(ListTaskResultsRequest())
    except grpc.aio.AioRpcError:
        return False
    return True


class Heard(logging.Handler):
    """The first line that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.line: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def emit(self, record: logging.LogRecord) -> None:
        if not self.line.done():
            self.line.set_result(record.getMessage())


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    handler, logger = Heard(), logging.getLogger("services.startup")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


async def test_waiting_for_a_database_is_said_at_once_without_the_password(heard: Heard) -> None:
    port = free_port()
    known = ServiceSettings(
        mesh=mesh.Settings(), redis=RedisSettings(url="unix:///nowhere"), patience_seconds=1, instance="one",
        database=DatabaseSettings(url=f"postgresql://u:s3cret@127.0.0.1:{port}/x", application_name="test"),
    )  # fmt: skip
    async with (
        asyncio.timeout(20),
        mesh.server(known.mesh) as server,
        database.connect(known.database) as connected,
        prepared(server, connected, known, SCHEMA, MIGRATIONS),
    ):
        line = await heard.line
    assert line.startswith("waiting for DATABASE_URL: ")
    assert str(port) in line
    assert "s3cret" not in line


async def test_work_that_waits_for_the_schema_begins_with_it_and_leaves_nothing_behind_without() -> None:
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    async with Later() as later:
        later.start(work())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not done.is_set()
    async with asyncio.timeout(20), Later() as later:
        later.start(work())
        later.begin()
        await done.wait()
