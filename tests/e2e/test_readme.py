"""What the README shows is so, taken from the README itself."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import BIN, ROOT, Stack, stack_in
from tests.fixtures.consul import consul_process
from tests.fixtures.shop import eventually

README = (ROOT / "README.md").read_text()
GREETER = "greeter.v1.GreeterService"

TOUR = (". .venv/bin/activate", "ORDER_ID=$(", "grpcurl -plaintext localhost", "TRACE=$(", "curl -sN localhost")
"""How the blocks begin that are typed one after the other into one shell."""

OWN = (
    "python -m grpc_tools", "mesh run --service greeter", "curl -s localhost:8080/v1/hello", "[services.greeter]",
    "GRPC_XDS_BOOTSTRAP=",
)  # fmt: skip
OTHERS = ("make up", "consul agent -dev", "make test")
"""`make up` is what the fixtures run as `mesh up`; the last runs this."""

TYPED = """
first() {
  mkfifo pipe$$; command curl "$@" > pipe$$ & head -n 1 < pipe$$; kill $!; rm pipe$$
}
curl() {
  case "$*" in *types=order* | *orders/*:watch*) first "$@" ;; *) command curl "$@" ;; esac
}
sleep() {
  until command curl -s localhost:8080/api/traces/$TRACE | grep -q spanID; do command sleep 0.1; done
}
"""
"""What people do besides: they end a stream that goes on when they have seen something, and look for a trace again."""


def blocks() -> list[str]:
    """The blocks that are commands or a part of a stack file."""
    return re.findall(r"```(?:sh|toml)\n(.*?)```", README, re.DOTALL)


def block(start: str) -> str:
    """The fenced block that begins with a text."""
    found = re.search(rf"```\w*\n({re.escape(start)}.*?)```", README, re.DOTALL)
    assert found, f"no block in the README begins with {start!r}"
    return found[1]


def test_every_block_is_known() -> None:
    known = (*TOUR, *OWN, *OTHERS)
    assert [text for text in blocks() if not text.startswith(known)] == []
    assert [start for start in known if not any(text.startswith(start) for text in blocks())] == []


@pytest.mark.parametrize("stack", ["dev"], indirect=True)
def test_what_is_typed_after_make_up_shows_what_it_is_to_show(stack: Stack) -> None:
    shown = typed(stack, TYPED + "\n".join(block(start) for start in TOUR), ROOT)
    assert '"code":' not in shown
    for text in (
        '"health":"HEALTH_PASSING"', '"STATE_SUCCEEDED"', '"nextPageToken"', '"customerId"', '"lastEventId"',
        "meshwright.order.v1.OrderService\n", '"createdCount": "3"', '"spanID"',
    ):  # fmt: skip
        assert text in shown, shown
    assert '"sync":{"id"' in shown.splitlines()[-1], "lines of JSON"


def typed(stack: Stack, commands: str, folder: Path) -> str:
    """What commands print; they must end well."""
    done = subprocess.run(
        ["sh", "-ec", commands.replace("localhost:8080", f"localhost:{stack.gateway_port}")],
        cwd=folder, env={**stack.environ, "MESH_DIR": str(stack.state)},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the README has one write, and what its command makes of them."""
    folder = tmp_path_factory.mktemp("greeter")
    for name, mark in (("greeter.proto", "// "), ("greeter.py", "# ")):
        (folder / name).write_text(block(mark + name))
    (folder / "mesh.toml").write_text("[stores]\npostgres = false\nvalkey = false\n\n" + block("[services.greeter]"))
    environ = {"PATH": f"{BIN}:/usr/bin:/bin"}
    subprocess.run(["sh", "-ec", block("python -m grpc_tools.protoc")], cwd=folder, env=environ, check=True)
    return folder


@pytest.fixture
def greeter(stack: Stack, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`mesh run` as the README has it, on a mesh that is up."""
    command = block("mesh run --service greeter").split()
    command[1:2] = ["run", "--dir", str(stack.state)]
    process = subprocess.Popen(command, cwd=folder, env=stack.environ)
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) is not None


def test_a_service_of_ones_own_has_a_rest_api_is_listed_and_can_be_dialled(
    stack: Stack, folder: Path, greeter: subprocess.Popen[bytes]
) -> None:
    eventually(lambda: stack.curl("/v1/hello/Ann") == {"message": "Hello, Ann"})
    shown = typed(stack, block("curl -s localhost:8080/v1/hello"), folder)
    assert shown.startswith('{"message":"Hello, Ann"}')
    assert f"{GREETER}\n" in shown

    call = block("async with mesh.channel").replace("\n", "\n    ")
    program = (
        "import asyncio, mesh\n"
        "from greeter_pb2 import SayHelloRequest\n"
        "from greeter_pb2_grpc import GreeterServiceStub\n"
        f"async def main():\n    {call}\n        print(reply.message)\n"
        "asyncio.run(main())\n"
    )
    environ = {**stack.environ, "GRPC_XDS_BOOTSTRAP": stack.mesh("bootstrap").stdout.strip()}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "Hello, Ann\n"


def test_a_stack_of_ones_own_in_plaintext_with_a_real_consul(folder: Path, tmp_path: Path) -> None:
    """Without stores, which take time to start: the greeter needs none."""
    stack = stack_in(tmp_path / "state", None)
    consul = consul_process(tmp_path)
    up = shlex.join(["exec", "mesh", "up", "--plaintext", *stack.flags, "--dir", str(stack.state)])
    command = block("consul agent -dev").replace("consul agent -dev", shlex.join(consul.command))
    with started(command.replace("127.0.0.1:8500", consul.address).replace("make up", up), stack, folder) as log:
        deadline = time.monotonic() + 60
        while "All is ready" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        assert {"greeter-1", "greeter-2"} < stack.processes().keys()
        eventually(lambda: stack.curl("/v1/hello/Ann") == {"message": "Hello, Ann"})
        assert len(consul.ask("GET", "/v1/health/service/greeter?passing")) == 2
        assert json.loads(typed(stack, block("GRPC_XDS_BOOTSTRAP="), folder)) == {"message": "Hello, Ann"}
        assert "! PLAINTEXT: " in stack.mesh("check").stdout
        assert "mesh: PLAINTEXT: " in log.read_text()


@contextmanager
def started(command: str, stack: Stack, folder: Path) -> Iterator[Path]:
    """A shell that ends as `mesh up`, in a process group of its own with what it left in the background; its log."""
    log = stack.state.parent / "shell.log"
    with log.open("wb") as out:
        shell = subprocess.Popen(
            ["sh", "-ec", command], cwd=folder, env=stack.environ, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield log
    finally:
        shell.send_signal(signal.SIGTERM)
        shell.wait(60)
        os.killpg(shell.pid, signal.SIGTERM)
