"""Postgres as the services use it: one bounded pool, deadlines on every statement, errors as `mesh.Error`."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg

from mesh import Code, Error, deadline
from mesh.recovery import Backoff, Failures, now, sleep
from services.pools import POOLS, POSTGRES_WAITING
from services.statements import TracedConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from asyncpg.pool import PoolConnectionProxy

    T = TypeVar("T")
    Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
    Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

KEEPALIVE_IDLE_SECONDS = 15
"""A connection is probed after so long without traffic, three times in as many tries of 5 s."""

CANCEL_SECONDS = 1.0
"""How long Postgres may take to end a statement that was cancelled, and to notice a client that is gone.

A cancellation that arrives before its statement does is lost: then the connection is given up.
"""

_UNREACHABLE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # such as: the server said goodbye, which asyncpg has not taken in yet
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
_BROKEN = ("connection is closed", "has been released back to the pool")
_CLOSED = ("is closed", "is closing")
_AGAIN = Backoff(first_seconds=0.05, limit_seconds=0.5)

PATIENCE_SECONDS = 5.0
"""How long a call without a deadline waits for a Postgres that cannot be reached, as one that restarts."""

_PATIENCE_SHARE = 0.8
"""How much of what its deadline leaves a call waits so: the rest is for the answer."""

_NAMED = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    """How to reach Postgres, and what a process may take of it."""

    url: str = field(repr=False)
    """DATABASE_URL: as libpq has it, TCP or Unix socket; may hold a password."""
    application_name: str
    """Shows in pg_stat_activity."""
    pool_size: int = 8
    """DATABASE_POOL_SIZE: most connections of this process, its listener aside."""
    statement_timeout_seconds: float = 5.0
    """DATABASE_STATEMENT_TIMEOUT_SECONDS: Postgres ends a statement after so long; so does the client."""
    connect_timeout_seconds: float = 5.0
    """DATABASE_CONNECT_TIMEOUT_SECONDS: for a new connection, and for a free one of the pool."""

    def arguments(self) -> dict[str, Any]:
        """Arguments of asyncpg.connect and asyncpg.create_pool."""
        return {
            "dsn": self.url,
            "connection_class": TracedConnection,
            "timeout": self.connect_timeout_seconds,
            "command_timeout": self.statement_timeout_seconds + 1,
            "server_settings": {
                "application_name": self.application_name,
                "statement_timeout": str(round(self.statement_timeout_seconds * 1000)),
                "client_connection_check_interval": str(round(CANCEL_SECONDS * 1000)),
                "tcp_keepalives_idle": str(KEEPALIVE_IDLE_SECONDS),
                "timezone": "UTC",
            },
        }


class Database:
    """A pool that says UNAVAILABLE when Postgres cannot be reached, and minds the deadline of the call in hand."""

    def __init__(self, pool: Pool, settings: DatabaseSettings) -> None:
        self._pool = pool
        self._settings = settings

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, for no longer than what is left of the call in hand.

        A Postgres that cannot be reached is waited for, as nothing was sent yet. A statement that runs when the call is
        over, or when the block is cancelled, is cancelled in Postgres too. Raises `Error`: UNAVAILABLE when there is no
        connection in time or it breaks, DEADLINE_EXCEEDED when a statement takes too long. Errors of the block's own
        statements that mean neither go on as asyncpg raises them.
        """
        async with self._held(await _patiently(self._acquire)) as connection:
            yield connection

    @asynccontextmanager
    async def _held(self, connection: Connection) -> AsyncIterator[Connection]:
        with translated():
            try:
                async with deadline.timeout():
                    yield connection
            finally:
                with suppress(TimeoutError):
                    await self._pool.release(connection, timeout=CANCEL_SECONDS)

    async def _acquire(self) -> Connection:
        with translated():
            async with deadline.timeout():
                return await self._free()

    async def _free(self) -> Connection:
        try:
            with POSTGRES_WAITING.track_inprogress():
                return await self._pool.acquire(timeout=self._settings.connect_timeout_seconds)
        except TimeoutError as error:
            raise _unavailable("no connection to the database became free in time") from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection of the pool in a transaction that commits with the block."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """All rows of one statement. A SELECT must only read: it is sent again when the connection breaks under it."""

        async def once() -> list[asyncpg.Record]:
            async with self.connection() as connection:
                return await connection.fetch(query, *arguments)

        return await (_patiently(once) if _only_reads(query) else once())

    async def fetchrow(self, query: str, *arguments: object) -> asyncpg.Record | None:
        """The first row of one statement, None when there is none. Otherwise as `fetch`."""

        async def once() -> asyncpg.Record | None:
            async with self.connection() as connection:
                return await connection.fetchrow(query, *arguments)

        return await (_patiently(once) if _only_reads(query) else once())

    async def ping(self) -> None:
        """Proof that Postgres answers. Waits for none that does not; raises as `connection`."""
        async with self._held(await self._acquire()) as connection:
            await connection.execute("SELECT 1")

    async def listener(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection beside the pool, for LISTEN; the caller closes it."""
        with translated():
            connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(**self._settings.arguments())
        await keep_alive(connection)
        return connection


async def until_lost(
    connection: asyncpg.Connection[asyncpg.Record], check_seconds: float, answer_seconds: float | None = None
) -> None:
    """Wait until a connection is lost; ask it now and then whether it lives.

    Raises `Error` when it does not answer for so long (by default the command timeout).
    """
    lost = asyncio.Event()
    connection.add_termination_listener(lambda *_: lost.set())
    while not connection.is_closed():
        with suppress(TimeoutError):
            async with asyncio.timeout(check_seconds):
                await lost.wait()
        if not connection.is_closed():
            with translated():
                await connection.fetchval("SELECT 1", timeout=answer_seconds)


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """What an attempt gives, made again while Postgres cannot be reached and there is time for more."""
    left = deadline.remaining()
    until = now() + (PATIENCE_SECONDS if left is None else left * _PATIENCE_SHARE)
    failures = Failures()
    while True:
        try:
            return await attempt()
        except Unreachable:
            pause = failures.next(_AGAIN)
            if now() + pause >= until:
                raise
        await sleep(pause)


def _only_reads(query: str) -> bool:
    return query.lstrip()[:6].upper() == "SELECT"


@asynccontextmanager
async def connect(settings: DatabaseSettings) -> AsyncIterator[Database]:
    """A pool for as long as the block runs. It connects when it is first used, so Postgres need not be there yet."""
    pool = await asyncpg.create_pool(
        min_size=0, max_size=settings.pool_size, init=keep_alive, reset=_keep, **settings.arguments()
    )
    try:
        with POOLS.postgres(pool):
            yield Database(pool, settings)
    finally:
        pool.terminate()


async def keep_alive(connection: Any) -> None:
    """Have the kernel notice a path that swallows packets.

    asyncpg has no setting for it, so this reaches for its transport.
    """
    transport = getattr(connection, "_transport", None)
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


async def _keep(connection: Any) -> None:
    """Give a connection back as it is.

    No statement of the services leaves anything in a session, asyncpg rolls back open transactions without being
    asked, and its own reset would cost a round trip and a span after each use.
    """


class translated:
    """Turns what asyncpg raises for an unreachable or slow Postgres into `Error`."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (TimeoutError, asyncpg.QueryCanceledError)):
            raise _late() from error
        if isinstance(error, _UNREACHABLE) or _says(error, _BROKEN):
            raise _unavailable("the database cannot be reached", Unreachable) from error
        if _says(error, _CLOSED):
            raise _unavailable("the connections to the database are closed") from error


class Unreachable(Error):
    """There is no connection, or it broke: another one may be had soon."""


def _says(error: object, any_of: tuple[str, ...]) -> bool:
    """Whether a connection or a pool is closed; asyncpg has the same class for wrong arguments."""
    return isinstance(error, asyncpg.InterfaceError) and any(words in str(error) for words in any_of)


def _late() -> Error:
    """Blames the database only for what the caller would still have waited for."""
    if deadline.remaining() == 0:
        return Error(Code.DEADLINE_EXCEEDED, "the deadline of the call is over")
    return Error(Code.DEADLINE_EXCEEDED, "the database took too long", reason="DATABASE_SLOW")


def _unavailable(message: str, kind: type[Error] = Error) -> Error:
    return kind(Code.UNAVAILABLE, message, reason="DATABASE_UNAVAILABLE", retry_after_seconds=1)


def queries(file: Path) -> Mapping[str, str]:
    """The statements of a .sql file by the names in their `-- name:` lines, each on one line, as spans show them."""
    _, *parts = _NAMED.split(file.read_text("utf-8"))
    named = zip(parts[::2], parts[1::2], strict=True)
    return {name: " ".join(statement.split()).removesuffix(";") for name, statement in named}
