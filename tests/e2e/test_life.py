"""A stack's life with `make up`: it says where it is and what to try, and data outlives it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Stack, stack_in


@pytest.fixture
def down() -> Iterator[Stack]:
    """A stack that is not up."""
    with tempfile.TemporaryDirectory(prefix="mesh-e2e-") as folder:
        made = stack_in(Path(folder) / "state", None)
        yield made
        made.mesh("down", check=False)


def make_up(stack: Stack, *words: str) -> str:
    """`make up` in the background; what it prints."""
    arguments = " ".join(("--detach", "--dir", str(stack.state), *stack.flags, *words))
    command = ["make", "--silent", "up", f"ARGS={arguments}"]
    return subprocess.run(command, cwd=ROOT, env=stack.environ, text=True, stdout=subprocess.PIPE, check=True).stdout


def test_data_survives_a_restart_until_it_is_to_be_fresh(down: Stack) -> None:
    shown = make_up(down)
    commands = shown.split("Try:\n")[1].splitlines()
    assert [line.split()[0] for line in commands if line] == ["curl", "curl", "curl"]
    assert f"http://localhost:{down.gateway_port}" in shown
    assert subprocess.run(commands[0], shell=True, capture_output=True, check=True).stdout.startswith(b"{")

    run = down.curl("/v1/syncs", "-X", "POST", "-d", json.dumps({"requestId": str(uuid.uuid4())}))
    down.curl_text(f"/v1/syncs/{run['id']}:watch", "-N")
    users = down.curl("/v1/users?page_size=3")
    assert len(users["users"]) == 3

    down.mesh("down")
    assert down.mesh("ps", check=False).returncode == 1
    make_up(down)
    assert down.curl("/v1/users?page_size=3") == users
    assert down.curl(f"/v1/syncs/{run['id']}")["state"] == "STATE_SUCCEEDED"

    down.mesh("down")
    make_up(down, "--fresh")
    assert down.curl("/v1/users?page_size=3") == {}
