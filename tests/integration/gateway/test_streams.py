"""Streams through a real Envoy: server-sent events, long ones, and what happens when the caller goes."""

from __future__ import annotations

import json

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
