"""The commands on the pages in docs/ do what the pages say, taken from the pages themselves."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import ROOT, Stack
from tests.fixtures.shop import eventually

SHOWN = {
    "how-a-call-travels.md: id=$(openssl": '"traceID"',
    "registry-and-catalog.md: curl": "mesh/contracts/order",
    "policy.md: mesh explain": "contract",
    "running-programs.md: curl -s ": 'syntax = "proto3";',
    "troubleshooting.md: mesh ps": "order-1 ",
    "troubleshooting.md: curl -s localhost:8500/v1/catalog/services": '"order"',
    "troubleshooting.md: curl -s localhost:8500/v1/health/service/order": '"Output"',
    "troubleshooting.md: curl -s 'localhost:8080": '"spans"',
    "troubleshooting.md: curl -s 'localhost:8080/v1/syncs": "meshwright.sync.v1.SyncService",
    "troubleshooting.md: curl -s 'localhost:8080/v1/orders": '"health"',
    "troubleshooting.md: curl -s 'localhost:8080/v1/taskResults": "{",  # nothing but that, as none fails
    "troubleshooting.md: redis=unix:": "users\t",
    "troubleshooting.md: grpcurl": "meshwright.order.v1.OrderService\n",
    "xds-and-dialects.md: mesh ps --wide": "order-1 ",
}
"""A page and how one of its blocks begins: what the block shows on a stack that is up."""

ELSEWHERE = {
    "benchmarks.md: ",  # minutes each
    "troubleshooting.md: mesh check",  # `tests/e2e/test_commands.py` runs it until all is well
    "identity.md: ",  # other languages; `tests/integration/test_identity.py` does the same in two of them
    "policy.md: ",  # `tests/contract/test_policy_doc.py` runs them
    "running-programs.md: mesh run",  # `files` runs it and the next, for the others of its page
    "running-programs.md: curl -fsS -X PUT",
    "how-a-call-travels.md: async with",  # Python; `tests/e2e/test_readme.py` runs the like
    "troubleshooting.md: mesh stack order-1  #",  # lines of an answer; `tests/faults/test_hangs.py` runs both commands
    "troubleshooting.md: kill -CONT",
    "troubleshooting.md: nox",  # a benchmark, which takes minutes
}


def blocks() -> Iterator[tuple[str, str]]:
    """The indented blocks of each page that is about one machine; `tests/faults/test_several_machines.py` runs more."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        if page.name != "several-machines.md":
            for found in re.finditer(r"(?:^ {4,}\S.*\n)+", page.read_text(), re.MULTILINE):
                yield page.name, re.sub(r"^ +", "", found[0], flags=re.MULTILINE)


def beginning(page: str, block: str) -> str | None:
    """The entry of `SHOWN` that a block belongs to: the longest one."""
    return max((key for key in SHOWN if f"{page}: {block}".startswith(key)), key=len, default=None)


def test_every_block_is_known() -> None:
    found = [(beginning(*block), ": ".join(block)) for block in blocks()]
    assert [text for key, text in found if key is None and not text.startswith(tuple(ELSEWHERE))] == []
    assert {key for key, _ in found if key} == set(SHOWN)


@pytest.fixture
def files(stack: Stack) -> Iterator[None]:
    """The program that a page puts on the mesh, in the foreground of another terminal."""
    command, allow = (
        block
        for start in ("mesh run", "curl -fsS -X PUT")
        for page, block in blocks()
        if f"{page}: {block}".startswith(f"running-programs.md: {start}")
    )
    environ = {**stack.environ, "MESH_DIR": str(stack.state)}
    process = subprocess.Popen(shlex.split(command), cwd=ROOT, env=environ)
    shown(allow.replace("localhost:8500", stack.registry), stack)
    eventually(lambda: "proto3" in stack.curl_text("/examples/greeter/hello.proto"))
    yield
    shown(f"curl -fsS -X DELETE {stack.registry}/v1/kv/mesh/service-config/files", stack)
    process.send_signal(signal.SIGTERM)
    process.wait(30)


@pytest.mark.usefixtures("files")
def test_each_block_shows_what_it_is_to_show(stack: Stack) -> None:
    for page, block in blocks():
        key = beginning(page, block)
        if key and ("localhost:8500" in block or not stack.consul):
            here = block.replace("localhost:8080", f"localhost:{stack.gateway_port}").replace("NAME", "order-1")
            assert SHOWN[key] in shown(here.replace("localhost:8500", stack.registry), stack)


def shown(commands: str, stack: Stack) -> str:
    """What commands print; they must end well and complain of nothing."""
    done = subprocess.run(
        ["sh", "-euc", commands], cwd=ROOT, env={**stack.environ, "MESH_DIR": str(stack.state)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), commands
    return done.stdout
