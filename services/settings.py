"""Settings that the services share, from variables; problems are collected by the caller's `Variables`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from mesh import Settings, Variables
from services.database import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio import Redis

PATIENCE_SECONDS = 30.0
"""Longer than a restart of Postgres takes, shorter than people take to look."""

CONNECTIONS = 16
"""Most connections of a client of Redis: who finds none free waits for one."""


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """How to reach Redis or Valkey."""

    url: str = field(repr=False)
    """REDIS_URL: redis://, rediss:// or unix://; may hold a password."""
    timeout_seconds: float = 1.0
    """REDIS_TIMEOUT_SECONDS: for a connection, new or free, and for an answer."""

    @property
    def public_url(self) -> str:
        """The URL for all to see; empty where it may hold a password."""
        parts = urlsplit(self.url)
        return "" if parts.password or "password" in parts.query else self.url

    def client(self, *, binary: bool = False, blocks_seconds: float = 0.0) -> Redis:
        """A client with a bounded pool that minds the deadline of the call in hand; connects when it is first used.

        A binary one answers bytes, others answer text. Commands that wait may do so for `blocks_seconds`.
        """
        from services.pools import POOLS
        from services.redis_client import BoundedRedis

        tcp = {} if self.url.startswith("unix:") else {"socket_keepalive": True}
        client = BoundedRedis.from_url(
            self.url,
            decode_responses=not binary,
            socket_timeout=self.timeout_seconds + blocks_seconds,
            socket_connect_timeout=self.timeout_seconds,
            health_check_interval=15,
            max_connections=CONNECTIONS,
            **tcp,
        )
        POOLS.redis(client.connection_pool)
        return client


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What every service needs."""

    mesh: Settings
    database: DatabaseSettings
    redis: RedisSettings
    patience_seconds: float
    """DATABASE_PATIENCE_SECONDS: an instance without Postgres leaves the rotation after once to twice as long."""
    instance: str
    """Tells this process apart: `service.instance.id` where it is given, else made up."""

    @classmethod
    def read(cls, values: Mapping[str, str], name: str) -> tuple[Self, Variables]:
        """From variables. The caller reads its own ones too and then calls `check`."""
        variables = Variables(values)
        mesh = Settings.read(variables)
        return cls(
            mesh=mesh,
            database=database(variables, name),
            redis=redis(variables),
            patience_seconds=variables.number("DATABASE_PATIENCE_SECONDS", PATIENCE_SECONDS),
            instance=mesh.telemetry.resource.get("service.instance.id") or str(uuid.uuid4()),
        ), variables


def database(variables: Variables, name: str) -> DatabaseSettings:
    """Those of Postgres, for a program of this name."""
    return DatabaseSettings(
        url=_url(variables, "DATABASE_URL", ("postgresql", "postgres")),
        application_name=f"meshwright-{name}",
        pool_size=variables.integer("DATABASE_POOL_SIZE", DatabaseSettings.pool_size, minimum=1, maximum=1000),
        statement_timeout_seconds=variables.number(
            "DATABASE_STATEMENT_TIMEOUT_SECONDS", DatabaseSettings.statement_timeout_seconds, minimum=0.01
        ),
        connect_timeout_seconds=variables.number(
            "DATABASE_CONNECT_TIMEOUT_SECONDS", DatabaseSettings.connect_timeout_seconds, minimum=0.01
        ),
    )


def redis(variables: Variables) -> RedisSettings:
    """Those of Redis."""
    return RedisSettings(
        url=_url(variables, "REDIS_URL", ("redis", "rediss", "unix")),
        timeout_seconds=variables.number("REDIS_TIMEOUT_SECONDS", RedisSettings.timeout_seconds, minimum=0.01),
    )


def _url(variables: Variables, name: str, schemes: tuple[str, ...]) -> str:
    """A URL that must be given; problems never repeat it, as it may hold a password."""
    value = variables.text(name)
    if not value:
        variables.problems.append(f"{name} is missing")
    elif urlsplit(value).scheme not in schemes:
        variables.problems.append(f"{name} must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return value
