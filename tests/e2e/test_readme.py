"""What the README says about a service of one's own holds, taken from the README itself."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import BIN, ROOT, Stack
from tests.fixtures.shop import eventually

README = (ROOT / "README.md").read_text()
GREETER = "greeter.v1.GreeterService"


def block(start: str) -> str:
    """The fenced block that begins with a text."""
    found = re.search(rf"```\w*\n({re.escape(start)}.*?)```", README, re.DOTALL)
    assert found, f"no block in the README begins with {start!r}"
    return found[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the README has one write, and what its command makes of them."""
    folder = tmp_path_factory.mktemp("greeter")
    for name, mark in (("greeter.proto", "// "), ("greeter.py", "# ")):
        (folder / name).write_text(block(mark + name))
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


def test_it_has_a_rest_api_is_listed_and_can_be_dialled(
    stack: Stack, folder: Path, greeter: subprocess.Popen[bytes]
) -> None:
    eventually(lambda: stack.curl("/v1/hello/Ann") == {"message": "Hello, Ann"})
    assert GREETER in stack.grpcurl(f"localhost:{stack.gateway_port}", "list").split()
    bootstrap = stack.mesh("bootstrap").stdout.strip()
    answer = stack.grpcurl(
        "-d", '{"name":"Ann"}', "xds:///greeter", f"{GREETER}/SayHello", GRPC_XDS_BOOTSTRAP=bootstrap
    )
    assert json.loads(answer) == {"message": "Hello, Ann"}

    call = block("async with mesh.channel").replace("\n", "\n    ")
    program = (
        "import asyncio, mesh\n"
        "from greeter_pb2 import SayHelloRequest\n"
        "from greeter_pb2_grpc import GreeterServiceStub\n"
        f"async def main():\n    {call}\n        print(reply.message)\n"
        "asyncio.run(main())\n"
    )
    environ = {**stack.environ, "GRPC_XDS_BOOTSTRAP": bootstrap}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "Hello, Ann\n"
