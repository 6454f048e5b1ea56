"""A loop that is held up is told of once, with what holds it; `mesh stack` shows what a hung process does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from mesh import watchdog
from mesh.config import Watch
from mesh.errors import Code, Error
from mesh.hangs import look
from mesh.ports import free_port, owner
from mesh.stack_of import stacks
from mesh.watchdog import Watchdog
from tests.fixtures.echo import bare, path, served, unary_unary
from tests.fixtures.programs import held_up
from tests.fixtures.prometheus import own, value
from tests.fixtures.shop import eventually, until
from tests.fixtures.spans import Spans

pytestmark = pytest.mark.timeout(60)
HOLD_SECONDS = 1.2


def hold_the_loop() -> None:
    time.sleep(HOLD_SECONDS)


async def held(request: bytes, context: Any) -> bytes:
    hold_the_loop()
    return request


async def test_a_call_that_holds_the_loop_is_named_in_log_and_span(
    spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mesh.watchdog")
    before = value(own(), "event_loop_stalls_total")
    async with served({"Held": unary_unary(held)}) as server, bare(server) as channel:
        assert await channel.unary_unary(path("Held"))(b"x") == b"x"
        await until(said(caplog, "goes on after"))
    told = [record.getMessage() for record in caplog.records if "hold_the_loop" in record.getMessage()]
    assert len(told) == 1
    assert f"by hold_the_loop ({__file__}:" in told[0]
    assert value(own(), "event_loop_stalls_total") >= before + 1
    (event,) = (await spans.next(SpanKind.SERVER)).events
    attributes = event.attributes or {}
    assert (event.name, attributes["code.function.name"]) == ("event loop held up", "hold_the_loop")
    assert attributes["code.file.path"] == __file__
    assert str(attributes["code.stacktrace"]).startswith("  hold_the_loop (")


async def test_what_is_named_is_the_programs_own_code(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mesh.watchdog")

    def listen_in_vain() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, contextlib.suppress(TimeoutError):
            server.settimeout(HOLD_SECONDS)
            server.accept()

    with watchdog.watching(Watch(name="test")):
        listen_in_vain()
        await until(said(caplog, "goes on after"))
    assert any("listen_in_vain (" in line for line in caplog.messages if "socket.accept (" in line)
    assert any("by test_what_is_named" in line and "listen_in_vain (" in line for line in caplog.messages)


async def test_native_code_that_lets_nothing_else_run_is_told_of_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    def keep_the_interpreter() -> None:
        sum(range(20_000_000))

    watch, before = Watch(name="test"), value(own(), "event_loop_stalls_total")
    with Watchdog(asyncio.get_running_loop(), watch.stall_seconds, None, start_seconds=0.0).running():
        await asyncio.sleep(watch.stall_seconds)  # the thread has begun to look
        while "nothing of this process ran for" not in caplog.text:  # where others took the processor, it is not told
            keep_the_interpreter()
            await asyncio.sleep(watch.stall_seconds)
    assert any("keep_the_interpreter (" in line for line in caplog.messages)
    assert value(own(), "event_loop_stalls_total") > before


def said(caplog: pytest.LogCaptureFixture, words: str) -> Callable[[], Awaitable[bool]]:
    """Whether the log has them."""

    async def look() -> bool:
        return any(words in record.getMessage() for record in caplog.records)

    return look


async def test_a_loop_is_watched_once(tmp_path: Path) -> None:
    watch = Watch(name="both", stacks_folder=str(tmp_path))
    with watchdog.watching(watch), watchdog.watching(watch):
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


@contextmanager
def program(folder: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", held_up.__name__, how]
    environ = {**os.environ, "MESH_STACKS": str(folder)}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def until_seen(folder: Path, name: str, text: str) -> str:
    deadline = time.monotonic() + 30
    while text not in (told := stacks(folder, name, {})) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert text in told, told
    return told


def test_a_hung_process_tells_its_stacks_and_tasks(tmp_path: Path) -> None:
    with program(tmp_path, "sleep"):
        told = until_seen(tmp_path, "held-up", "Held up")
    assert "Task patient\n  Event.wait (" in told
    assert "(event loop)\n  hold (" in told
    assert re.match(r"Held up for \d+\.\d s by hold \(.*held_up.py:\d+\)\n\nThread ", told)


def test_an_address_where_a_process_listens_names_it(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"no process of this host listens at 127\.0\.0\.1:1$"):
        stacks(tmp_path, "127.0.0.1:1", {})
    with subprocess.Popen([sys.executable, "-m", "http.server", str(port := free_port())]) as process:
        try:
            eventually(lambda: owner(port) is not None)
            assert "serve_forever (" in stacks(tmp_path, f"127.0.0.1:{port}", {})
        finally:
            process.kill()


def test_who_does_not_go_on_is_found(tmp_path: Path) -> None:
    with program(tmp_path, "sleep") as process:
        until_seen(tmp_path, "held-up", "Held up")
        listed = {"slow": process.pid, "idle": 0}
        eventually(lambda: look(tmp_path, listed)[0].held_up != "")
        (held,) = look(tmp_path, listed)
        assert (held.name, held.is_ours, held.is_stopped) == ("slow", True, False)
        assert re.fullmatch(r"held up for .* s by hold \(.*\)", held.held_up)
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: look(tmp_path, {})[0].is_stopped)
    assert look(tmp_path, {}) == []


def test_a_process_held_up_by_native_code_is_looked_at_from_outside(tmp_path: Path) -> None:
    with program(tmp_path, "native"):
        assert "held_up.py" in until_seen(tmp_path, "held-up", "hold (")


def test_a_stopped_process_is_said_to_be_stopped(tmp_path: Path) -> None:
    with program(tmp_path, "sleep") as process:
        until_seen(tmp_path, "held-up", "hold (")
        process.send_signal(signal.SIGSTOP)
        told = until_seen(tmp_path, str(process.pid), f"`kill -CONT {process.pid}`")
    assert "hold (" in told


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("nobody", Code.NOT_FOUND, "no process here is called 'nobody'; there are: idle, shell"),
        ("idle", Code.FAILED_PRECONDITION, "idle does not run now; `mesh ps` says why"),
        ("shell", Code.UNIMPLEMENTED, "shell runs "),
        ("4194304", Code.NOT_FOUND, "there is no process 4194304"),
    ],
)
def test_what_cannot_be_shown_is_said(tmp_path: Path, name: str, code: Code, text: str) -> None:
    with subprocess.Popen(["sleep", "60"]) as shell:
        try:
            with pytest.raises(Error) as refused:
                stacks(tmp_path, name, {"idle": 0, "shell": shell.pid})
        finally:
            shell.kill()
    assert refused.value.code is code
    assert refused.value.message.startswith(text)
