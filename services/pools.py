"""What the pools of connections of this process hold, for Prometheus."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from prometheus_client import REGISTRY, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg
    from redis.asyncio import ConnectionPool

WAITING = Gauge("connection_pool_waiting", "Who waits for a connection of the pool.", ("pool",))
POSTGRES_WAITING, REDIS_WAITING = (WAITING.labels(pool) for pool in ("postgres", "redis"))


class Pools(Collector):
    """The pools of this process, those of one kind together, as they are when somebody looks."""

    def __init__(self) -> None:
        self._postgres: set[Any] = set()
        self._redis: WeakSet[Any] = WeakSet()
        REGISTRY.register(self)

    @contextmanager
    def postgres(self, pool: asyncpg.Pool[asyncpg.Record]) -> Iterator[None]:
        """Show one for the length of the block."""
        self._postgres.add(pool)
        try:
            yield
        finally:
            self._postgres.discard(pool)

    def redis(self, pool: ConnectionPool) -> None:
        """Show one for as long as it is used."""
        self._redis.add(pool)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As prometheus_client asks for it, in a thread of its own."""
        held = GaugeMetricFamily("connection_pool_connections", "Connections, by state.", labels=("pool", "state"))
        most = GaugeMetricFamily("connection_pool_limit", "The most connections that there can be.", labels=("pool",))
        for name, sizes in (("postgres", self._of_postgres()), ("redis", self._of_redis())):
            used, idle, limit = (sum(column) for column in zip((0, 0, 0), *sizes, strict=True))
            held.add_metric((name, "used"), used)
            held.add_metric((name, "idle"), idle)
            most.add_metric((name,), limit)
        yield held
        yield most

    def _of_postgres(self) -> Iterator[tuple[int, int, int]]:
        """Connections of each pool: used, idle, and the most that it may have."""
        for pool in list(self._postgres):
            idle = pool.get_idle_size()
            yield pool.get_size() - idle, idle, pool.get_max_size()

    def _of_redis(self) -> Iterator[tuple[int, int, int]]:
        for pool in list(self._redis):
            (idle, _), (used, _) = pool.get_connection_count()
            yield used, idle, pool.max_connections


POOLS = Pools()
