"""What survives a registry that stops, dies, forgets, refuses or stays silent."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mesh import ports
from mesh.errors import Code, Error
from mesh.registry import Health, RegistrySettings, connect
from mesh.registry.consul import ConsulRegistry
from tests.contract.steps import DEADLINE_SECONDS, eventually, fresh, healths, ids, join, until
from tests.fixtures.consul import TLS_FILES, RegistryProcess, consul_with_tls, dev_process, running


async def test_watch_resumes_by_itself_after_a_restart(own_registry: RegistryProcess) -> None:
    """The built-in registry's numbers go on, those of `consul agent -dev` start again from 1."""
    service = fresh()
    async with connect(own_registry.settings()) as registry:
        values = registry.watch_instances(service)
        for _ in range(10):  # so that the number is above those after the restart
            await registry.put(fresh("contract/bump"), b"x")
        before = await join(registry, service)
        await until(values, lambda found: healths(found) == [Health.PASSING])
        own_registry.restart()
        assert await until(values, lambda found: found == ()) == ()
        with pytest.raises(Error, match="does not know"):
            await registry.report(before.id, Health.PASSING)
        after = await join(registry, service)
        assert ids(await until(values, lambda found: healths(found) == [Health.PASSING])) == [after.id]


async def test_watch_survives_a_kill_and_sees_what_came_while_nobody_answered(own_registry: RegistryProcess) -> None:
    prefix = fresh("contract/kill") + "/"
    async with connect(own_registry.settings()) as registry:
        values = registry.watch_prefix(prefix)
        await registry.put(f"{prefix}a", b"1")
        await until(values, bool)
        waiting = asyncio.ensure_future(until(values, lambda found: f"{prefix}b" in found))
        await _connections(registry, lambda count: count == 1)
        own_registry.kill()
        own_registry.start()
        await registry.put(f"{prefix}b", b"2")
        assert (await waiting)[f"{prefix}b"] == b"2"


async def test_calls_say_that_the_registry_is_away_and_what_to_do() -> None:
    settings = RegistrySettings(address=f"127.0.0.1:{ports.free_port()}")
    async with connect(settings) as registry:
        made = registry.answered_at
        with pytest.raises(Error, match="cannot be reached") as caught:
            await registry.services()
        assert registry.answered_at == made
    assert caught.value.code is Code.UNAVAILABLE
    assert settings.address in caught.value.message
    assert "mesh up" in caught.value.message
    assert "CONSUL_HTTP_ADDR" in caught.value.message


async def test_calls_to_a_silent_registry_end_in_time() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with connect(RegistrySettings(address=f"127.0.0.1:{port}", call_timeout_seconds=0.2)) as registry:
            with pytest.raises(Error, match="no answer in time") as caught:
                await registry.services()
    assert caught.value.code is Code.UNAVAILABLE


async def test_something_that_is_no_registry_is_told_apart() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with connect(RegistrySettings(address=f"127.0.0.1:{port}")) as registry:
            with pytest.raises(Error, match="not what Consul says"):
                await registry.services()


@pytest.mark.parametrize(
    "refusal",
    [
        "400 Bad Request", "401 Unauthorized", "404 Not Found", "405 Method Not Allowed", "413 Payload Too Large",
        "501 Not Implemented", "503 Service Unavailable",
    ],
)  # fmt: skip
async def test_a_watch_goes_on_after_answers_that_no_registry_gives(refusal: str) -> None:
    """A port that speaks TLS only, or a proxy in front of a Consul that restarts, must not end a sidecar."""
    told = "Client sent an HTTP request to an HTTPS server."
    answers = [(refusal, told), (refusal, told), ("200 OK", '{"order": ["v1"]}')]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status, body = answers.pop(0)
        head = f"HTTP/1.1 {status}\r\nX-Consul-Index: 7\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with connect(RegistrySettings(address=f"127.0.0.1:{port}")) as registry:
            assert await until(registry.watch_services(), bool) == {"order": ("v1",)}
    assert not answers


async def test_when_it_answered_last_is_known(registry: ConsulRegistry) -> None:
    made = registry.answered_at
    await registry.services()
    assert registry.answered_at > made


async def test_cancelled_watch_frees_its_connection(registry: ConsulRegistry) -> None:
    for _ in range(20):
        values = registry.watch_instances(fresh())
        await until(values, lambda found: True)
        waiting = asyncio.ensure_future(until(values, bool))
        await _connections(registry, lambda count: count > 0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await _connections(registry, lambda count: count == 0)


async def test_each_watch_takes_one_connection(registry: ConsulRegistry) -> None:
    watches = [registry.watch_instances(fresh()) for _ in range(20)]
    async with asyncio.TaskGroup() as tasks:
        for values in watches:
            await until(values, lambda found: True)
        waiting = [tasks.create_task(until(values, bool)) for values in watches]
        await _connections(registry, lambda count: count == 20)
        for task in waiting:
            task.cancel()


async def test_reports_do_not_wait_behind_watches(registry_process: RegistryProcess) -> None:
    """Even when watches use up all connections that they may have."""
    service = fresh()
    async with connect(registry_process.settings(watch_connections=2)) as registry:
        watches = [registry.watch_instances(fresh()) for _ in range(5)]
        waiting = [asyncio.ensure_future(until(values, bool)) for values in watches]
        await _connections(registry, lambda count: count == 2)
        instance = await join(registry, service)
        started = time.monotonic()
        await registry.report(instance.id, Health.PASSING)
        assert time.monotonic() - started < 5
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_more_watches_than_a_consul_agent_allows_connections(registry_process: RegistryProcess) -> None:
    """An agent drops the 201st connection of one address; watches beyond the pool take turns instead."""
    services = [fresh() for _ in range(250)]
    async with connect(registry_process.settings(wait_seconds=0.2)) as registry:
        watches = [registry.watch_instances(service) for service in services]
        waiting = [asyncio.ensure_future(until(values, bool)) for values in watches]
        last = await join(registry, services[-1])
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert ids(await waiting[-1]) == [last.id]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_refused_token_is_told_with_what_to_do(consul_with_acl: RegistryProcess) -> None:
    async with connect(consul_with_acl.settings(token="wrong")) as registry:
        with pytest.raises(Error, match="CONSUL_HTTP_TOKEN") as caught:
            await registry.put("contract/x", b"")
    assert caught.value.code is Code.PERMISSION_DENIED
    assert "wrong" not in str(caught.value)


async def test_explicit_token_beats_the_environment(
    consul_with_acl: RegistryProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "wrong")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "http://127.0.0.1:1")
    async with connect(consul_with_acl.settings()) as registry:
        instance = await join(registry, fresh())
        await registry.put("contract/token", b"x")
        assert await registry.get("contract/token") == b"x"
        found = await until(
            registry.watch_instances(instance.service), lambda found: healths(found) == [Health.PASSING]
        )
        assert ids(found) == [instance.id]
    async with connect(consul_with_acl.settings(token="")) as registry:
        with pytest.raises(Error):
            await registry.put("contract/token", b"x")


async def test_watch_goes_on_when_the_token_becomes_valid(
    consul_with_acl: RegistryProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal does not end a watch: a token may be known to one server before the other."""
    token, wanted = str(uuid.uuid4()), {"contract/acl/x": b"here"}
    async with connect(consul_with_acl.settings()) as registry, connect(consul_with_acl.settings(token=token)) as early:
        await registry.put("contract/acl/x", b"here")
        waiting = asyncio.ensure_future(until(early.watch_prefix("contract/acl/"), lambda found: found == wanted))
        await eventually(lambda: "CONSUL_HTTP_TOKEN" in caplog.text)
        await registry._call(registry._client.acl.token.create(secret_id=token, policies_name=["global-management"]))
        assert await waiting == wanted
    assert token not in caplog.text


async def test_values_and_config_entries_survive_a_kill(own_dev: RegistryProcess) -> None:
    async with connect(own_dev.settings()) as registry:
        entry = {"Kind": "service-defaults", "Name": "kept", "Protocol": "grpc"}
        await registry.put("kept/a", b"\x00binary")
        await registry.put("kept/b", b"")
        await registry.put("gone", b"x")
        await registry.delete("gone")
        await registry.put_config_entry(entry)
        own_dev.kill()
        own_dev.start()
        assert await registry.get("gone") is None
        found = await until(registry.watch_prefix("kept/"), lambda found: True)
        assert found == {"kept/a": b"\x00binary", "kept/b": b""}
        assert await until(registry.watch_config_entries("service-defaults"), lambda found: True) == (entry,)


async def test_number_of_the_built_in_registry_never_goes_back(own_dev: RegistryProcess) -> None:
    """So that a client that still waits with an old number is answered at once."""
    async with connect(own_dev.settings()) as registry:
        await registry.put("a", b"x")
        before, _ = await registry._read("/v1/kv/a")
        own_dev.restart()
        await registry.put("a", b"y")
        after, _ = await registry._read("/v1/kv/a")
        assert after > before


async def test_broken_file_is_set_aside_and_the_rest_is_served(own_dev: RegistryProcess, tmp_path: Path) -> None:
    async with connect(own_dev.settings()) as registry:
        await registry.put("good", b"x")
        (good,) = tmp_path.glob("registry-*/kv/*.json")
        await registry.put("bad", b"x")
        (bad,) = set(tmp_path.glob("registry-*/kv/*.json")) - {good}
        own_dev.kill()
        bad.write_bytes(bad.read_bytes()[:20])
        own_dev.start()
        assert (await registry.get("good"), await registry.get("bad")) == (b"x", None)
        assert bad.with_suffix(".broken").exists()
        assert "was set aside" in own_dev.log.read_text()


async def test_built_in_registry_stops_at_once_while_queries_are_held(own_dev: RegistryProcess) -> None:
    async with connect(own_dev.settings()) as registry:
        watches = [registry.watch_instances(fresh()) for _ in range(20)]
        waiting = [asyncio.ensure_future(until(values, bool)) for values in watches]
        await _connections(registry, lambda count: count == 20)
        started = time.monotonic()
        assert own_dev.stop() == 0
        assert time.monotonic() - started < 3
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_second_registry_on_the_same_data_is_refused(own_dev: RegistryProcess) -> None:
    command = ["0" if word == str(own_dev.settings().port) else word for word in own_dev.command]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(DEADLINE_SECONDS):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert "another registry uses" in said.decode()
    assert "Traceback" not in said.decode()


async def test_client_speaks_mutual_tls(tmp_path: Path) -> None:
    process = consul_with_tls(tmp_path)
    process.start()
    try:
        files = {name: str(tmp_path / file) for name, file in TLS_FILES.items()}
        async with connect(process.settings(address=process.tls_address, **files)) as registry:
            instance = await join(registry, fresh())
            assert ids(await registry.instances(instance.service)) == [instance.id]
        async with connect(process.settings(address=process.tls_address)) as stranger:
            with pytest.raises(Error, match="certificate verify failed"):
                await stranger.services()
    finally:
        process.stop()


async def test_built_in_registry_names_who_has_its_port(own_dev: RegistryProcess, tmp_path: Path) -> None:
    port = own_dev.settings().port
    command = [*own_dev.command[:-1], str(tmp_path / "other")]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(DEADLINE_SECONDS):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert f"port {port} (registry) is busy" in said.decode()
    assert f"pid {own_dev.pid}" in said.decode()
    assert "Traceback" not in said.decode()


@pytest.fixture
def own_dev(tmp_path: Path) -> Iterator[RegistryProcess]:
    """A built-in registry for one test alone."""
    yield from running(dev_process(tmp_path))


async def _connections(registry: ConsulRegistry, wanted: Any) -> None:
    """Wait until the watches of a client hold so many connections."""
    await eventually(lambda: wanted(_held(registry)))


def _held(registry: ConsulRegistry) -> int:
    client = registry._watches
    return 0 if client is None else len(client.http._session.connector._acquired)
