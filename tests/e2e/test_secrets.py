"""A running stack shows its secrets to nobody: keys and tokens are where they have to be, and nowhere else."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.e2e.conftest import TOKEN, Stack

ADMIN = ("config_dump?include_eds", "certs", "clusters", "listeners", "stats", "server_info", "init_dump")
"""Pages of Envoy's admin interface."""

PAGES = (
    "/openapi.json", "/docs", "/console/", "/api/services", "/api/traces?service=order", "/api/traces?service=gateway",
)  # fmt: skip
COMMANDS = (
    ("ps", "--wide", "--output", "json"), ("check", "--output", "json"), ("explain", "order"), ("stack", "order-1"),
    ("stack", "sidecar"), ("top", "--once"), ("logs", "sidecar"),
)  # fmt: skip


def test_nobody_else_can_read_what_is_in_the_run_folder(stack: Stack) -> None:
    run = stack.paths.run
    found = {path: stat.S_IMODE(path.lstat().st_mode) for path in (run, *run.rglob("*")) if not path.is_symlink()}
    assert {path.name: oct(mode) for path, mode in found.items() if mode & 0o077} == {}
    assert len(list(stack.paths.identities.glob("*/current/key.pem"))) >= 4


def test_neither_keys_nor_tokens_are_shown(stack: Stack) -> None:
    secrets = list(secrets_of(stack))
    shown = dict(shown_by(stack))
    assert len(shown) > 40
    assert [what for what, text in shown.items() if any(secret in text for secret in secrets)] == []
    assert [what for what, text in shown.items() if b"PRIVATE KEY" in text] == []


def secrets_of(stack: Stack) -> Iterator[bytes]:
    """The token, and the middle of each key, of the authority's too."""
    yield TOKEN.encode()
    keys = [file.read_text() for file in stack.paths.identities.glob("*/current/key.pem")]
    for file in (stack.paths.registry / "authority").glob("*.json"):
        keys += [root["PrivateKey"] for root in json.loads(file.read_text())["Roots"]]
    for key in keys:
        yield key.splitlines()[2].encode()


def shown_by(stack: Stack) -> Iterator[tuple[str, bytes]]:
    """All that a stack tells, by where."""
    for file in (*stack.paths.logs.iterdir(), *stack.state.glob("*.json"), *stack.paths.run.rglob("*")):
        if file.is_file() and file.name != "key.pem":
            yield str(file), file.read_bytes()
    admin = str(stack.paths.envoy_admin_socket)
    for page in ADMIN:
        yield page, output("curl", "-sS", "--unix-socket", admin, f"http://envoy/{page}")
    for page in PAGES:
        yield page, stack.curl_text(page).encode()
    for words in COMMANDS:
        done = stack.mesh(*words)
        yield " ".join(words), (done.stdout + done.stderr).encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # one that ends meanwhile
            if os.fsencode(stack.state) in (process / "environ").read_bytes():
                yield f"{process}/cmdline", (process / "cmdline").read_bytes()


def output(*command: str) -> bytes:
    """What a command prints; it must succeed."""
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
