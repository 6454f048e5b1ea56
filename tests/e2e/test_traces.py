"""One order from REST to its last consumer, as its trace tells it."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from services.events.stream import STREAM
from tests.e2e.conftest import Stack
from tests.fixtures.shop import eventually

pytestmark = pytest.mark.timeout(110)

CREATE = "meshwright.order.v1.OrderService/CreateOrder"


@dataclass(frozen=True)
class Seen:
    """A span as the console has it, in the form of Jaeger's API."""

    service: str
    raw: dict[str, Any]

    @property
    def name(self) -> str:
        """What was done."""
        return str(self.raw["operationName"])

    @property
    def parent(self) -> str:
        """The span above it in the same trace; empty for none."""
        above = [one["spanID"] for one in self.raw["references"] if one["refType"] == "CHILD_OF"]
        return above[0] if above else ""

    @property
    def links(self) -> set[tuple[str, str]]:
        """The spans that it refers to otherwise, by trace and span id."""
        return {(one["traceID"], one["spanID"]) for one in self.raw["references"] if one["refType"] != "CHILD_OF"}

    @property
    def said(self) -> dict[str, Any]:
        """Attributes, and the kind as `span.kind`."""
        return {tag["key"]: tag["value"] for tag in self.raw["tags"]}

    @property
    def kind(self) -> str:
        """client, server, producer, consumer or internal."""
        return str(self.said.get("span.kind", "internal"))


def spans(answer: Any) -> list[Seen]:
    """All spans in an answer of the query API."""
    return [
        Seen(one["processes"][span["processID"]]["serviceName"], span)
        for one in answer["data"] or ()
        for span in one["spans"]
    ]


def customer(stack: Stack) -> str:
    """An active user; a sync brings some where there are none yet."""
    run = stack.curl("/v1/syncs", "-X", "POST", "-d", json.dumps({"requestId": str(uuid.uuid4())}))
    stack.curl_text(f"/v1/syncs/{run['id']}:watch", "-N")
    return next(str(user["id"]) for user in stack.curl("/v1/users?page_size=20")["users"] if user.get("active"))


def order(stack: Stack, trace_id: str) -> str:
    """Create an order within a trace of the caller's; its id."""
    body = {
        "requestId": str(uuid.uuid4()), "customerId": customer(stack),
        "lines": [{"sku": "A-1", "quantity": 1, "unitPrice": {"currencyCode": "EUR", "units": "1"}}],
    }  # fmt: skip
    header = f"traceparent: 00-{trace_id}-{secrets.token_hex(8)}-01"
    made = stack.curl("/v1/orders", "-X", "POST", "-H", header, "-d", json.dumps(body))
    return str(made["id"])


def linked(stack: Stack, service: str, trace_id: str) -> list[Seen]:
    """Spans of other traces that link to this one, with those below them."""
    found = stack.curl(f"/api/traces?service={service}&lookback=1h&limit=200")
    return [
        one for each in found["data"] for one in spans({"data": [each]})
        if each["traceID"] != trace_id
        and any(ref["traceID"] == trace_id for span in each["spans"] for ref in span["references"])
    ]  # fmt: skip


def test_an_order_is_one_trace_and_those_that_link_to_it(stack: Stack) -> None:
    trace_id = secrets.token_hex(16)
    order(stack, trace_id)
    seen: list[Seen] = []
    events: list[Seen] = []

    def whole() -> bool:
        seen[:] = spans(stack.curl(f"/api/traces/{trace_id}")) if seen or _is_there(stack, trace_id) else []
        events[:] = [one for name in ("order", "status") for one in linked(stack, name, trace_id)]
        return {"gateway", "order", "sync"} <= {one.service for one in seen} and {"producer"} <= {
            one.kind for one in events
        }

    end = time.monotonic() + 60
    while not whole():
        assert time.monotonic() < end, [(one.service, one.kind, one.name) for one in (*seen, *events)]
        time.sleep(0.3)
    by_id = {one.raw["spanID"]: one for one in seen}

    def above(one: Seen) -> list[tuple[str, str]]:
        """Who is above a span, up to the gateway."""
        found = by_id.get(one.parent)
        return [(found.service, found.kind), *above(found)] if found else []

    (created,) = [one for one in seen if (one.service, one.kind, one.name) == ("order", "server", CREATE)]
    assert above(created)[0] == ("gateway", "client")
    assert above(created)[-1] == ("gateway", "server")
    for one in (one for one in seen if one.service == "gateway"):
        assert (one.said["rpc.system.name"], one.said["rpc.method"]) == ("grpc", CREATE)
    (asked_for,) = [one for one in seen if (one.service, one.kind) == ("gateway", "server")]
    assert asked_for.said["rpc.response.status_code"] == "OK"
    assert asked_for.said["http.response.status_code"] == "200"
    assert created.said["rpc.system.name"] == "grpc"
    assert created.said["rpc.method"] == CREATE
    assert created.said["rpc.response.status_code"] == "OK"
    asked = [one for one in seen if (one.service, one.kind) == ("sync", "server")]
    assert {above(one)[0] for one in asked} == {("order", "client")}
    (inserted,) = [one for one in seen if one.said.get("db.query.summary", "").startswith("INSERT orders.orders")]
    assert inserted.said["db.system.name"] == "postgresql"
    assert by_id[inserted.parent] is created
    stores = {one.said.get("db.system.name") for one in seen if one.service == "sync"}
    assert stores & {"redis", "postgresql"}
    (published, *_) = [one for one in events if one.kind == "producer"]
    assert published.said["messaging.operation.type"] == "send"
    assert "redis" in {one.said.get("db.system.name") for one in events if one.parent == published.raw["spanID"]}


def test_a_consumer_links_to_the_change_that_the_producer_links_to(stack: Stack) -> None:
    if not named(stack, f"process {STREAM}"):  # else the stack has brought users already
        customer(stack)
    pairs: list[list[Seen]] = []

    def done() -> bool:
        consumed, published = (named(stack, f"{verb} {STREAM}") for verb in ("process", "publish"))
        changes = {at for one in consumed for at in one.links} & {at for one in published for at in one.links}
        for place in sorted(changes):
            for change in (one for one in trace(stack, place[0]) if one.raw["spanID"] == place[1]):
                linked_to = [next(one for one in each if place in one.links) for each in (consumed, published)]
                pairs.append([*linked_to, change])
        return bool(pairs)

    eventually(done)
    consumer, producer, change = pairs[0]
    assert (consumer.kind, consumer.said["messaging.operation.type"]) == ("consumer", "process")
    assert (producer.kind, producer.said["messaging.operation.type"]) == ("producer", "send")
    assert (change.service, change.name) == ("sync", "sync run")
    (asked_in,) = {trace_id for trace_id, _ in change.links}
    assert "StartSync" in "".join(one.name for one in trace(stack, asked_in))
    around = trace(stack, change.raw["traceID"])
    assert {"postgresql"} <= {one.said.get("db.system.name") for one in around}
    assert "GET" in {one.said.get("http.request.method") for one in around}  # of the identity provider
    below = trace(stack, consumer.raw["traceID"])
    assert {"redis"} <= {one.said.get("db.system.name") for one in below if one.parent == consumer.raw["spanID"]}


def named(stack: Stack, operation: str) -> list[Seen]:
    """Spans of the sync service with a name."""
    query = urlencode({"service": "sync", "operation": operation, "lookback": "1h", "limit": 200})
    return [one for one in spans(stack.curl(f"/api/traces?{query}")) if one.name == operation]


def trace(stack: Stack, trace_id: str) -> list[Seen]:
    """All spans of one."""
    return spans(stack.curl(f"/api/traces/{trace_id}"))


def _is_there(stack: Stack, trace_id: str) -> bool:
    return "data" in stack.curl_text(f"/api/traces/{trace_id}")
