"""The supervisor with real processes: order of start, death, restart with and without overlap, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mesh.errors import Error
from mesh.guard import is_alive
from mesh.latest import Latest
from mesh.ports import free_port
from mesh.process import Command
from mesh.recovery import Backoff
from mesh.run import Observer
from mesh.scope import Scope
from mesh.up import probes
from mesh.up import supervisor as supervisor_module
from mesh.up import unit as unit_module
from mesh.up.lifecycle import State
from mesh.up.logs import tail
from mesh.up.metrics import shown
from mesh.up.parts import process
from mesh.up.supervisor import Supervisor
from mesh.up.unit import Part, Stage, Unit, always
from tests.fixtures.prometheus import scraped, told, value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SERVE = """
import signal, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    listener.accept()[0].close()
"""


def part(folder: Path, name: str, code: str = SERVE, **options: object) -> Part:
    log, port = folder / f"{name}.log", free_port()
    command = Command(argv=(sys.executable, "-c", code, str(port)), environ=os.environ, log=log, grace_seconds=2)
    ready = probes.anyone(probes.tcp(port))
    return Part(name=name, live=process(command, ready, f"127.0.0.1:{port}"), log=log, **options)  # type: ignore[arg-type]


async def becomes(unit: Unit, state: State, restarts: int = 0) -> None:
    async for status in unit.status.changes():
        if status.state is state and status.restarts >= restarts:
            return


@asynccontextmanager
async def running(*parts: Part) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(parts)
    async with asyncio.timeout(30), Scope() as scope:
        task = scope.start(supervisor.run())
        yield supervisor
        await supervisor.stop()
        await task
    assert all(unit.status.value.state is State.STOPPED for unit in supervisor.units.values())


async def test_a_part_starts_when_what_it_needs_is_ready(tmp_path: Path) -> None:
    first, second = part(tmp_path, "first"), part(tmp_path, "second", needs=("first",))
    async with running(second, first) as supervisor:
        unit = supervisor.units["second"]
        await becomes(supervisor.units["first"], State.READY)
        await supervisor.ready()
        assert unit.status.value.state is State.READY
        pid = unit.status.value.pid
        assert is_alive(pid)
    assert not is_alive(pid)


async def test_a_killed_process_is_started_again_and_counted(tmp_path: Path) -> None:
    async with running(part(tmp_path, "web")) as supervisor, _shown(supervisor, tmp_path) as states:
        await supervisor.ready()
        unit = supervisor.units["web"]
        before = unit.status.value.pid
        os.kill(before, signal.SIGKILL)
        await becomes(unit, State.BACKING_OFF)
        assert unit.status.value.pid == 0
        assert states() == {State.BACKING_OFF: 0}
        await becomes(unit, State.READY, restarts=1)
        assert unit.status.value.pid not in (0, before)
        assert states() == {State.READY: 1}


@asynccontextmanager
async def _shown(supervisor: Supervisor, run: Path) -> AsyncIterator[Callable[[], dict[str, float]]]:
    """What Prometheus is told: restarts by the state of the only process."""

    def states() -> dict[str, float]:
        (address,) = told(run)["launcher"]
        found = scraped(address)
        restarts = value(found, "launcher_process_restarts_total", process="web")
        return {one.labels["state"]: restarts for one in found["launcher_process_state"].samples if one.value}

    with shown(supervisor.units, run):
        yield states


async def test_a_part_that_dies_at_once_fails_the_start_with_its_log_named(tmp_path: Path) -> None:
    async with running(part(tmp_path, "bad", "import sys; sys.exit(3)")) as supervisor:
        with pytest.raises(Error, match=r"bad does not start: ended with exit code 3; its log is .*bad\.log"):
            await supervisor.ready()


async def test_a_missing_program_fails_the_start(tmp_path: Path) -> None:
    log = tmp_path / "none.log"
    command = Command(argv=("no-such-program",), environ=os.environ, log=log)
    async with running(Part(name="none", live=process(command, probes.anyone(probes.tcp(1))), log=log)) as supervisor:
        with pytest.raises(Error, match="none does not start: command not found: no-such-program"):
            await supervisor.ready()


async def test_a_restart_replaces_and_does_not_count(tmp_path: Path) -> None:
    async with running(part(tmp_path, "web")) as supervisor:
        await supervisor.ready()
        unit = supervisor.units["web"]
        before = unit.status.value
        await unit.restart()
        after = unit.status.value
        assert (after.state, after.restarts) == (State.READY, 0)
        assert after.pid != before.pid
        assert not is_alive(before.pid)


async def test_a_restart_ends_a_pause(tmp_path: Path) -> None:
    flag = tmp_path / "works"
    code = f"import pathlib, sys\nif not pathlib.Path({str(flag)!r}).exists(): sys.exit(1)\n{SERVE}"
    async with running(part(tmp_path, "moody", code)) as supervisor:
        unit = supervisor.units["moody"]
        await becomes(unit, State.BACKING_OFF, restarts=3)
        flag.touch()
        await unit.restart()
        assert unit.status.value.state is State.READY


class Surging:
    """A part whose lives overlap; it notes how many were alive at once."""

    def __init__(self, tmp_path: Path) -> None:
        self.log = tmp_path / "log"
        self.alive = Latest(0)
        self.most = self.begun = 0
        self.works = self.is_quick = True

    @property
    def part(self) -> Part:
        return Part(name="s", live=self.live, log=self.log, surges=always)

    async def live(self, observer: Observer, stop: asyncio.Event) -> int:
        self.begun += 1
        self.alive.set(self.alive.value + 1)
        self.most = max(self.most, self.alive.value)
        if self.works:
            observer.running(self.begun, "")
            if self.is_quick:
                observer.ready()
            await stop.wait()
        self.alive.set(self.alive.value - 1)
        return 0 if self.works else 9

    async def are_alive(self, count: int) -> None:
        async for alive in self.alive.changes():
            if alive == count:
                return


async def test_a_surging_restart_has_the_new_one_ready_before_the_old_one_drains(tmp_path: Path) -> None:
    surging = Surging(tmp_path)
    async with running(surging.part) as supervisor:
        await supervisor.ready()
        await supervisor.units["s"].restart()
        assert (surging.most, surging.alive.value, surging.begun) == (2, 1, 2)
        assert supervisor.units["s"].status.value.pid == 2
    assert surging.alive.value == 0


async def test_a_surge_that_fails_keeps_the_old_one(tmp_path: Path) -> None:
    surging = Surging(tmp_path)
    async with running(surging.part) as supervisor:
        await supervisor.ready()
        surging.works = False
        with pytest.raises(Error, match="s does not start: ended with exit code 9"):
            await supervisor.units["s"].restart()
        surging.works = True
        assert supervisor.units["s"].status.value.pid == 1
        assert supervisor.units["s"].status.value.state is State.READY


async def test_a_surge_that_is_given_up_leaves_no_second_process(tmp_path: Path) -> None:
    surging = Surging(tmp_path)
    async with running(surging.part) as supervisor:
        await supervisor.ready()
        surging.is_quick = False
        async with Scope() as scope:
            scope.start(supervisor.units["s"].restart())
            await surging.are_alive(2)
        await surging.are_alive(1)
        assert supervisor.units["s"].status.value.pid == 1
        surging.is_quick = True
        await supervisor.units["s"].restart()
        assert supervisor.units["s"].status.value.pid == 3


async def test_a_stop_at_the_very_end_of_a_pause_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_module, "RESTARTS", Backoff(first_seconds=0, limit_seconds=0))
    deaths = 0

    async def live(observer: Observer, stop: asyncio.Event) -> int:
        nonlocal deaths
        deaths += 1
        if deaths > 1:
            observer.running(deaths, "")
            await stop.wait()
        return 1

    async with running(Part(name="mortal", live=live, log=tmp_path / "log")) as supervisor:
        await becomes(supervisor.units["mortal"], State.BACKING_OFF)
        await supervisor.stop()
    assert deaths == 1


async def test_a_restart_that_meets_the_stop_of_the_stack_is_refused(tmp_path: Path) -> None:
    draining, let = asyncio.Event(), asyncio.Event()

    async def live(observer: Observer, stop: asyncio.Event) -> int:
        observer.running(1, "")
        observer.ready()
        await stop.wait()
        draining.set()
        await let.wait()
        return 0

    supervisor = Supervisor([Part(name="slow", live=live, log=tmp_path / "log")])
    async with asyncio.timeout(20), Scope() as scope:
        task = scope.start(supervisor.run())
        await supervisor.ready()
        outcome = asyncio.gather(supervisor.units["slow"].restart(), return_exceptions=True)
        await draining.wait()
        stopping = scope.start(supervisor.stop())
        (error,) = await outcome
        assert isinstance(error, Error)
        assert error.message == "slow is stopping"
        let.set()
        await stopping
        await task


async def test_a_life_that_the_system_refuses_is_a_death_of_that_part_alone(tmp_path: Path) -> None:
    fine, troubled = part(tmp_path, "fine"), part(tmp_path / "logs", "troubled")
    async with running(fine, troubled) as supervisor:
        await supervisor.ready()
        unit, before = supervisor.units["troubled"], supervisor.units["fine"].status.value
        (tmp_path / "logs").rename(tmp_path / "old")
        (tmp_path / "logs").touch()
        os.kill(unit.status.value.pid, signal.SIGKILL)
        await becomes(unit, State.BACKING_OFF, restarts=1)
        assert str(tmp_path / "logs") in unit.outcome
        (tmp_path / "logs").unlink()
        await becomes(unit, State.READY, restarts=2)
        assert supervisor.units["fine"].status.value == before


async def test_parts_stop_stage_by_stage_from_the_top(tmp_path: Path) -> None:
    order: list[str] = []
    parts = [part(tmp_path, stage.name.lower(), stage=stage) for stage in Stage]

    async def note(unit: Unit) -> None:
        await unit.stopped.wait()
        order.append(unit.part.name)

    async with running(*parts) as supervisor, asyncio.TaskGroup() as notes:
        await supervisor.ready()
        for unit in supervisor.units.values():
            notes.create_task(note(unit))
        await supervisor.stop()
    assert order == ["service", "edge", "console", "sidecar", "store"]


async def test_a_process_that_ignores_its_stop_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    code = f"""
import pathlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(note)!r}).write_text(str(child.pid))
{SERVE.replace("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", "")}"""
    async with running(part(tmp_path, "deaf", code)) as supervisor:
        await supervisor.ready()
        assert is_alive(int(note.read_text()))
    await probes.until(probes.gone(int(note.read_text())))


async def test_a_slow_start_says_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "PATIENCE", Backoff(first_seconds=0.05, limit_seconds=0.05))
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    begun, why = asyncio.Event(), "nothing listens on port 7"

    async def live(observer: Observer, stop: asyncio.Event) -> int:
        observer.running(1, "")
        observer.waiting(why)
        begun.set()
        await stop.wait()
        return 0

    def waiting(text: str) -> None:
        if why in text and not told.done():
            told.set_result(text)

    slow = Part(name="slow", live=live, log=tmp_path / "log")
    async with running(part(tmp_path, "fine"), part(tmp_path, "next", needs=("slow",)), slow) as supervisor:
        await supervisor.units["fine"].was_ready.wait()
        await begun.wait()
        async with Scope() as scope:
            scope.start(supervisor.ready(waiting))
            text = await told
    assert text.startswith("waiting for slow (nothing listens on port 7), 0 s so far")


async def test_a_failed_start_shows_nothing_that_was_logged_before_it(tmp_path: Path) -> None:
    bad = part(tmp_path, "bad", "import sys; sys.exit('it is broken')")
    bad.log.write_text("of an earlier start\n")
    async with running(bad) as supervisor:
        with pytest.raises(Error) as caught:
            await supervisor.ready()
    lines = tail(bad.log, 15, int(caught.value.metadata["log_start"]))
    assert lines == ["it is broken"]  # as often as it is to be corrected, not as often as it was tried


async def test_a_process_that_hangs_is_not_ready_and_says_why_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "FOLLOW_SECONDS", 0.05)
    monkeypatch.setattr(probes, "ATTEMPT_SECONDS", 0.5)
    port, log = free_port(), tmp_path / "web.log"
    command = Command(
        argv=(sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"), environ=os.environ, log=log
    )
    life = process(command, probes.anyone(probes.http(port, "/")))
    async with running(Part(name="web", live=life, log=log)) as supervisor:
        await supervisor.ready()
        unit = supervisor.units["web"]
        pid = unit.status.value.pid
        os.kill(pid, signal.SIGSTOP)
        await becomes(unit, State.STARTING)
        assert (unit.note, unit.status.value.pid) == ("was ready, but does not answer", pid)
        os.kill(pid, signal.SIGCONT)
        await becomes(unit, State.READY)
        assert unit.note == ""


async def test_a_second_signal_sees_every_child_gone(tmp_path: Path) -> None:
    code = SERVE.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
    supervisor = Supervisor([part(tmp_path, "deaf", code)])
    async with asyncio.timeout(20):
        running = asyncio.ensure_future(supervisor.run())
        await supervisor.ready()
        pid = supervisor.units["deaf"].status.value.pid
        running.cancel()
        await asyncio.wait((running,))
    assert not is_alive(pid)
