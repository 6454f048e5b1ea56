"""What the README shows works on a whole stack, as a user types it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import tomllib
import uuid
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from mesh.findings import GROUPS
from mesh.xds.snapshot import LISTENER
from tests.e2e.conftest import BIN, ROOT, Stack
from tests.fixtures.ads import AdsClient

PROCESSES = {
    "postgres", "valkey", "scim", "sidecar", "console", "gateway", "envoy",
    "sync-1", "sync-2", "order-1", "order-2", "status-1", "status-2",
}


@pytest.fixture(scope="module")
def user_id(stack: Stack) -> str:
    """A user, after a sync that has ended."""
    run = stack.curl("/v1/syncs", "-X", "POST", "-d", json.dumps({"requestId": str(uuid.uuid4())}))
    events = [json.loads(line.removeprefix("data: "))
              for line in stack.curl_text(f"/v1/syncs/{run['id']}:watch", "-N").splitlines() if line]
    assert events[-1]["sync"]["state"] == "STATE_SUCCEEDED"
    assert int(events[-1]["sync"]["counts"]["fetched"]) >= 2000
    page = stack.curl("/v1/users?page_size=3")
    assert len(page["users"]) == 3
    assert page["nextPageToken"]
    return str(page["users"][0]["id"])


def order_body(user: str) -> str:
    price = {"currencyCode": "EUR", "units": "12", "nanos": 500000000}
    line = {"sku": "A-1", "quantity": 2, "unitPrice": price}
    return json.dumps({"requestId": str(uuid.uuid4()), "customerId": user, "lines": [line]})


@pytest.mark.parametrize("client", ["REST", "gRPC"])
async def test_a_client_that_goes_cancels_its_call_in_the_service_behind_the_service(
    stack: Stack, user_id: str, client: str
) -> None:
    """While an order waits for sync, which waits for a table: down to the statement, all is given up."""
    trace, unknown = uuid.uuid4().hex, str(uuid.uuid4())  # known users are in Redis
    connection = await asyncpg.connect(json.loads(stack.paths.environ.read_text())["DATABASE_URL"])
    try:
        async with asyncio.timeout(60), connection.transaction():
            await connection.execute("LOCK TABLE sync.users IN ACCESS EXCLUSIVE MODE")
            caller = await asyncio.create_subprocess_exec(
                *_order(stack, client, order_body(unknown), trace), stdout=DEVNULL, stderr=DEVNULL
            )
            await _until(connection, WAITING)
            caller.kill()
            await caller.wait()
            await _until(connection, f"NOT {WAITING}")
    finally:
        await connection.close()
    began, ended = time.monotonic(), set[tuple[str, str]]()
    while len(ended) < 2:
        found = stack.curl(f"/api/traces/{trace}")
        assert time.monotonic() - began < 30, json.dumps(found, indent=1)
        ended = _ended(found)
    assert ended == {("order", "CANCELLED"), ("sync", "CANCELLED")}


WAITING = """EXISTS (
    SELECT FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND query LIKE 'SELECT * FROM sync.users WHERE id = ANY%'
)"""
"""A user is read who is not in Redis. The counts of users, which may wait as well, are another statement."""


async def _until(connection: Any, condition: str) -> None:
    while not await connection.fetchval(f"SELECT {condition}"):
        await asyncio.sleep(0.01)
        await connection.execute("SELECT pg_stat_clear_snapshot()")  # else a transaction sees the first answer for ever


def _order(stack: Stack, client: str, body: str, trace: str) -> list[str]:
    port, header = stack.gateway_port, f"traceparent: 00-{trace}-00f067aa0ba902b7-01"
    if client == "REST":
        return ["curl", "-s", f"localhost:{port}/v1/orders", "-d", body, "-H", header]
    method = "meshwright.order.v1.OrderService/CreateOrder"
    return [str(BIN / "grpcurl"), "-plaintext", "-rpc-header", header, "-d", body, f"localhost:{port}", method]


def _ended(found: Any) -> set[tuple[str, str]]:
    """Services that handled a call, and how it ended."""
    ended = set()
    for trace in found.get("data") or ():
        for span in trace["spans"]:
            tags = {tag["key"]: tag["value"] for tag in span["tags"]}
            if tags["span.kind"] == "server" and (code := tags.get("rpc.response.status_code")):
                ended.add((trace["processes"][span["processID"]]["serviceName"], code))
    return ended


def test_every_process_is_listed_and_ready(stack: Stack) -> None:
    processes = stack.processes()
    assert processes.keys() == PROCESSES | (set() if stack.consul else {"registry"})
    assert {p["state"] for p in processes.values()} == {"ready"}
    assert all(p.keys() == {"name", "pid", "state", "address", "restarts"} for p in processes.values())
    assert all(p["pid"] > 0 for p in processes.values())


async def test_wide_shows_what_clients_hold_and_what_one_refused(stack: Stack) -> None:
    client = AdsClient(node="refuser")
    async with client.connected(stack.paths.sidecar_socket):
        await client.ask(LISTENER, "order")
        await client.receive()
        await client.ask(LISTENER, refusal="I take no listeners")
        deadline = time.monotonic() + 20
        while not (refused := [s for s in subscriptions(stack) if s["nacks"]]):
            assert time.monotonic() < deadline
        (shown,) = refused
        assert (shown["node"], shown["type"], shown["last_nack"]) == ("refuser", "Listener", "I take no listeners")
        table = stack.mesh("ps", "--wide").stdout
        checked = stack.mesh("check", check=False)
    assert "I take no listeners" in table
    assert "gRPC C-core" in table
    assert {s["type"] for s in subscriptions(stack) if s["agent"] == "envoy"} >= {"Listener", "RouteConfiguration"}
    assert checked.returncode == 1
    assert "✗ refuser (gRPC C-core by hand) refused Listener of order: I take no listeners" in checked.stdout


def test_a_whole_stack_is_sound(stack: Stack) -> None:
    began = time.monotonic()
    while (done := stack.mesh("check", "--output", "json", check=False)).returncode:
        assert time.monotonic() - began < 40, done.stdout
    told = json.loads(done.stdout)
    assert told["passed"] is True
    assert [group for group in GROUPS if group not in {found["group"] for found in told["findings"]}] == []


def test_a_method_is_explained_and_an_unknown_one_is_refused(stack: Stack) -> None:
    asked = ("explain", "order/GetOrder", "--from", "gateway", "--output", "json")
    found = json.loads(stack.mesh(*asked).stdout)
    assert (found["service"], found["method"]) == ("order", "meshwright.order.v1.OrderService/GetOrder")
    assert (found["deadline"], found["retry"]["source"]) == ({"timeout": "5s", "source": "contract"}, "contract")
    assert len(found["instances"]) == 2
    (verdict,) = found["intentions"]["verdicts"]
    assert (found["intentions"]["caller"], verdict["allowed"]) == ("gateway", True)
    rows = [line.split()[:4] for line in stack.mesh("explain", "order").stdout.splitlines()]
    assert ["GetOrder", "5", "s", "contract"] in rows
    done = stack.mesh("explain", "order/GetOrders", check=False)
    assert (done.returncode, "did you mean GetOrder" in done.stderr, done.stdout) == (1, True, "")


def subscriptions(stack: Stack) -> list[dict[str, Any]]:
    """What `mesh ps --wide` tells of xDS clients."""
    found: list[dict[str, Any]] = json.loads(stack.mesh("ps", "--wide", "--output", "json").stdout)["subscriptions"]
    return found


def test_a_second_one_in_the_same_folder_is_refused(stack: Stack) -> None:
    done = stack.mesh("up", "--detach", *stack.flags, check=False)
    assert done.returncode == 1
    assert "mesh down" in done.stderr


def test_status(stack: Stack) -> None:
    status = stack.curl("/v1/status")
    assert status["health"] == "HEALTH_PASSING", status
    services = {service["name"]: service["instances"] for service in status["services"]}
    assert services.keys() >= {"sync", "order", "status"}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for instance in services["sync"] + services["order"] + services["status"]:
        assert instance["version"] == version
        assert float(instance["uptime"].removesuffix("s")) > 0


def test_an_order_is_taken_once_and_found_again(stack: Stack, user_id: str) -> None:
    body = order_body(user_id)
    order = stack.curl("/v1/orders", "-X", "POST", "-d", body)
    assert order["total"] == {"currencyCode": "EUR", "units": "25"}
    assert stack.curl("/v1/orders", "-X", "POST", "-d", body)["id"] == order["id"]
    moves = ("state", "failure", "updateTime")
    found = stack.curl(f"/v1/orders/{order['id']}")
    assert {k: v for k, v in found.items() if k not in moves} == {k: v for k, v in order.items() if k not in moves}
    assert stack.curl("/v1/orders?page_size=2")["orders"][0]["id"] == order["id"]
    listed = stack.curl(f"/v1/orders?create_time_from={order['createTime']}&create_time_to=2999-01-01T00:00:00Z")
    assert order["id"] in {one["id"] for one in listed["orders"]}


def test_a_batch_of_orders_is_taken_whole_or_not_at_all(stack: Stack, user_id: str) -> None:
    requests = [json.loads(order_body(user_id)) for _ in range(3)]
    post = ("/v1/orders:batchCreate", "-X", "POST", "-d")
    orders = stack.curl(*post, json.dumps({"requests": requests}))["orders"]
    assert [order["requestId"] for order in orders] == [request["requestId"] for request in requests]
    again = stack.curl(*post, json.dumps({"requests": requests}))["orders"]
    assert [order["id"] for order in again] == [order["id"] for order in orders]
    bad = {**json.loads(order_body(user_id)), "customerId": str(uuid.uuid4())}
    error = stack.curl(*post, json.dumps({"requests": [json.loads(order_body(user_id)), bad]}))
    violations = [detail["fieldViolations"] for detail in error["details"] if "fieldViolations" in detail]
    assert [found["field"] for (found,) in violations] == ["requests[1].customer_id"]


def test_grpcurl_imports_a_stream_of_orders(stack: Stack, user_id: str) -> None:
    bad = {**json.loads(order_body(user_id)), "requestId": "x"}
    stream = "\n".join([order_body(user_id), json.dumps(bad), order_body(user_id)])
    method = "meshwright.order.v1.OrderService/ImportOrders"
    told = json.loads(stack.grpcurl("-d", stream, f"localhost:{stack.gateway_port}", method))
    assert (told["createdCount"], told["rejectedCount"]) == ("2", "1")
    assert [(one["index"], one["code"], one["reason"]) for one in told["rejected"]] == [
        ("1", "INVALID_ARGUMENT", "INVALID_FIELD")
    ]
    told = json.loads(stack.grpcurl("-d", stream, f"localhost:{stack.gateway_port}", method))
    assert [value for name, value in told.items() if "ount" in name] == ["2", "1"], "existing and rejected"


def sse(text: str) -> list[dict[str, Any]]:
    """Messages of a stream of server-sent events."""
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]


async def test_an_order_and_its_events_are_watched_while_they_happen(stack: Stack, user_id: str) -> None:
    async with asyncio.timeout(60), streaming(stack, "/v1/events:watch?types=order") as live:
        start = (await anext(live))["lastEventId"]
        order = stack.curl("/v1/orders", "-X", "POST", "-d", order_body(user_id))
        async with streaming(stack, f"/v1/orders/{order['id']}:watch") as states:
            assert (await anext(states))["order"] == order
            cancelled = stack.curl(f"/v1/orders/{order['id']}:cancel", "-X", "POST", "-d", "{}")
            assert [said["order"] async for said in states] == [cancelled]
        both = [("order.created", order), ("order.cancelled", cancelled)]
        assert [await next_change(live), await next_change(live)] == both
    resumed = f"/v1/events:watch?last_event_id={start}&subject={order['id']}"
    async with asyncio.timeout(60), streaming(stack, resumed) as again:
        assert [await next_change(again), await next_change(again)] == both


@asynccontextmanager
async def streaming(stack: Stack, path: str) -> AsyncIterator[AsyncGenerator[dict[str, Any], None]]:
    """Messages of a stream of server-sent events, as `curl -N` gets them."""
    command = ("curl", "-sSN", f"localhost:{stack.gateway_port}{path}")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    lines = process.stdout
    try:
        yield (json.loads(line.removeprefix(b"data: ")) async for line in lines if line.strip())
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def next_change(messages: AsyncGenerator[dict[str, Any], None]) -> tuple[str, dict[str, Any]]:
    """Type and order of the next event."""
    event = await anext(said["event"] async for said in messages if "event" in said)
    return event["type"], event["order"]


def test_grpcurl_lists_every_service_on_the_mesh(stack: Stack) -> None:
    listed = stack.grpcurl(f"localhost:{stack.gateway_port}", "list").split()
    assert {
        "meshwright.order.v1.OrderService", "meshwright.status.v1.StatusService", "meshwright.sync.v1.SyncService",
    } <= set(listed)


def test_grpcurl_calls_through_the_gateway(stack: Stack, user_id: str) -> None:
    stack.curl("/v1/orders", "-X", "POST", "-d", order_body(user_id))
    answer = stack.grpcurl(
        "-d", '{"page_size":1}', f"localhost:{stack.gateway_port}", "meshwright.order.v1.OrderService/ListOrders"
    )
    assert len(json.loads(answer)["orders"]) == 1


def test_one_trace_from_the_edge_to_the_statements(stack: Stack, user_id: str) -> None:
    trace, caller = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    stack.curl("/v1/orders", "-X", "POST", "-d", order_body(user_id), "-H", f"traceparent: 00-{trace}-{caller}-01")
    began = time.monotonic()
    found: dict[str, Any] = {}
    while not complete(found, caller):
        assert time.monotonic() - began < 30, json.dumps(found, indent=1)
        found = stack.curl(f"/api/traces/{trace}")
    (data,) = found["data"]
    services = {data["processes"][span["processID"]]["serviceName"] for span in data["spans"]}
    assert services == {"gateway", "order", "sync"}


def complete(found: Any, caller: str) -> bool:
    """Whether a trace has what it must have, and no orphan but the caller's own child."""
    if not found.get("data"):
        return False
    (data,) = found["data"]
    spans = {span["spanID"]: span for span in data["spans"]}
    parents = {i: s["references"][0]["spanID"] for i, s in spans.items() if s["references"]}
    service = {i: data["processes"][s["processID"]]["serviceName"] for i, s in spans.items()}
    roots = [i for i in spans if parents.get(i) not in spans]
    called = {(service[parents[i]], service[i]) for i in spans if parents.get(i) in spans}
    statements = {service[i] for i, s in spans.items() if any(t["key"].startswith("db.") for t in s["tags"])}
    return (
        [parents.get(i) for i in roots] == [caller]
        and service[roots[0]] == "gateway"
        and {("gateway", "order"), ("order", "sync")} <= called
        and statements == {"order", "sync"}
    )


def test_what_is_wrong_is_a_4xx_in_one_shape(stack: Stack, user_id: str) -> None:
    body = json.loads(order_body(user_id))
    cases: dict[str, tuple[str, ...]] = {
        "malformed JSON": ("/v1/orders", "-X", "POST", "-d", "{"),
        "wrong type": ("/v1/orders", "-X", "POST", "-d", json.dumps({**body, "lines": 7})),
        "unknown query parameter": ("/v1/orders?sise=3",),
        "wrong verb": (f"/v1/orders/{uuid.uuid4()}", "-X", "PUT", "-d", "{}"),
        "unknown path": ("/v2/nothing",),
        "missing field": ("/v1/orders", "-X", "POST", "-d", json.dumps({**body, "requestId": ""})),
        "invalid field": ("/v1/orders", "-X", "POST", "-d", json.dumps({**body, "requestId": "7"})),
        "no lines": ("/v1/orders", "-X", "POST", "-d", json.dumps({**body, "lines": []})),
        "unknown id": (f"/v1/orders/{uuid.uuid4()}",),
        "NUL in text": ("/v1/orders", "-X", "POST", "-d", json.dumps({**body, "customerId": "a\0b"})),
        "NUL in a path": ("/v1/orders/a%00b",),
        "bad page token": ("/v1/orders?page_token=x",),
        "negative page size": ("/v1/orders?page_size=-1",),
    }
    for name, (path, *words) in cases.items():
        text = stack.curl_text(path, *words, "-w", "\n%{http_code}")
        body_text, status = text.rsplit("\n", 1)
        assert 400 <= int(status) < 500, (name, text)
        error = json.loads(body_text)
        infos = [d for d in error["details"] if d["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"]
        assert error["code"], name
        assert error["message"], name
        assert len(infos) == 1, (name, error)


def test_a_body_of_5_mb_is_refused(stack: Stack, tmp_path: Any) -> None:
    large = tmp_path / "large.json"
    large.write_text(json.dumps({"requestId": "x" * 5_000_000}))
    text = stack.curl_text("/v1/orders", "-X", "POST", "-d", f"@{large}", "-w", "\n%{http_code}")
    body_text, status = text.rsplit("\n", 1)
    assert 400 <= int(status) < 500
    assert json.loads(body_text)["details"]


def test_unknown_body_fields_are_ignored(stack: Stack, user_id: str) -> None:
    body = {**json.loads(order_body(user_id)), "nonsense": True}
    assert stack.curl("/v1/orders", "-X", "POST", "-d", json.dumps(body))["id"]


def test_a_process_that_dies_is_started_again_and_no_call_is_lost(stack: Stack) -> None:
    before = stack.processes()["order-1"]
    os.kill(before["pid"], signal.SIGKILL)
    began = time.monotonic()
    while (after := stack.processes()["order-1"])["state"] != "ready" or after["restarts"] == before["restarts"]:
        assert time.monotonic() - began < 40, after
        assert set(stack.curl("/v1/orders?page_size=1")) <= {"orders", "nextPageToken"}
    assert after["pid"] != before["pid"]


def test_logs_are_shown_and_an_unknown_name_is_told(stack: Stack) -> None:
    assert stack.mesh("logs", "sidecar").stdout
    done = stack.mesh("logs", "nothing", check=False)
    assert done.returncode != 0
    assert "nothing" in done.stderr


def test_orders_are_worked_off(stack: Stack, user_id: str) -> None:
    known = stack.curl(f"/v1/orders?customer_id={user_id}&page_size=1000").get("orders")
    order = known[-1] if known else stack.curl("/v1/orders", "-X", "POST", "-d", order_body(user_id))
    began = time.monotonic()
    while order["state"] not in ("STATE_COMPLETED", "STATE_FAILED"):
        assert time.monotonic() - began < 60, order
        time.sleep(0.2)
        order = stack.curl(f"/v1/orders/{order['id']}")
    active = stack.curl(f"/v1/users/{user_id}").get("active", False)
    assert order["state"] == ("STATE_COMPLETED" if active else "STATE_FAILED"), order


def test_tasks_run_at_their_times_and_their_results_are_listed(stack: Stack) -> None:
    began = time.monotonic()
    while "nextPageToken" not in (page := stack.curl("/v1/taskResults?page_size=2&task=clean-up")):
        assert time.monotonic() - began < 60, page
    first, second = page["taskResults"]
    assert first["startTime"] > second["startTime"]
    assert (second["state"], second["summary"]) == ("STATE_SUCCEEDED", "0 task results deleted")
    assert stack.curl(f"/v1/taskResults?start_time_to={second['startTime']}&task=clean-up&state=STATE_FAILED") == {}
