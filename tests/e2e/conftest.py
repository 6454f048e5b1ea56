"""A whole stack, started as a user starts it: once on the dev registry, once on a real Consul."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh.paths import Paths
from mesh.ports import free_port
from tests.fixtures.consul import RegistryProcess, consul_process

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TOKEN = "7ea5e7e5-0000-4000-8000-00000000feed"
"""Sent with each request; neither the dev registry nor a Consul without ACLs asks for any."""

OWN_SERVERS = ("CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "DATABASE_URL", "REDIS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A running stack and the commands a user has."""

    state: Path
    gateway_port: int
    flags: tuple[str, ...]
    environ: dict[str, str]
    consul: bool
    folder: Path = ROOT
    """Where its mesh.toml is: the project's, unless it has one of its own."""

    @property
    def paths(self) -> Paths:
        """Where it keeps its files."""
        return Paths.locate(self.environ, self.state)

    @property
    def registry(self) -> str:
        """Host and port of its registry."""
        named = self.environ.get("CONSUL_HTTP_ADDR", "").removeprefix("http://")
        return named or f"localhost:{self.flags[3]}"

    def mesh(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command `mesh` in the folder of its mesh.toml."""
        done = subprocess.run(
            [BIN / "mesh", *words, "--dir", self.state],
            cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=110, check=False,
        )
        assert not check or done.returncode == 0, f"mesh {' '.join(words)}: {done.stdout}\n{done.stderr}"
        return done

    def up(self, *words: str) -> str:
        """Start it in the background; what it prints."""
        return self.mesh("up", "--detach", *self.flags, *words).stdout

    def processes(self) -> dict[str, dict[str, Any]]:
        """`mesh ps --output json` by name."""
        listed = json.loads(self.mesh("ps", "--output", "json").stdout)
        return {process["name"]: process for process in listed}

    def curl(self, path: str, *words: str) -> Any:
        """JSON that the gateway answers."""
        return json.loads(self.curl_text(path, *words))

    def curl_text(self, path: str, *words: str) -> str:
        """What the gateway answers."""
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "60", f"localhost:{self.gateway_port}{path}", *words],
            capture_output=True, text=True, timeout=90, check=True,
        )
        return done.stdout

    def grpcurl(self, *words: str, **environ: str) -> str:
        """Output of grpcurl; it must succeed."""
        done = subprocess.run(
            [BIN / "grpcurl", "-plaintext", *words],
            env={**self.environ, **environ}, capture_output=True, text=True, timeout=60, check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def stack_in(folder: Path, consul: RegistryProcess | None) -> Stack:
    """A stack on free ports with its state in a folder; nothing is started."""
    gateway, registry, otlp_grpc, otlp_http = (free_port() for _ in range(4))
    environ = {key: value for key, value in os.environ.items() if key not in OWN_SERVERS}
    environ["PATH"] = f"{BIN}:{environ['PATH']}"
    environ["CONSUL_HTTP_TOKEN"] = TOKEN
    environ["CLEAN_UP_CRON"] = "*/2 * * * * *"
    if consul:
        environ["CONSUL_HTTP_ADDR"] = consul.settings().address
    flags = ("--gateway-port", gateway, "--registry-port", registry,
             "--otlp-grpc-port", otlp_grpc, "--otlp-http-port", otlp_http)
    return Stack(
        state=folder, gateway_port=gateway, flags=tuple(map(str, flags)), environ=environ, consul=consul is not None
    )


@pytest.fixture(scope="session", params=["dev", "consul"])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack that is up, for all tests that leave it as they found it."""
    with tempfile.TemporaryDirectory(prefix="mesh-e2e-") as name, ExitStack() as ending:
        folder = Path(name)
        consul = None
        if request.param == "consul":
            consul = consul_process(folder)
            ending.callback(consul.stop)
            consul.start()
        made = stack_in(folder / "state", consul)
        ending.callback(made.mesh, "down", check=False)
        made.up()
        yield made
