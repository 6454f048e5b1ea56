"""A whole edge for tests: registry, control process and Envoy, each as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gateway.bootstrap import envoy_bootstrap
from mesh.contract import PREFIX, Contract
from mesh.paths import Paths
from mesh.ports import free_port
from mesh.registry import MESH_TAG, Health, Registration, RegistrySettings, connect

ENVOY = os.environ.get("ENVOY_BIN") or str(Path(sys.executable).parent / "envoy")
DEADLINE_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON and say so."""
        assert self.headers.get("content-type") == "application/json", (self.status, self.headers, self.body)
        return json.loads(self.body)


@dataclass
class Process:
    """A child with its output in a file; killed by its own id."""

    command: list[str]
    log: Path
    environ: dict[str, str] = field(default_factory=dict)
    _child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as out:
            environ = {**os.environ, **self.environ}
            self._child = subprocess.Popen(self.command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environ)

    def kill(self, number: int = signal.SIGKILL) -> int | None:
        """Send a signal and wait for the end; its exit code."""
        if self._child is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(number)
        code = self._child.wait(DEADLINE_SECONDS)
        self._child = None
        return code

    def output(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")


class Edge:
    """An edge on a port of its own."""

    def __init__(
        self, folder: Path, registry: str, environ: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        self.registry = RegistrySettings(address=registry)
        self._runtime = Path(tempfile.mkdtemp(prefix="edge-", dir="/tmp"))  # short, for sockets
        runtime = {"XDG_RUNTIME_DIR": str(self._runtime), "CONSUL_HTTP_ADDR": registry}
        self.paths = Paths.locate(runtime, folder)
        self.admin = self.paths.envoy_admin_socket
        """Socket of Envoy's admin interface."""
        self.paths.run.mkdir(mode=0o700)
        self.control = Process(
            [sys.executable, "-m", "gateway", "--port", str(self.port), "--dir", str(folder), *arguments],
            folder / "control.log",
            {"OTEL_TRACES_EXPORTER": "none", "MESH_MTLS": "false", **runtime, **(environ or {})},
        )  # fmt: skip
        config = folder / "envoy.json"
        config.write_text(
            json.dumps(envoy_bootstrap(ads_socket=self.paths.gateway_ads_socket, admin_socket=self.admin))
        )
        self.envoy = Process(
            [ENVOY, "-c", str(config), "--disable-hot-restart", "--log-level", "warning"], folder / "envoy.log"
        )
        self.probes: list[Process] = []
        self.ports: list[int] = []
        """Where the probes listen."""
        self.folder = folder
        self._joined: dict[str, str] = {}

    def start(self) -> None:
        """Start both processes and wait until Envoy listens."""
        self.control.start()
        self.envoy.start()
        eventually(lambda: self.get("/healthz").status == 200, "the edge answers", self.logs)

    def stop(self) -> None:
        """Kill everything that was started here, and leave the registry as it was."""
        for process in (self.envoy, self.control, *self.probes):
            process.kill()
        self._clean()
        shutil.rmtree(self._runtime, ignore_errors=True)

    def account(self, page: str) -> str:
        """What Envoy's admin interface has on a page."""
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(str(self.admin))
            connection = http.client.HTTPConnection("envoy")
            connection.sock = made
            connection.request("GET", page)
            return connection.getresponse().read().decode()

    def logs(self) -> str:
        """What the processes said, for failures."""
        return "\n".join(process.output() for process in (self.control, self.envoy, *self.probes))

    def probe(self, name: str) -> tuple[Process, int]:
        """Start an instance of the probe and wait until it serves."""
        port = free_port()
        process = Process(
            [sys.executable, "-m", "tests.integration.gateway.probe", str(port), name],
            self.folder / f"{name}.log", {"GRPC_ENABLE_FORK_SUPPORT": "0"},
        )  # fmt: skip
        process.start()
        self.probes.append(process)
        self.ports.append(port)
        eventually(lambda: "serving" in process.output(), f"{name} serves", self.logs)
        return process, port

    def join(self, service: str, instance_id: str, port: int, contract: Contract | None = None, **meta: str) -> None:
        """Register an instance as a sidecar does."""

        async def run() -> None:
            async with connect(self.registry) as registry:
                if contract is not None:
                    await registry.put(PREFIX + service, contract.serialize())
                await registry.register(Registration(
                    service=service, id=instance_id, address="127.0.0.1", port=port, tags=(MESH_TAG,), ttl_seconds=600,
                    meta={key.replace("_", "-"): value for key, value in meta.items()},
                ))  # fmt: skip
                await registry.report(instance_id, Health.PASSING)

        asyncio.run(run())
        self._joined[instance_id] = service

    def leave(self, instance_id: str) -> None:
        """Take an instance out as a sidecar does: it says so first, and is deregistered later."""

        async def run() -> None:
            async with connect(self.registry) as registry:
                await registry.report(instance_id, Health.CRITICAL, "leaving")

        asyncio.run(run())

    def remove(self, instance_id: str) -> None:
        """Take an instance out of the registry altogether."""

        async def run() -> None:
            async with connect(self.registry) as registry:
                await registry.deregister(instance_id)

        asyncio.run(run())

    def _clean(self) -> None:
        async def run() -> None:
            async with connect(self.registry) as registry:
                for instance_id, service in self._joined.items():
                    await registry.deregister(instance_id)
                    await registry.delete(PREFIX + service)

        asyncio.run(run())

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.ask("GET", path, headers=headers)

    def ask(self, method: str, path: str, body: bytes | str = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """One request over HTTP/1.1; status 0 when nobody listens."""
        data = body.encode() if isinstance(body, str) else body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, data or None, dict(headers or {}))
                answer = connection.getresponse()
                found = {key.lower(): value for key, value in answer.getheaders()}
                return Answer(answer.status, found, answer.read())
            except (ConnectionError, http.client.RemoteDisconnected):
                return Answer(0, {}, b"")

    def connection(self) -> socket.socket:
        """A connection that nothing was said on."""
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_SECONDS)

    def raw(self, data: bytes) -> bytes:
        """Bytes in, bytes out until the edge closes."""
        with self.connection() as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    @contextlib.contextmanager
    def stream(self, path: str, **headers: str) -> Iterator[tuple[http.client.HTTPResponse, IO[bytes]]]:
        """A GET whose body is read as it comes; leaving the block closes the connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            yield answer, answer
            answer.close()


def eventually(check: Callable[[], bool], what: str, logs: Callable[[], str] = str) -> None:
    """Wait until the check holds; fail with the logs when it does not within the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE_SECONDS} s: {what}\n{logs()}")
        time.sleep(0.02)
