"""Runs one program as an instance of a service: gives it a port, attaches it to the sidecar, drains it."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from mesh import bootstrap
from mesh.config import Settings, Variables
from mesh.identity_files import folder_of
from mesh.paths import Paths
from mesh.ports import free_port
from mesh.process import Child, Command, attend, start
from mesh.recovery import time_of_day
from mesh.registry.model import METRICS_META, MUTUAL_TLS, TLS_META, is_ip

REST_SECONDS = 10.0
"""What a program gets to end, beyond its grace for the calls in hand: to send callers away, and to end other work."""


class Observer(Protocol):
    """Who is told what becomes of the program."""

    def running(self, pid: int, address: str) -> None:
        """It has been started."""

    def waiting(self, reason: str) -> None:
        """It runs, but was never healthy yet, and why."""

    def ready(self) -> None:
        """It is in rotation."""

    def unready(self, reason: str) -> None:
        """It runs, but is not in rotation any more, and why."""

    def draining(self) -> None:
        """It is being taken out."""


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What a program is on the mesh."""

    service: str
    address: str = "127.0.0.1"
    """IP address that others reach it at, and that it listens on unless MESH_HOST says otherwise."""

    port: int = 0
    """0 chooses a free one for each life."""

    zone: str = ""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    protocol: str = "grpc"
    http_prefixes: tuple[str, ...] = ()
    descriptors: bytes = b""
    """A serialized FileDescriptorSet."""

    service_config: str = ""
    plaintext: bool = True
    """Whether it takes whoever comes, rather than demand mutual TLS."""

    def instance_id(self) -> str:
        """A new id that no other instance has."""
        return f"{self.service}-{socket.gethostname()}-{secrets.token_hex(3)}"


class Attachment(Protocol):
    """A program's place on the mesh."""

    async def keep(self) -> None:
        """Hold the place until cancelled."""

    async def leave(self, reason: str) -> None:
        """Give the place up; returns when callers have been told, or cannot be."""


Attach = Callable[[Membership, str, int, Observer], Attachment]
"""Makes the place of an instance: its id, its port, and who is told. See `mesh.attach`."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One program to be run as an instance of a service."""

    membership: Membership
    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    """Environment of the program, to which `environment` adds its own."""

    paths: Paths
    directory: Path | None = None
    log: Path | None = None
    """None leaves stdin, stdout and stderr as they are."""

def host(membership: Membership, environ: Mapping[str, str]) -> str:
    """IP address that a program is to listen on; a name in MESH_HOST is taken for this machine's."""
    named = environ.get("MESH_HOST") or membership.address
    return named if is_ip(named) else "127.0.0.1"


def environment(
    base: Mapping[str, str], membership: Membership, instance_id: str, port: int, bootstrap_file: Path,
    metrics_port: int = 0, identity: Path | None = None,
) -> dict[str, str]:
    """What a program on the mesh finds in its environment. Pure."""
    attributes = (base.get("OTEL_RESOURCE_ATTRIBUTES", ""), f"service.instance.id={instance_id}")
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "PYTHONUNBUFFERED": "1",
        "MESH_HOST": membership.address,
        **base,
        "PORT": str(port),
        "METRICS_PORT": str(metrics_port),
        "GRPC_XDS_BOOTSTRAP": str(bootstrap_file),
        "MESH_STACKS": str(bootstrap_file.parent),
        "OTEL_SERVICE_NAME": membership.service,
        "OTEL_RESOURCE_ATTRIBUTES": ",".join(filter(None, attributes)),
        **({"MESH_IDENTITY": str(identity)} if identity else {}),
    }


async def live(
    instance: Instance,
    attach: Attach,
    observer: Observer,
    stop: asyncio.Event,
    *,
    sidecar_ends_too: Callable[[], bool] = lambda: False,
    beside: Callable[[Child], AbstractContextManager[object]] = nullcontext,
) -> int:
    """Run the program until it ends or `stop` is set; its exit code.

    When `stop` is set it is taken out of rotation first, then stopped. A program that ends by itself is taken out at
    once, which is waited for only if the sidecar is about to end as well. A context `beside` it is entered when it has
    been started. Raises `Error` when it cannot be. Cancellation kills it.
    """
    membership = instance.membership
    instance_id, where = membership.instance_id(), host(membership, instance.environ)
    port, metrics_port = membership.port or free_port(where), _metrics_port(instance.environ, where)
    file = instance.paths.workload_bootstrap(instance_id)
    identity = None if membership.plaintext else folder_of(instance.paths.identities, membership.service)
    text = bootstrap.bootstrap(
        instance.paths.sidecar_socket, node_id=instance_id, zone=membership.zone, identity=identity
    )
    with bootstrap.held(file, text):
        child = await start(_command(instance, instance_id, port, metrics_port, file, identity))
        observer.running(child.pid, f"{membership.address}:{port}")
        attachment = attach(_known(membership, instance.environ, metrics_port), instance_id, port, observer)

        async def leave(ended: bool) -> None:
            if not ended:
                observer.draining()
            if not ended or sidecar_ends_too():
                await attachment.leave("exited" if ended else "leaving")

        with beside(child):
            return await attend(child, stop, aside=attachment.keep(), leave=leave)


def _metrics_port(environ: Mapping[str, str], host: str) -> int:
    """METRICS_PORT where that is given, 0 for none; else a free one."""
    named = environ.get("METRICS_PORT", "")
    return int(named) if named.isdecimal() else free_port(host)


def _known(membership: Membership, environ: Mapping[str, str], metrics_port: int) -> Membership:
    """With what everybody likes to know about a program that has just been started; metadata of its own win."""
    begun = {"start-time": time_of_day().isoformat(timespec="milliseconds")}
    metrics = {METRICS_META: str(metrics_port)} if metrics_port else {}
    tls = {} if membership.plaintext else {TLS_META: MUTUAL_TLS}
    return replace(membership, meta={**begun, **metrics, **tls, **version(environ), **membership.meta})


def version(environ: Mapping[str, str]) -> dict[str, str]:
    """The version that OpenTelemetry is told, as metadata: `service.version` in OTEL_RESOURCE_ATTRIBUTES. Pure."""
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = pair.partition("=")
        if key.strip() == "service.version":
            return {"version": unquote(value.strip())[:100]}
    return {}


def patience(environ: Mapping[str, str]) -> float:
    """Seconds from SIGTERM of a program to SIGKILL, by its MESH_GRACE_SECONDS. Pure."""
    variables = Variables(environ)
    own = variables.number("MESH_GRACE_SECONDS", Settings.grace_seconds)
    return (Settings.grace_seconds if variables.problems else own) + REST_SECONDS


def _command(
    instance: Instance, instance_id: str, port: int, metrics_port: int, bootstrap_file: Path, identity: Path | None
) -> Command:
    environ = environment(
        instance.environ, instance.membership, instance_id, port, bootstrap_file, metrics_port, identity
    )
    return Command(
        argv=instance.argv,
        environ=environ,
        directory=instance.directory,
        log=instance.log,
        grace_seconds=patience(environ),
    )
