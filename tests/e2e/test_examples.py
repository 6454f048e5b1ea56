"""The programs in examples/ on a whole stack, by the commands in their READMEs."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Stack
from tests.fixtures.node import node_environ

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module", autouse=True)
def built(node_packages: Path) -> None:
    """What the READMEs have people make first."""
    for example in ("greeter", "receipts"):
        command = commands(example, "python -m grpc_tools.protoc")[0]
        subprocess.run(command, shell=True, cwd=EXAMPLES / example, env=environ({}), check=True, timeout=60)


def commands(example: str, start: str) -> list[str]:
    """The commands in a README that begin so."""
    text = (EXAMPLES / example / "README.md").read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith(f"    {start}")]


def environ(stack_environ: dict[str, str]) -> dict[str, str]:
    """A shell in which the venv is active and Node.js is found."""
    path = os.pathsep.join([str(ROOT / ".venv" / "bin"), stack_environ.get("PATH", ""), node_environ()["PATH"]])
    return {**os.environ, **stack_environ, "PATH": path}


@contextmanager
def running(stack: Stack, example: str) -> Iterator[subprocess.Popen[bytes]]:
    """An example on the mesh, as its README says."""
    command = commands(example, "mesh run")[0].replace("../../.mesh", str(stack.state))
    process = subprocess.Popen(shlex.split(command), cwd=EXAMPLES / example, env=environ(stack.environ))
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def shell(stack: Stack, command: str, example: str) -> str:
    """A command of a README, with the ports and folders of this stack."""
    line = command.replace("../../.mesh", str(stack.state)).replace("localhost:8080", f"localhost:{stack.gateway_port}")
    line = line.replace("localhost:8500", stack.registry)
    done = subprocess.run(
        line, shell=True, cwd=EXAMPLES / example, env=environ(stack.environ), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    return done.stdout


def until(answer: Callable[[], str], wanted: Callable[[Any], bool]) -> Any:
    """The first answer in JSON that is as wanted; fails after 40 s."""
    deadline, found = time.monotonic() + 40, ""
    while time.monotonic() < deadline:
        found = answer()
        try:
            if wanted(content := json.loads(found)):
                return content
        except (ValueError, LookupError, TypeError):
            continue
    raise AssertionError(found)


def serving(answer: Any, service: str) -> int:
    """How many instances of a service are healthy, by StatusService's answer."""
    (found,) = (each for each in answer["services"] if each["name"] == service)
    return sum(instance["health"] == "HEALTH_PASSING" for instance in found["instances"])


def test_a_service_in_plain_grpcio(stack: Stack) -> None:
    call = commands("greeter", "GRPC_XDS_BOOTSTRAP")[0]
    allow, rest, forbid = commands("greeter", "curl")
    with ExitStack() as ending:
        first = ending.enter_context(running(stack, "greeter"))
        ending.enter_context(running(stack, "greeter"))
        ending.callback(shell, stack, forbid, "greeter")
        shell(stack, allow, "greeter")
        until(lambda: stack.curl_text("/v1/services"), lambda answer: serving(answer, "hello") == 2)
        for command in (call, rest):
            found = until(lambda line=command: shell(stack, line, "greeter"), lambda m: m["message"])  # type: ignore[misc]
            assert found == {"message": "Hello, Ada"}
        first.send_signal(signal.SIGTERM)
        while first.poll() is None:
            assert json.loads(shell(stack, call, "greeter")) == {"message": "Hello, Ada"}


def test_a_service_in_node_that_calls_another(stack: Stack) -> None:
    order = an_order(stack)
    with running(stack, "receipts"):
        receipt = commands("receipts", "curl")[0]
        found = until(lambda: shell(stack, receipt, "receipts"), lambda r: r["orderId"])
        assert found == {"orderId": order, "lines": ["2 x A-1 at 12.50 EUR", "Total 25.00 EUR"]}
        missing = stack.curl(f"/v1/receipts/{uuid.uuid4()}")
        assert (missing["code"], missing["message"].startswith("order: ")) == (5, True), missing


def an_order(stack: Stack) -> str:
    """Id of a new order."""
    run = stack.curl("/v1/syncs", "-X", "POST", "-d", json.dumps({"requestId": str(uuid.uuid4())}))
    stack.curl_text(f"/v1/syncs/{run['id']}:watch", "-N")
    user = stack.curl("/v1/users?page_size=1")["users"][0]["id"]
    price = {"currencyCode": "EUR", "units": "12", "nanos": 500000000}
    line = {"sku": "A-1", "quantity": 2, "unitPrice": price}
    body = {"requestId": str(uuid.uuid4()), "customerId": user, "lines": [line]}
    return str(stack.curl("/v1/orders", "-X", "POST", "-d", json.dumps(body))["id"])
