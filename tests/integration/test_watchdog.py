"""A loop that is held up is told of once, with what holds it; `mesh stack` shows what a hung process does."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from mesh import watchdog
from mesh.config import Watch
from mesh.errors import Code, Error
from mesh.stack_of import stacks
from tests.fixtures.echo import bare, path, served, unary_unary
from tests.fixtures.programs import held_up
from tests.fixtures.prometheus import own, value
from tests.fixtures.spans import Spans

pytestmark = pytest.mark.timeout(60)
HOLD_SECONDS = 1.2


def hold_the_loop() -> None:
    time.sleep(HOLD_SECONDS)


async def held(request: bytes, context: Any) -> bytes:
    hold_the_loop()
    return request


class Stalls:
    """All stalls while a test runs."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[watchdog.Stall] = queue.SimpleQueue()
        self.add = self._queue.put

    async def over(self, in_function: str) -> watchdog.Stall:
        """The first stall that is over and has the function on its stack."""
        while True:
            stall = await asyncio.to_thread(self._queue.get, timeout=30)
            if stall.over and any(in_function in line for line in stall.stack):
                return stall


@pytest.fixture
def stalls() -> Iterator[Stalls]:
    found = Stalls()
    with watchdog.listening(found.add):
        yield found


async def test_a_call_that_holds_the_loop_is_named_in_log_span_and_listeners(
    stalls: Stalls, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mesh.watchdog")
    before = value(own(), "event_loop_stalls_total")
    async with served({"Held": unary_unary(held)}) as server, bare(server) as channel:
        assert await channel.unary_unary(path("Held"))(b"x") == b"x"
        stall = await stalls.over("hold_the_loop")
    assert stall.stack[0].startswith("  hold_the_loop (")
    assert stall.seconds > HOLD_SECONDS / 2
    told = [record.getMessage() for record in caplog.records if "hold_the_loop" in record.getMessage()]
    assert len(told) == 1
    assert value(own(), "event_loop_stalls_total") >= before + 1
    assert any("goes on after" in record.getMessage() for record in caplog.records)
    events = (await spans.next(SpanKind.SERVER)).events
    assert [event.name for event in events] == ["event loop held up"]
    assert "hold_the_loop" in str((events[0].attributes or {})["code.stacktrace"])


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
        told = until_seen(tmp_path, "held-up", "Task patient\n  Event.wait (")
    assert "(event loop)\n  hold (" in told


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
