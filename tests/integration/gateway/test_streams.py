"""Streams through a real Envoy: server-sent events, long ones, and what happens when the caller goes."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.integration.gateway.harness import Edge, eventually
from tests.integration.gateway.test_rest import THINGS, refusal


def test_events_come_at_once_and_the_caller_may_go(edge: Edge) -> None:
    with edge.stream(f"{THINGS}/forever:watch") as (answer, lines):
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"
        first, blank, second = (lines.readline() for _ in range(3))
        assert json.loads(first.removeprefix(b"data: "))["quantity"] == 1
        assert blank == b"\n"
        assert json.loads(second.removeprefix(b"data: "))["quantity"] == 2
    eventually(
        lambda: any("watch of forever ended" in probe.output() for probe in edge.probes), "the call is cancelled"
    )


def test_a_stream_ends_when_the_service_ends_it(edge: Edge) -> None:
    with edge.stream(f"{THINGS}/a:watch") as (_, lines):
        assert len([line for line in lines.read().split(b"\n\n") if line]) == 2


def test_a_stream_has_no_deadline_of_its_own(edge: Edge) -> None:
    with edge.stream(f"{THINGS}/ticks:watch") as (_, lines):
        events = (line for line in iter(lines.readline, b"") if line.startswith(b"data: "))
        quantities = [json.loads(next(events).removeprefix(b"data: "))["quantity"] for _ in range(40)]
    assert quantities == list(range(1, 41))  # 1.9 s; the deadline of other methods is 1.5 s


def test_a_stream_that_fails_at_once_is_an_error(edge: Edge) -> None:
    assert refusal(edge.get(f"{THINGS}/missing:watch"), 404, 5, "THING_NOT_FOUND") == "no such thing"


LINES = {"accept": "application/x-ndjson"}


def test_lines_for_those_who_accept_them(edge: Edge) -> None:
    with edge.stream(f"{THINGS}/forever:watch", **LINES) as (answer, lines):
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(lines.readline())["quantity"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("accept", ["application/x-ndjson;q=0.9, */*;q=0.1", "text/html, Application/X-NDJSON"])
def test_lines_may_be_one_of_several(edge: Edge, accept: str) -> None:
    assert edge.get(f"{THINGS}/a:watch", accept=accept).headers["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/json"])
def test_events_for_all_others(edge: Edge, accept: str) -> None:
    assert edge.get(f"{THINGS}/a:watch", accept=accept).headers["content-type"] == "text/event-stream"


def test_only_streams_are_lines(edge: Edge) -> None:
    assert edge.get(f"{THINGS}/a", **LINES).json["id"] == "a"
    assert refusal(edge.get(f"{THINGS}/missing:watch", **LINES), 404, 5, "THING_NOT_FOUND") == "no such thing"
    assert refusal(edge.get("/nope", **LINES), 404, 5, "PATH_NOT_FOUND")
    assert refusal(edge.ask("POST", THINGS, "{", headers=LINES), 400, 3, "MALFORMED_REQUEST")


HTTP_VERSIONS = {"--http1.1": "1.1", "--http2-prior-knowledge": "2"}


@pytest.mark.parametrize("flag", HTTP_VERSIONS)
def test_both_versions_of_http(edge: Edge, flag: str) -> None:
    def curl(path: str, *words: str) -> str:
        command = ["curl", "-sS", flag, "--max-time", "20", "-w", "\n%{http_version}", f"127.0.0.1:{edge.port}{path}"]
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=30, check=True)
        body, _, version = done.stdout.rpartition("\n")
        assert version == HTTP_VERSIONS[flag]
        return body

    assert json.loads(curl(f"{THINGS}/a"))["id"] == "a"
    assert json.loads(curl(THINGS, "-d", '{"quantity":2}'))["quantity"] == 2
    assert json.loads(curl(f"{THINGS}/missing"))["code"] == 5
    assert curl(f"{THINGS}/a:watch").count("data: ") == 2
    assert json.loads(curl("/openapi.json"))["openapi"]


@pytest.mark.parametrize("flag", HTTP_VERSIONS)
def test_a_caller_who_goes_cancels_a_unary_call_at_once(edge: Edge, flag: str) -> None:
    def said(text: str) -> bool:
        return any(text in probe.output() for probe in edge.probes)

    name = "slow" + flag.replace("-", "").replace(".", "")
    url = f"127.0.0.1:{edge.port}{THINGS}/{name}:cancel"
    with subprocess.Popen(["curl", "-s", flag, "--data", "{}", url], stdout=subprocess.DEVNULL) as caller:
        eventually(lambda: said(f"{name} began"), "the service works on it", edge.logs)
        caller.kill()
        gone = time.monotonic()
        eventually(lambda: said(f"{name} was cancelled"), "the service notices", edge.logs)
        assert time.monotonic() - gone < 2  # its deadline is 5 s


@pytest.mark.parametrize("flag", HTTP_VERSIONS)
def test_a_caller_of_events_may_go_in_both_versions_of_http(edge: Edge, flag: str) -> None:
    def ended() -> int:
        return sum(probe.output().count("watch of forever ended") for probe in edge.probes)

    before = ended()
    command = ["curl", "-sN", flag, f"127.0.0.1:{edge.port}{THINGS}/forever:watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline().startswith(b"data: ")
        caller.kill()
    eventually(lambda: ended() == before + 1, "the call is cancelled", edge.logs)


def test_a_caller_of_lines_may_go_too(edge: Edge) -> None:
    def ended() -> int:
        return sum(probe.output().count("watch of forever ended") for probe in edge.probes)

    before = ended()
    with edge.stream(f"{THINGS}/forever:watch", **LINES) as (_, lines):
        assert lines.readline()
    eventually(lambda: ended() == before + 1, "the call is cancelled", edge.logs)
