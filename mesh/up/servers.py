"""The servers that the user named in place of built-in ones: whether they answer, asked before anything is started."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from mesh.config import Telemetry, Variables
from mesh.errors import Code, Error, InvalidConfig
from mesh.registry.settings import RegistrySettings
from mesh.up.plan import OTLP_VARIABLE, Plan

PATIENCE_SECONDS = 2.0
"""How long each may take to answer; they are asked at the same time."""

_REMEDY = "start it, correct the variable, or unset it, and `mesh up` starts one of its own"
_ERRNO = re.compile(r"\[Errno (\d+)\]")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens: a host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


async def check(plan: Plan) -> tuple[str, ...]:
    """See that every server answers which the user named; lines of warning for what the stack can do without.

    Raises `InvalidConfig` with every variable that cannot be read, `Error` (FAILED_PRECONDITION) with a line for each
    server that does not answer. No line has a password.
    """
    variables = Variables(plan.environ)
    registry, stores = _registry(plan, variables), _stores(plan, variables)
    telemetry = Telemetry.read(variables)
    variables.check()
    needed = [_silent(variable, addresses) for variable, addresses in stores.items()]
    collector = () if plan.lacks(OTLP_VARIABLE) else otlp_addresses(telemetry)
    unfit = _unfit(registry, plan.is_secured)
    warning, *found = await asyncio.gather(_silent(OTLP_VARIABLE, collector), unfit, *needed)
    if problems := [f"{problem}; {_REMEDY}" for problem in found if problem]:
        raise Error(Code.FAILED_PRECONDITION, "\n".join(problems), reason="SERVER_AWAY")
    return (f"{warning}; spans are lost until it does",) if warning else ()


def _registry(plan: Plan, variables: Variables) -> RegistrySettings | None:
    if plan.lacks("CONSUL_HTTP_ADDR"):
        return None
    try:
        return replace(RegistrySettings.from_env(plan.environ), call_timeout_seconds=PATIENCE_SECONDS)
    except InvalidConfig as error:
        variables.problems.extend(error.message.splitlines())
        return None


def _stores(plan: Plan, variables: Variables) -> dict[str, list[Address]]:
    """Addresses by the name of the variable; one of each that answers is enough."""
    found = {}
    for variable, wanted in (("DATABASE_URL", plan.stack.postgres), ("REDIS_URL", plan.stack.valkey)):
        if wanted and not plan.lacks(variable):
            read, form = _READERS[variable]
            try:
                found[variable] = list(read(variables.text(variable)))
            except ValueError:  # which may quote a password
                variables.problems.append(f"{variable} cannot be read; write it as {form}")
    return found


def postgres_addresses(url: str) -> Iterator[Address]:
    """Where the server of DATABASE_URL is, as libpq reads it; nothing where it leaves that to other variables."""
    parts = _split(url, ("postgresql", "postgres"))
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    named = parts.netloc.rpartition("@")[2] or query.get("host", "")
    for text in filter(None, named.split(",")):
        found = _address(text, int(query.get("port", "5432").split(",")[0]))
        is_folder = found.host.startswith("/")
        yield Address(path=f"{found.host}/.s.PGSQL.{found.port}") if is_folder else found


def redis_addresses(url: str) -> Iterator[Address]:
    """Where the server of REDIS_URL is."""
    parts = _split(url, ("redis", "rediss", "unix"))
    if parts.scheme == "unix":
        yield Address(path=unquote(parts.path))
    else:
        yield _address(parts.netloc.rpartition("@")[2] or "localhost", 6379)


_READERS = {
    "DATABASE_URL": (postgres_addresses, "postgresql://USER:PASSWORD@HOST:PORT/NAME"),
    "REDIS_URL": (redis_addresses, "redis://HOST:PORT or unix:///PATH"),
}


def otlp_addresses(telemetry: Telemetry) -> Iterator[Address]:
    """Where spans go; nothing where none are sent, or a Unix socket takes them."""
    if telemetry.endpoint.startswith("unix:"):
        return
    endpoint = telemetry.endpoint if "://" in telemetry.endpoint else f"http://{telemetry.endpoint}"
    parts = urlsplit(endpoint)
    if parts.hostname:
        yield Address(host=parts.hostname, port=parts.port or (443 if parts.scheme == "https" else 80))


def _split(url: str, schemes: tuple[str, ...]) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme.partition("+")[0] not in schemes:  # SQLAlchemy has the driver after the plus
        raise ValueError
    return parts


def _address(text: str, port: int) -> Address:
    """Of host:port, [host]:port, host or a folder, percent-encoded as in a URL. Raises `ValueError`."""
    if (folder := unquote(text)).startswith("/"):
        folder, _, number = folder.partition(":")
        return Address(host=folder, port=int(number or port))
    parts = urlsplit(f"//{text}")
    return Address(host=parts.hostname or "localhost", port=parts.port or port)


async def _unfit(settings: RegistrySettings | None, is_secured: bool) -> str:
    """What is wrong with the registry; empty when it has a leader and, where it has to, gives certificates."""
    if settings is None:
        return ""
    if problem := await _silent("CONSUL_HTTP_ADDR", [Address(host=settings.host, port=settings.port)]):
        return problem
    from mesh.registry import connect

    try:
        async with connect(settings) as registry:
            leader = await registry.leader()
            if leader and is_secured:
                await registry.roots()
    except Error as error:
        return f"CONSUL_HTTP_ADDR: {error.message.rstrip('.')}"
    return "" if leader else f"CONSUL_HTTP_ADDR names {settings.address}, a Consul that has no leader"


async def _silent(variable: str, addresses: Iterable[Address]) -> str:
    """What is wrong when none of a server's addresses takes a connection; empty when one does."""
    problems = []
    for address in addresses:
        if not (why := await _refusal(address)):
            return ""
        problems.append(f"{variable} names {address}, which does not answer: {why}")
    return problems[0] if problems else ""


async def _refusal(address: Address) -> str:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            if address.path:
                _, writer = await asyncio.open_unix_connection(address.path)
            else:
                _, writer = await asyncio.open_connection(address.host, address.port)
    except TimeoutError:
        return "no connection in time"
    except OSError as error:
        return _words(error)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return ""


def _words(error: OSError) -> str:
    """The kernel's words, also where asyncio has put the errors of several addresses into one."""
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    number = error.errno or next(map(int, _ERRNO.findall(str(error))), 0)
    return os.strerror(number) if number else str(error)
