"""Calls put together out of spans that come in any order, and those of them that somebody wants to see."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from console import calls
from console.calls import PATIENCE_SECONDS, SETTLE_SECONDS, Calls, Wish
from console.search import wish
from console.store import Store
from mesh.errors import Error
from tests.fixtures.folded import CLIENT, INTERNAL, RPC
from tests.fixtures.otlp import Value, batch, span

METHOD = "shop.v1.Shop/Buy"
ASKED = batch("order", span(1, 1, parent=9, name=METHOD, kind=CLIENT, duration=90_000_000, attributes=RPC))
MS = 1_000_000


def served(number: int, attempt: int, status: str = "OK", instance: str = "sync-1") -> ResourceSpans:
    """An attempt of ASKED at an instance."""
    said: dict[str, Value] = {**RPC, "rpc.response.status_code": status, "meshwright.attempt": attempt}
    failed = None if status == "OK" else "no"
    one = span(1, number, parent=1, name=METHOD, duration=attempt * MS, attributes=said, error=failed)
    return batch("sync", one, **{"service.instance.id": instance})


class Seen:
    """Spans that come at a time that is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = Calls()
        self.store = Store(watch=lambda trace, kept, full: self.calls.take(trace, kept, full, self.now))

    def after(self, seconds: float) -> list[dict[str, Any]]:
        self.now += seconds
        return list(self.calls.due(self.now))


@pytest.mark.parametrize("turn", [1, -1])
def test_attempts_are_one_call_in_whatever_order_they_come(turn: int) -> None:
    seen = Seen()
    seen.store.add([ASKED, served(2, 1, "UNAVAILABLE", "sync-1"), served(3, 2, instance="sync-2")][::turn])
    assert seen.after(SETTLE_SECONDS / 2) == []
    [call] = seen.after(SETTLE_SECONDS)
    told = {key: call[key] for key in ("caller", "service", "method", "instance", "status", "attempts", "duration")}
    assert told == {
        "caller": "order", "service": "sync", "method": METHOD, "instance": "sync-2", "status": "OK", "attempts": 2,
        "duration": 90,
    }  # fmt: skip
    assert seen.after(PATIENCE_SECONDS) == []


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (served(2, 1, "UNAVAILABLE"), ("", "sync", "sync-1", "UNAVAILABLE", True)),
        (ASKED, ("order", "sync", "", "OK", False)),
        (batch("order", span(1, 1, kind=CLIENT, attributes=RPC, error="away")), ("order", "sync", "", "ERROR", True)),
    ],
)
def test_half_a_call_is_waited_for(batch: ResourceSpans, told: tuple[object, ...]) -> None:
    seen = Seen()
    seen.store.add([batch])
    assert seen.after(SETTLE_SECONDS) == []
    [call] = seen.after(PATIENCE_SECONDS)
    assert (call["caller"], call["service"], call["instance"], call["status"], call["failed"]) == told


def test_what_is_no_call_is_left_alone() -> None:
    seen = Seen()
    query = span(1, 4, kind=CLIENT, attributes={"db.system.name": "redis"})
    seen.store.add([batch("order", query, span(1, 5, kind=INTERNAL), span(1, 6, kind=CLIENT))])
    assert seen.after(PATIENCE_SECONDS) == []


def test_no_more_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "WAITING", 2)
    seen = Seen()
    seen.store.add([batch("sync", *(span(1, number, name=f"m{number}") for number in range(1, 5)))])
    assert [call["method"] for call in seen.after(0)] == ["m1", "m2"]


CALL = {"service": "sync", "method": METHOD, "failed": False, "duration": 20.0}


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({}, True),
        ({"service": "sync", "method": "Buy"}, True),
        ({"method": METHOD}, True),
        ({"method": "buy"}, False),
        ({"service": "order"}, False),
        ({"error": "true"}, False),
        ({"minDuration": "20ms"}, True),
        ({"minDuration": "20.001ms"}, False),
    ],
)
def test_what_is_asked_for(asked: dict[str, str], taken: bool) -> None:
    assert wish(asked).takes(CALL) is taken
    assert not taken or Wish(failed=True).takes({**CALL, "failed": True})


def test_a_wish_that_is_none() -> None:
    with pytest.raises(Error, match="minDuration"):
        wish({"minDuration": "soon"})
