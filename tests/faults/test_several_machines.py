"""docs/several-machines.md holds: its commands, on two hosts that are network namespaces with a real Consul each."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import pytest

from tests.e2e.conftest import BIN, ROOT
from tests.fixtures.consul import consul_process
from tests.fixtures.shop import eventually

PAGE = (ROOT / "docs" / "several-machines.md").read_text()
README = (ROOT / "README.md").read_text()
BLOCKS = [dedent(found[0]) for found in re.finditer(r"(?:^ {4}\S.*\n)+", PAGE, re.MULTILINE)]

AGENT, RIGHTS, EDGE_RIGHTS, RUN, CALL, STORES, UP, CURL = KINDS = (
    "consul agent", 'service "greeter"', 'service "gateway"', "mesh run", "call.py", "[stores]", "mesh up",
    "curl -s http",
)  # fmt: skip
"""Something that just one block of the page has. `tests/integration/test_rights.py` proves the rights."""

ENOUGH = 4
LEADER = "curl -sf 127.0.0.1:8500/v1/status/leader"
ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2"}
PATH = f"{BIN}:/usr/bin:/bin:/usr/sbin:/sbin"


def block(kind: str) -> str:
    """The one block of a kind."""
    (found,) = (text for text in BLOCKS if kind in text)
    return found


def readme(start: str) -> str:
    """The fenced block of the README that begins with a text."""
    found = re.search(rf"```\w*\n({re.escape(start)}.*?)```", README, re.DOTALL)
    assert found, f"no block in the README begins with {start!r}"
    return found[1]


@dataclass
class Machine:
    """A host with a folder of its own, and what was started on it."""

    name: str
    namespace: str
    folder: Path
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, commands: str) -> str:
        """What commands print; empty when they fail."""
        with (self.folder / "log").open("ab") as log:
            done = subprocess.run(
                self._words(commands), cwd=self.folder, env=self._environ, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log, text=True, timeout=30, check=False,
            )  # fmt: skip
        return done.stdout if done.returncode == 0 else ""

    def start(self, kind: str) -> subprocess.Popen[bytes]:
        """Start what a block of the page has for this host; its last command goes on until it is stopped."""
        part = re.search(rf"# host {self.name}\n((?:[^#].*\n)+)", block(kind))
        assert part, f"{kind} has nothing for host {self.name}"
        *first, last = part[1].splitlines()
        with (self.folder / "log").open("ab") as log:
            commands = "\n".join([*first, f"exec {last}"])
            started = subprocess.Popen(
                self._words(commands), cwd=self.folder, env=self._environ, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log,
            )  # fmt: skip
        self._started.append(started)
        return started

    def stop(self) -> None:
        """Stop what was started, the last one first; nobody waits for the agent to leave."""
        agent, *others = self._started
        for process in reversed(others):
            stopped(process)
        agent.kill()
        agent.wait(20)

    def said(self) -> str:
        """What everything on this host has said, for failures."""
        return f"host {self.name}:\n{(self.folder / 'log').read_text(errors='replace')[-4000:]}\n"

    def _words(self, commands: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, "sh", "-euc", commands]

    @property
    def _environ(self) -> dict[str, str]:
        return {"PATH": f"{self.folder.parent}:{PATH}", "HOME": str(self.folder)}


def stopped(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and see that it does."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
        raise


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    """Two hosts with agents that know each other; the program of the README, which tells where it is, lies on both."""
    folder = tmp_path_factory.mktemp("machines")
    (folder / "consul").symlink_to(consul_process(folder).command[0])
    with ExitStack() as ending:
        a, b = (Machine(name, f"mesh-{os.getpid()}-{name}", folder / name) for name in "ab")
        _connect(a.namespace, b.namespace, ending)
        for machine in (a, b):
            _write_greeter(machine.folder)
            machine.start(AGENT)
            ending.callback(machine.stop)
            eventually(lambda on=machine: "10.77.0.1" in on.run(LEADER))  # type: ignore[misc]
        yield a, b


def _connect(a: str, b: str, ending: ExitStack) -> None:
    """Two network namespaces with a cable between them; skips where none can be made."""
    if os.geteuid() != 0 or not shutil.which("ip", path=PATH):
        pytest.skip("two hosts on one machine need root and the command ip")
    for namespace in (a, b):
        made = subprocess.run(["ip", "netns", "add", namespace], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
        ending.callback(subprocess.run, ["ip", "netns", "del", namespace], check=True)
    _ip(f"link add eth0 netns {a} type veth peer name eth0 netns {b}")
    for namespace, address in ((a, ADDRESSES["a"]), (b, ADDRESSES["b"])):
        _ip(f"-n {namespace} address add {address}/24 dev eth0")
        _ip(f"-n {namespace} link set eth0 up")
        _ip(f"-n {namespace} link set lo up")


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def _write_greeter(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "greeter.proto").write_text(readme("// greeter.proto"))
    program = readme("# greeter.py")
    told = program.replace('f"Hello, {request.name}"', '"from " + __import__("os").environ["MESH_HOST"]')
    assert told != program
    (folder / "greeter.py").write_text(told)
    call = readme("async with mesh.channel").replace("\n", "\n    ")
    (folder / "call.py").write_text(
        "import asyncio, mesh\n"
        "from greeter_pb2 import SayHelloRequest\n"
        "from greeter_pb2_grpc import GreeterServiceStub\n"
        f"async def main():\n    {call}\n        print(reply.message)\n"
        "asyncio.run(main())\n"
    )
    made = readme("python -m grpc_tools.protoc")
    subprocess.run(["sh", "-ec", made], cwd=folder, env={"PATH": PATH}, check=True)


def test_every_block_of_the_page_is_run() -> None:
    assert [[kind for kind in KINDS if kind in text] for text in BLOCKS] == [[kind] for kind in KINDS]


def test_programs_on_both_hosts_answer_on_either_and_so_do_both_edges(machines: tuple[Machine, Machine]) -> None:
    a, b = machines
    on_a, on_b = (machine.start(RUN) for machine in machines)
    for machine in machines:
        until_answered(machines, machine.name, lambda on=machine: on.run(block(CALL)))  # type: ignore[misc]

    # What mesh.toml names is on the mesh as well: on host b it takes the place of what was run by hand.
    stopped(on_b)
    (a.folder / "mesh.toml").write_text(block(STORES))
    (b.folder / "mesh.toml").write_text(block(STORES) + readme("[services.greeter]"))
    for machine in machines:
        machine.start(UP)
    for machine in machines:
        for line in block(CURL).splitlines():
            until_answered(machines, "ab", lambda on=machine, line=line: on.run(line))  # type: ignore[misc]
    assert "console" not in json.loads(a.run("curl -sf 127.0.0.1:8500/v1/catalog/services"))
    for machine in machines:
        for address in ADDRESSES.values():
            for _ in range(8):
                code = machine.run(f"curl -s -o /dev/null -w '%{{http_code}}' http://{address}:8080/api/services")
                assert code == "401", said(machines)  # the console of either host is there, and wants its token
    assert not a.run("curl -sf http://127.0.0.1:8080/healthz")

    stopped(on_a)
    until_answered(machines, "b", lambda: a.run(block(CALL)))


def until_answered(machines: tuple[Machine, Machine], hosts: str, call: Callable[[], str]) -> None:
    """Call until the last few calls were answered by these hosts, and by no other."""
    heard: list[str] = []

    def is_so() -> bool:
        answer = call()
        heard.append(next((name for name, address in ADDRESSES.items() if f"from {address}" in answer), "nobody"))
        return len(heard) >= ENOUGH and {*heard[-ENOUGH:]} == {*hosts}

    try:
        eventually(is_so)
    except AssertionError:
        pytest.fail(f"answered: {heard[-12:]}\n{said(machines)}")


def said(machines: tuple[Machine, Machine]) -> str:
    """What both hosts have said."""
    return "".join(machine.said() for machine in machines)
