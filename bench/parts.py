"""What a benchmark runs against: a registry, a sidecar and servers, each a process of its own, ended with the block."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from bench import echo
from mesh.contract import PREFIX, Contract
from mesh.identity import Identities
from mesh.paths import Paths
from mesh.registry import MESH_TAG, Health, Registration, RegistrySettings, connect
from mesh.registry.model import EMPTY, MUTUAL_TLS, TLS_META
from mesh.scope import Scope
from tests.debian import CONSUL
from tests.fixtures.consul import RegistryProcess, consul_process, dev_process
from tests.integration.gateway.harness import Edge, Process, eventually


@contextmanager
def registry(folder: Path) -> Iterator[RegistryProcess]:
    """A real Consul where there is one, else the dev registry."""
    made = consul_process(folder) if CONSUL.available() else dev_process(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def process(folder: Path, name: str, argv: Sequence[str], until: str, **environ: str) -> Iterator[Process]:
    """A child that is ready when its output has some words."""
    made = Process([sys.executable, *argv], folder / f"{name}.log", {"GRPC_ENABLE_FORK_SUPPORT": "0", **environ})
    made.start()
    try:
        eventually(lambda: until in made.output(), f"{name} is ready", made.output)
        yield made
    finally:
        made.kill()


@contextmanager
def backend(folder: Path, name: str, seconds: float = 0.0, **environ: str) -> Iterator[tuple[Process, int]]:
    """A server of `bench.v1.Echo`, and its port."""
    with process(folder, name, ["-m", "bench.echo", str(seconds)], "port ", **environ) as made:
        found = re.search(r"port (\d+)", made.output())
        assert found
        yield made, int(found[1])


@contextmanager
def sidecar(folder: Path, consul: RegistryProcess, *, mtls: bool = False) -> Iterator[tuple[Process, Paths]]:
    """A sidecar, and where its files are."""
    runtime = _runtime(folder, consul, mtls=mtls)
    with process(folder, "sidecar", ["-m", "mesh", "sidecar", "--dir", str(folder)], "serving on", **runtime) as made:
        yield made, Paths.locate(runtime, folder)


SECURED = {TLS_META: MUTUAL_TLS}
"""What the registry is told of an instance that demands mutual TLS."""


@contextmanager
def secured_backend(folder: Path, consul: RegistryProcess, paths: Paths, name: str, service: str) -> Iterator[int]:
    """A server of `bench.v1.Echo` that is a service, and on no mesh by itself; its port."""
    identity = asyncio.run(_identity(consul, folder / "identity", service))
    with backend(folder, name, MESH_IDENTITY=str(identity), GRPC_XDS_BOOTSTRAP=str(paths.bootstrap)) as (_, port):
        yield port


async def _identity(consul: RegistryProcess, folder: Path, service: str) -> Path:
    """The folder of an identity that is good for longer than a benchmark takes."""
    async with connect(consul.settings()) as registry, Scope() as scope:
        identities = Identities(registry, folder, scope, own=service)
        await identities.ready(service)
        return identities.folder(service)


@contextmanager
def edge(folder: Path, registry: str, **environ: str) -> Iterator[Edge]:
    """A gateway."""
    folder.mkdir(exist_ok=True)
    made = Edge(folder, registry, environ)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@contextmanager
def joined(folder: Path, consul: RegistryProcess, service: str) -> Iterator[int]:
    """A server of `bench.v1.Echo` that demands mutual TLS, on the mesh of a sidecar; its process id."""
    descriptors = folder / "bench.binpb"
    descriptors.write_bytes(FileDescriptorSet(file=echo.contract().files).SerializeToString())
    words = ["-m", "mesh", "run", "--dir", str(folder), "--service", service, "--descriptors", str(descriptors), "--"]
    runtime = _runtime(folder, consul, mtls=True)
    with process(folder, "run", [*words, sys.executable, "-m", "bench.echo"], "is on the mesh", **runtime) as made:
        found = re.search(r"started: pid (\d+)", made.output())
        assert found
        yield int(found[1])
        made.kill(signal.SIGTERM)


def _runtime(folder: Path, consul: RegistryProcess, *, mtls: bool) -> dict[str, str]:
    return {
        "XDG_RUNTIME_DIR": str(folder), "CONSUL_HTTP_ADDR": consul.address, "MESH_MTLS": str(mtls).lower(),
        "OTEL_TRACES_EXPORTER": "none",
    }  # fmt: skip


def published(
    consul: RegistryProcess, service: str, ports: Sequence[int], config: str = "", *,
    contract: Contract | None = None, meta: Mapping[str, str] = EMPTY,
) -> RegistrySettings:
    """Put healthy instances of `bench.v1.Echo`, or of another contract, and that into the registry."""
    async def publish() -> None:
        async with connect(consul.settings()) as client:
            await client.put(PREFIX + service, (contract or echo.contract(config)).serialize())
            for port in ports:
                await client.register(Registration(
                    service=service, id=f"{service}-{port}", address="127.0.0.1", port=port, tags=(MESH_TAG,),
                    ttl_seconds=600, meta=meta,
                ))  # fmt: skip
                await client.report(f"{service}-{port}", Health.PASSING)

    asyncio.run(publish())
    return consul.settings()


@contextmanager
def caller(
    kind: str, address: str, at_once: int, *method: str, **environ: str
) -> Iterator[subprocess.Popen[str]]:
    """A `bench.caller`, which `calls` has make its calls; `method` is its path and its request in hex, or nothing."""
    argv, pipe = [sys.executable, "-m", "bench.caller", kind, address, str(at_once), *method], subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **environ}) as made:
        try:
            yield made
        finally:
            made.kill()


def calls(caller: subprocess.Popen[str], seconds: float) -> Mapping[str, Any]:
    """What a caller says of calls that it made for so long."""
    assert caller.stdin
    assert caller.stdout
    caller.stdin.write(f"{seconds}\n")
    caller.stdin.flush()
    said: Mapping[str, Any] = json.loads(caller.stdout.readline())
    return said


def cpu_seconds(pid: int) -> float:
    """Time on a CPU that a process has taken so far, by its own clock: /proc counts in hundredths of a second."""
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) has it, which Python does not offer


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
