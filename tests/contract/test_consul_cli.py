"""The `consul` command and the built-in registry: it works, or one line says what is missing and what to do."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.consul import RegistryProcess
from tests.fixtures.shop import eventually

SERVICE, OTHER, KEY = "cli-service", "cli-other", "cli-key"
SETTING = {"Kind": "service-defaults", "Name": SERVICE, "Protocol": "grpc"}
DEFINITION = {"service": {"name": SERVICE, "port": 81, "tags": ["blue"], "check": {"ttl": "30s"}}}
PROBED = {"service": {"name": OTHER, "port": 81, "check": {"http": "http://127.0.0.1:81", "interval": "5s"}}}
EXPORTED = [{"key": f"{KEY}/a", "flags": 0, "value": "MQ=="}, {"key": f"{KEY}/b", "flags": 7, "value": "Mg=="}]
REAL = "not supported by the built-in registry; set CONSUL_HTTP_ADDR to a real Consul"


@dataclass(frozen=True)
class Cli:
    """The real `consul`, told one registry."""

    binary: str
    environ: dict[str, str]
    folder: Path

    def __call__(self, line: str, stdin: str = "") -> tuple[int, str]:
        """Exit code and everything printed."""
        done = subprocess.run(
            [self.binary, *line.split()], env=self.environ, cwd=self.folder, input=stdin, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout


def cli_of(registry: RegistryProcess, consul: RegistryProcess, folder: Path) -> Cli:
    for name, content in {"service": DEFINITION, "probed": PROBED, "setting": SETTING, "exported": EXPORTED}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CONSUL_")}
    address = registry.address.removeprefix("http://")
    return Cli(consul.command[0], {**environ, "CONSUL_HTTP_ADDR": address}, folder)


@pytest.fixture
def cli(registry_process: RegistryProcess, real_consul: RegistryProcess, tmp_path: Path) -> Cli:
    """The command with the built-in registry, and with a real Consul."""
    return cli_of(registry_process, real_consul, tmp_path)


@pytest.fixture
def dev_cli(dev_registry: RegistryProcess, real_consul: RegistryProcess, tmp_path: Path) -> Cli:
    """The command with the built-in registry."""
    return cli_of(dev_registry, real_consul, tmp_path)


WORKS = [
    ("members", "alive"),
    ("members -detailed", "role=consul"),
    ("info", "leader_addr = 127.0.0.1:"),
    ("catalog datacenters", "dc1"),
    ("catalog nodes", "127.0.0.1"),
    ("catalog nodes -detailed", "lan=127.0.0.1"),
    ("services register service.json", f"Registered service: {SERVICE}"),
    ("catalog services", SERVICE),
    ("catalog services -tags", "blue"),
    (f"catalog nodes -service={SERVICE}", "127.0.0.1"),
    (f"services register -name={OTHER} -port=84 -tag=green", f"Registered service: {OTHER}"),
    (f"services deregister -id={OTHER}", f"Deregistered service: {OTHER}"),
    ("services deregister service.json", f"Deregistered service: {SERVICE}"),
    (f"kv put {KEY}/a 1", "Success!"),
    (f"kv put -flags=7 {KEY}/b 2", "Success!"),
    (f"kv get {KEY}/a", "1\n"),
    (f"kv get -detailed {KEY}/b", "Flags            7"),
    (f"kv get -recurse {KEY}/", f"{KEY}/a:1\n{KEY}/b:2\n"),
    (f"kv get -keys {KEY}", f"{KEY}/\n"),
    (f"kv export {KEY}/", '"value": "Mg=="'),
    (f"kv delete {KEY}/a", "Success!"),
    (f"kv delete -recurse {KEY}/", "Success!"),
    ("kv import @exported.json", f"Imported: {KEY}/b"),
    (f"kv get -recurse {KEY}/", f"{KEY}/a:1\n{KEY}/b:2\n"),
    ("config write setting.json", f"Config entry written: service-defaults/{SERVICE}"),
    (f"config read -kind service-defaults -name {SERVICE}", '"Protocol": "grpc"'),
    ("config list -kind service-defaults", SERVICE),
    (f"config delete -kind service-defaults -name {SERVICE}", "Config entry deleted"),
    ("operator raft list-peers", "leader"),
    ("connect ca get-config", '"Provider": "consul"'),
    ("intention create -deny cli-a cli-b", "Created: cli-a => cli-b (deny)"),
    ("intention create -allow -replace cli-a cli-b", ""),
    ("intention get cli-a cli-b", "allow"),
    ("intention match cli-b", "cli-a"),
    ("intention check cli-a cli-b", "Allowed"),
    ("intention delete cli-a cli-b", "Intention deleted"),
]

FAILS = [
    (f"kv get {KEY}/none", "Error! No key exists at"),
    (f"kv put -cas -modify-index=1 {KEY}/a 2", "Error! Did not write to"),
    (f"config read -kind service-defaults -name {KEY}", "Config entry not found"),
    ("config read -kind nonsense -name x", "invalid config entry kind: nonsense"),
]

UNSUPPORTED = [
    "services register probed.json", f"kv put -acquire -session=abc {KEY}/lock 1", "operator autopilot get-config",
    f"lock {KEY}/lock true", "event -name=x", "exec true", "snapshot save x.snap",
    "acl bootstrap", "maint -enable", "rtt a", "join 127.0.0.1", "leave", "reload", "force-leave x", "keyring -list",
    "monitor",
]  # fmt: skip


def test_what_works(cli: Cli) -> None:
    # A Consul that started just now has yet to tell itself where its node is.
    eventually(lambda: "lan=127.0.0.1" in cli("catalog nodes -detailed")[1])
    for line, wanted in WORKS:
        code, out = cli(line)
        assert (code, wanted in out) == (0, True), f"consul {line}: {out}"


@pytest.mark.parametrize(("line", "told"), FAILS)
def test_what_fails_fails_alike(cli: Cli, line: str, told: str) -> None:
    code, out = cli(line)
    assert (code, told in out) == (1, True), out


@pytest.mark.parametrize("line", UNSUPPORTED)
def test_what_is_not_supported_says_so(dev_cli: Cli, line: str) -> None:
    code, out = dev_cli(line)
    assert code != 0
    assert len([told for told in out.splitlines() if told.endswith((f"{REAL})", REAL))]) == 1, out


@pytest.fixture
def watched(cli: Cli) -> Iterator[str]:
    """A key with a value."""
    key = f"{KEY}/watched"
    assert cli(f"kv put {key} one")[0] == 0
    yield key
    cli(f"kv delete {key}")


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("-type=key -key={key}", '"Value":"b25l"'),
        ("-type=keyprefix -prefix={key}", '"Value":"b25l"'),
        ("-type=services", "{"),
        ("-type=service -service=none", "[]"),
        ("-type=nodes", '"Address":"127.0.0.1"'),
        ("-type=checks", '"CheckID":"serfHealth"'),
    ],
)
def test_watch_tells_what_is_there(cli: Cli, watched: str, kind: str, wanted: str) -> None:
    assert wanted in next(_watch(cli, kind.format(key=watched)))


def test_watch_tells_what_changes(cli: Cli, watched: str) -> None:
    told: Iterator[Any] = map(json.loads, _watch(cli, f"-type=key -key={watched}"))
    assert next(told)["Value"] == "b25l"
    assert cli(f"kv put {watched} two")[0] == 0
    assert next(told)["Value"] == "dHdv"


def _watch(cli: Cli, kind: str) -> Iterator[str]:
    """What `consul watch` hands to a program, a line for each time."""
    process = subprocess.Popen(
        [cli.binary, "watch", *kind.split(), "sh", "-c", "cat; echo"], env=cli.environ, cwd=cli.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout
        for line in process.stdout:
            if line.strip():
                yield line
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)


def test_the_page_on_identity_sets_intentions(
    own_dev: RegistryProcess, real_consul: RegistryProcess, tmp_path: Path
) -> None:
    """By the command and by curl, as the page has it; the entry is only for newer versions than the real one here."""
    page = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()
    blocks = [block for block in re.findall(r"(?:^ {4,}\S.*\n)+", page, re.MULTILINE) if "ntention" in block]
    commands = "".join(block for block in blocks if block.lstrip().startswith(("consul", "curl")))
    (tmp_path / "consul").symlink_to(Path(real_consul.command[0]).resolve())
    host = own_dev.address.removeprefix("http://")
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CONSUL_HTTP_ADDR": host}
    script = commands.replace("localhost:8500", host).replace("curl", "curl -fsS")
    done = subprocess.run(["sh", "-euc", script], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    held = own_dev.ask("GET", "/v1/connect/intentions")
    assert [(one["SourceName"], one["DestinationName"], one["Action"]) for one in held] == [
        ("status", "order", ""), ("sync", "order", "allow"), ("*", "order", "deny"),
    ]  # fmt: skip
