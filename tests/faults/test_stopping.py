"""An order process under `mesh run` that is told to stop with a call and work in hand: both end, then the process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest

from meshwright.order.v1.order_pb2 import Order
from meshwright.order.v1.order_service_pb2 import CancelOrderRequest
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceStub
from services import database
from services.database import Database, DatabaseSettings
from services.order import wire
from services.order.store import OrderStore
from tests.fixtures.consul import RegistryProcess, dev_process, running
from tests.fixtures.orders import create
from tests.fixtures.shop import until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)

CALL_SECONDS, WORK_SECONDS = 6.0, 12.5
"""How long each takes after SIGTERM: together longer than any time that counts from SIGTERM alone."""

SETTINGS = {
    "MESH_GRACE_SECONDS": "8",
    "ORDER_GRACE_SECONDS": "15",
    "ORDER_POLL_SECONDS": "0.05",
    "ORDER_WORK_DELAY_SECONDS": "0",
    "DATABASE_STATEMENT_TIMEOUT_SECONDS": "60",
}
CALL, WORK = 1, 2
SLOW = f"""
CREATE FUNCTION orders.slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(CASE OLD.state WHEN 'PROCESSING' THEN {WORK} ELSE {CALL} END);
    RETURN NEW;
END $$;
CREATE TRIGGER slow BEFORE UPDATE ON orders.orders FOR EACH ROW
WHEN (NEW.state = 'CANCELLED' OR OLD.state = 'PROCESSING') EXECUTE FUNCTION orders.slow();
"""
"""Cancelling waits for the one lock, and what comes of work for the other."""

_WAITING = "SELECT count(*) AS number FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted"


@pytest.fixture
async def stored(migrated: str, database_url: str) -> AsyncIterator[Database]:
    """A pool of a database with all schemas."""
    async with database.connect(DatabaseSettings(url=database_url, application_name="test")) as connected:
        yield connected


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryProcess]:
    yield from running(dev_process(tmp_path))


@asynccontextmanager
async def held(url: str, lock: int) -> AsyncIterator[None]:
    """An advisory lock."""
    connection = await asyncpg.connect(url)
    await connection.execute(f"SELECT pg_advisory_lock({lock})")
    yield
    await connection.close()


async def waits(stored: Database, lock: int) -> bool:
    row = await stored.fetchrow(_WAITING, lock)
    return row is not None and row["number"] > 0


async def test_a_call_and_work_in_hand_end_before_the_process(
    stored: Database, database_url: str, valkey_url: str, registry: RegistryProcess, tmp_path: Path
) -> None:
    environ = os.environ | SETTINGS | {
        "CONSUL_HTTP_ADDR": registry.address, "MESH_DIR": str(tmp_path / "state"), "DATABASE_URL": database_url,
        "REDIS_URL": valkey_url, "MESH_MTLS": "false",
    }  # fmt: skip
    async with stored.connection() as connection:
        await connection.execute(SLOW)
    async with asyncio.timeout(100), AsyncExitStack() as locks:
        work = await locks.enter_async_context(AsyncExitStack())
        await work.enter_async_context(held(database_url, WORK))
        call = await locks.enter_async_context(AsyncExitStack())
        await call.enter_async_context(held(database_url, CALL))
        cancelled, _ = await OrderStore(stored, work_delay=timedelta(hours=1)).insert(wire.draft(create()))
        worked, _ = await OrderStore(stored).insert(wire.draft(create()))
        words = ("run", "--service", "order", "--", sys.executable, "-m", "services.order")
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "mesh", *words, env=environ)
        await until(lambda: waits(stored, WORK))
        async with grpc.aio.insecure_channel(await address(registry)) as channel:
            answer = OrderServiceStub(channel).CancelOrder(CancelOrderRequest(id=str(cancelled.id)), timeout=90)
            await until(lambda: waits(stored, CALL))
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(CALL_SECONDS)
            await call.aclose()
            assert (await answer).state == Order.STATE_CANCELLED
            await asyncio.sleep(WORK_SECONDS - CALL_SECONDS)
            await work.aclose()
            assert await process.wait() == 0
    row = await stored.fetchrow("SELECT state, worker, attempts FROM orders.orders WHERE id = $1", worked.id)
    assert row is not None
    assert tuple(row.values()) == ("PENDING", "", 1), "the attempt without a sync service was written down"


async def address(registry: RegistryProcess) -> str:
    """Where the order service listens."""

    async def is_there() -> bool:
        return bool(registry.ask("GET", "/v1/health/service/order?passing"))

    await until(is_there)
    (found,) = registry.ask("GET", "/v1/health/service/order?passing")
    return f"{found['Service']['Address']}:{found['Service']['Port']}"
