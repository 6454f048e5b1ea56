"""The status service: what it says when all is well, and that a dead part is reported and never an error."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

import mesh
from mesh import Code
from mesh.registry import MESH_TAG, Health, Registration, RegistrySettings, connect
from mesh.scope import Scope
from meshwright.events.v1.event_pb2 import Event
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceStub
from meshwright.status.v1.status_pb2 import HEALTH_CRITICAL, HEALTH_PASSING, HEALTH_WARNING, SystemStatus
from meshwright.status.v1.status_service_pb2 import GetSystemStatusRequest, ListServicesRequest
from meshwright.status.v1.status_service_pb2_grpc import StatusServiceStub, add_StatusServiceServicer_to_server
from meshwright.sync.v1.sync_service_pb2 import StartSyncRequest
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from services import database
from services.database import Database, DatabaseSettings
from services.events.group import Delivery, Group
from services.events.hub import Hub
from services.events.stream import STREAM, Stream
from services.settings import RedisSettings
from services.status.directory import Directory
from services.status.probes import Parts, Stubs
from services.status.servicer import StatusServicer
from services.status.store import TaskStore
from services.totals import OLDEST, Totals
from tests.fixtures.consul import RegistryProcess, dev_process, running
from tests.fixtures.orders import Anyone, create
from tests.fixtures.services import Syncing, orders, refusal, request_id, serving
from tests.fixtures.stores import OwnValkey

if TYPE_CHECKING:
    from pathlib import Path

    from meshwright.status.v1.status_service_pb2_grpc import StatusServiceAsyncStub

SOCKET = ".s.PGSQL.5432"
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
async def nobody() -> AsyncIterator[Stubs]:
    """Services that do not run."""
    async with mesh.channel("any", mesh.Settings(), target="dns:///127.0.0.1:1") as channel:
        yield Stubs(SyncServiceStub(channel), OrderServiceStub(channel))


@pytest.fixture
def mortal_registry(tmp_path: Path) -> Iterator[RegistryProcess]:
    """A registry for one test, which may stop it."""
    yield from running(dev_process(tmp_path))


@asynccontextmanager
async def status(
    stored: Database, redis_url: str, registry: str, services: Stubs
) -> AsyncIterator[StatusServiceAsyncStub]:
    """The status service."""
    async with (
        connect(RegistrySettings(address=registry)) as client,
        RedisSettings(url=redis_url).client(binary=True) as redis,
        Scope() as scope,
    ):
        tasks, directory = TaskStore(stored, "status-1"), Directory(client)
        servicer = StatusServicer(Parts(directory, stored, redis, services, tasks), Hub(Stream(redis)), tasks, scope)
        async with serving(partial(add_StatusServiceServicer_to_server, servicer)) as channel:
            yield StatusServiceStub(channel)


async def test_it_knows_instances_totals_stores_and_the_last_run(
    stored: Database, valkey_url: str, dev_registry: RegistryProcess, syncing: Syncing, nobody: Stubs
) -> None:
    sync = await syncing.service(None)
    run = await sync.StartSync(StartSyncRequest(request_id=request_id()))
    name = f"shop-{uuid.uuid4()}"
    async with (
        connect(dev_registry.settings()) as registry,
        status(stored, valkey_url, dev_registry.address, Stubs(sync, nobody.order)) as stub,
        RedisSettings(url=valkey_url).client() as redis,
        Scope() as scope,
    ):
        for number, health in ((1, Health.PASSING), (2, Health.CRITICAL)):
            one = Registration(
                service=name, id=f"{name}-{number}", address="127.0.0.1", port=number, tags=(MESH_TAG,),
                meta={"zone": "a", "version": "1.2", "start-time": "2026-01-01T00:00:00+00:00"},
            )
            await registry.register(one)
            await registry.report(one.id, health, "said so")
        for kind, counts in (("users", {"users": 7}), ("orders", {"PENDING": 2, "CANCELLED": 1, OLDEST: 1})):
            scope.start(Totals(redis, kind, partial(_answer, counts)).run())
        found = await _until_counted(stub)
        await registry.deregister(f"{name}-1")
        await registry.deregister(f"{name}-2")

    (service,) = [service for service in found.services if service.name == name]
    assert service.health == HEALTH_WARNING
    assert [(one.address, one.zone, one.health) for one in service.instances] == [
        ("127.0.0.1:1", "a", HEALTH_PASSING),
        ("127.0.0.1:2", "a", HEALTH_CRITICAL),
    ]
    assert [(part.name, part.health) for part in found.components] == [
        ("registry", HEALTH_PASSING), ("postgres", HEALTH_PASSING), ("redis", HEALTH_PASSING),
    ]  # fmt: skip
    assert (found.totals.users, found.totals.orders) == (7, 3)
    assert dict(found.totals.orders_by_state) == {"STATE_PENDING": 2, "STATE_CANCELLED": 1}
    assert found.last_sync.id == run.id
    assert found.HasField("failed_tasks")
    (queue,) = found.queues
    assert (queue.name, queue.waiting, queue.health) == ("orders", 2, HEALTH_WARNING)
    assert queue.oldest_age.seconds >= found.time.seconds - 1
    assert found.services_time.seconds <= found.time.seconds
    assert {one.version for one in service.instances} == {"1.2"}
    assert service.instances[0].start_time.ToJsonString() == "2026-01-01T00:00:00Z"
    assert service.instances[0].uptime.seconds == found.time.seconds - service.instances[0].start_time.seconds
    assert not found.problems


async def test_dead_parts_are_reported_and_the_rest_is_known(
    stored: Database, nobody: Stubs
) -> None:
    async with status(stored, "redis://127.0.0.1:1", NOWHERE, nobody) as stub:
        found = await stub.GetSystemStatus(GetSystemStatusRequest())
        refused = await refusal(stub.ListServices(ListServicesRequest()))
    assert found.health == HEALTH_CRITICAL
    assert {part.name: part.health for part in found.components} == {
        "registry": HEALTH_CRITICAL, "postgres": HEALTH_PASSING, "redis": HEALTH_CRITICAL,
    }  # fmt: skip
    assert {problem.partition(":")[0] for problem in found.problems} == {
        "registry", "redis", "users", "orders", "consumers", "last sync",
    }  # fmt: skip
    assert not found.totals.HasField("users")
    assert refused.code is Code.UNAVAILABLE


async def test_while_the_registry_is_away_services_are_as_it_said_last(
    stored: Database, valkey_url: str, mortal_registry: RegistryProcess, nobody: Stubs
) -> None:
    async with connect(mortal_registry.settings()) as registry:
        await registry.register(Registration(service="shop", id="shop-1", address="h", port=1, tags=(MESH_TAG,)))
        await registry.report("shop-1", Health.PASSING, "")
    async with status(stored, valkey_url, mortal_registry.address, nobody) as stub:
        before = await stub.GetSystemStatus(GetSystemStatusRequest())
        mortal_registry.stop()
        found = await stub.GetSystemStatus(GetSystemStatusRequest())
        refused = await refusal(stub.ListServices(ListServicesRequest()))
    assert [(one.name, one.health) for one in found.services] == [("shop", HEALTH_PASSING)]
    assert found.services_time == before.services_time
    assert [one for one in found.problems if one.startswith("services: as the registry said at ")]
    assert (found.health, refused.code) == (HEALTH_CRITICAL, Code.UNAVAILABLE)


async def test_while_redis_hangs_totals_are_counted_in_postgres_and_nothing_is_late(
    stored: Database, own_valkey: OwnValkey, dev_registry: RegistryProcess, syncing: Syncing
) -> None:
    sync = await syncing.service(None)
    async with orders(stored, Anyone()) as ordering:
        await ordering.CreateOrder(create())
        async with status(stored, own_valkey.url, dev_registry.address, Stubs(sync, ordering)) as stub:
            await stub.GetSystemStatus(GetSystemStatusRequest())
            own_valkey.signal(signal.SIGSTOP)
            found = await stub.GetSystemStatus(GetSystemStatusRequest(), timeout=4)
            own_valkey.signal(signal.SIGCONT)
    assert {part.name: part.health for part in found.components}["redis"] == HEALTH_CRITICAL
    assert (found.totals.users, found.totals.orders, found.totals.orders_by_state["STATE_PENDING"]) == (0, 1, 1)
    assert [(queue.name, queue.waiting) for queue in found.queues] == [("orders", 1)]
    assert {problem.partition(":")[0] for problem in found.problems} == {"redis", "consumers"}


async def test_it_knows_how_consumers_do(
    stored: Database, valkey_url: str, dev_registry: RegistryProcess, nobody: Stubs
) -> None:
    async with (
        RedisSettings(url=valkey_url).client(binary=True) as redis,
        status(stored, valkey_url, dev_registry.address, nobody) as stub,
    ):
        stream, group = Stream(redis), Group(redis, "users", "one")
        assert not (await stub.GetSystemStatus(GetSystemStatusRequest())).consumers
        await group.begin()
        await stream.publish([Event(service="sync", number=number) for number in range(1, 5)])
        first, second, _ = await group.take(3, 10)
        await group.bury(first, "no")
        await group.done([second])
        found = (await stub.GetSystemStatus(GetSystemStatusRequest())).consumers
        assert [(one.name, one.health, one.waiting, one.in_hand, one.dead_letters) for one in found] == [
            ("users", HEALTH_WARNING, 1, 1, 1)
        ]
        assert found[0].HasField("oldest_age")
        (letter,) = found[0].newest_dead_letters
        assert (letter.reason, letter.deliveries, letter.stream, letter.event_id) == ("no", 1, STREAM, "")
        await group.replay(await group.letters())
        (again,) = (await stub.GetSystemStatus(GetSystemStatusRequest())).consumers
        assert (again.health, again.waiting, again.dead_letters) == (HEALTH_PASSING, 2, 0)
        while deliveries := await group.take(3, 10):
            await group.done(deliveries)
        await group.done([await claimed(group)])
        (idle,) = (await stub.GetSystemStatus(GetSystemStatusRequest())).consumers
        assert (idle.waiting, idle.in_hand, idle.HasField("oldest_age")) == (0, 0, False)


async def claimed(group: Group) -> Delivery:
    """What is in hand."""
    found = await group.claim(0)
    assert found is not None
    return found


async def test_a_part_that_hangs_is_reported_within_the_callers_deadline(
    stored: Database, valkey_url: str, dev_registry: RegistryProcess, nobody: Stubs
) -> None:
    released = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with status(stored, f"redis://127.0.0.1:{port}", dev_registry.address, nobody) as stub:
        found = await stub.GetSystemStatus(GetSystemStatusRequest(), timeout=0.8)
    released.set()
    silent.close()
    assert next(part for part in found.components if part.name == "redis").health == HEALTH_CRITICAL
    assert next(part for part in found.components if part.name == "postgres").health == HEALTH_PASSING


async def test_a_postgres_that_hangs_is_reported_within_the_callers_deadline(
    stored: Database, database_settings: DatabaseSettings, valkey_url: str, stores_folder: Path, tmp_path: Path,
    nobody: Stubs,
) -> None:  # fmt: skip
    frozen = Frozen(stores_folder / SOCKET)
    url = database_settings.url.partition("?host=")[0] + f"?host={tmp_path}"
    async with (
        frozen.listening(tmp_path / SOCKET),
        database.connect(dataclasses.replace(database_settings, url=url)) as slow,
        status(slow, valkey_url, NOWHERE, nobody) as stub,
    ):
        assert (await stub.GetSystemStatus(GetSystemStatusRequest())).HasField("failed_tasks")
        frozen.flows.clear()
        found = await stub.GetSystemStatus(GetSystemStatusRequest(), timeout=0.8)
        frozen.flows.set()
    assert next(part for part in found.components if part.name == "postgres").health == HEALTH_CRITICAL
    assert not found.HasField("failed_tasks")
    assert next(part for part in found.components if part.name == "redis").health == HEALTH_PASSING


class Frozen:
    """A Postgres whose bytes stop flowing while `flows` is cleared."""

    def __init__(self, server: Path) -> None:
        self.flows = asyncio.Event()
        self.flows.set()
        self._server = server

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Take connections at a path."""
        async with Scope() as scope:

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                from_server, to_server = await asyncio.open_unix_connection(self._server)
                for source, sink in ((reader, to_server), (from_server, writer)):
                    scope.start(self._copy(source, sink))

            server = await asyncio.start_unix_server(relay, path)
            yield
            server.close()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while said := await source.read(65536):
                await self.flows.wait()
                sink.write(said)
        except OSError:
            return
        finally:
            sink.close()
            with suppress(OSError):
                await sink.wait_closed()


async def _answer(counts: dict[str, int]) -> dict[str, int]:
    return counts


async def _until_counted(stub: StatusServiceAsyncStub) -> SystemStatus:
    async with asyncio.timeout(20):
        while True:
            found = await stub.GetSystemStatus(GetSystemStatusRequest())
            if (found.totals.users, found.totals.orders) == (7, 3):
                return found
