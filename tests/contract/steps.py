"""Steps that the contract tests share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar

from mesh.registry import Health, Instance, Registration, Registry

T = TypeVar("T")

DEADLINE_SECONDS = 20


def fresh(prefix: str = "svc") -> str:
    """A name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def registration(
    service: str, *, port: int = 7000, meta: Mapping[str, str] | None = None, ttl_seconds: float = 30.0
) -> Registration:
    """An instance of a service with an id of its own."""
    return Registration(
        service=service, id=fresh(service), address="127.0.0.1", port=port, tags=("v1",),
        meta=meta or {"zone": "a"}, ttl_seconds=ttl_seconds,
    )  # fmt: skip


async def join(registry: Registry, service: str, *, port: int = 7000) -> Registration:
    """Register an instance and report it as passing."""
    instance = registration(service, port=port)
    await registry.register(instance)
    await registry.report(instance.id, Health.PASSING)
    return instance


async def until(values: AsyncIterator[T], wanted: Callable[[T], bool]) -> T:
    """The first value of a watch that is as wanted."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for value in values:
            if wanted(value):
                return value
    raise AssertionError("a watch never ends")


async def seen(
    registry: Registry, service: str, wanted: Callable[[tuple[Instance, ...]], bool]
) -> tuple[Instance, ...]:
    """The instances of a service as soon as they are as wanted."""
    return await until(registry.watch_instances(service), wanted)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something outside that has no event of its own."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def ids(instances: tuple[Instance, ...]) -> list[str]:
    """Ids of instances."""
    return [instance.id for instance in instances]


def healths(instances: tuple[Instance, ...]) -> list[Health]:
    """Health of instances."""
    return [instance.health for instance in instances]
