"""Commands and the run folder: one that others can enter is not believed, an unusable one is told in one line."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.__main__ import main as gateway
from mesh.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = Paths.locate(os.environ, tmp_path / "state")
    found.prepare()
    yield found
    shutil.rmtree(found.run)


def mesh(paths: Paths, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mesh", *words, "--dir", paths.state],
        env={**os.environ, "CONSUL_HTTP_ADDR": "127.0.0.1:1"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", [("ps",), ("down",), ("restart", "web"), ("bootstrap",)], ids=" ".join)
def test_a_client_believes_nothing_in_a_run_folder_that_others_can_enter(
    paths: Paths, command: tuple[str, ...]
) -> None:
    paths.bootstrap.write_text("{}")
    paths.run.chmod(0o777)
    done = mesh(paths, *command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"mesh: {paths.run} can be entered by others; remove it")
    assert len(done.stderr.splitlines()) == 1


def test_a_run_folder_that_cannot_be_made_is_told_with_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc")  # where not even root makes a folder
    paths = Paths.locate(os.environ, tmp_path / "state")
    done = mesh(paths, "sidecar")
    assert done.returncode == 1
    assert done.stderr.startswith(f"mesh: cannot make the folder {paths.run}: ")
    assert done.stderr.endswith("; set XDG_RUNTIME_DIR to a folder of your own\n")


def test_an_edge_beside_that_of_a_stack_is_refused(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as launcher:
        launcher.bind(str(paths.launcher_socket))
        launcher.listen()
        assert gateway(["--dir", str(paths.state)]) == 1
    assert "`mesh restart gateway`" in capsys.readouterr().err


def test_a_sidecar_that_cannot_start_says_why_in_one_line(paths: Paths) -> None:
    paths.bootstrap.mkdir()
    done = mesh(paths, "sidecar")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"mesh: {paths.bootstrap}")
    assert "Traceback" not in done.stderr
