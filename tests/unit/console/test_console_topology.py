"""The service map as JSON."""

from __future__ import annotations

from typing import Any

import pytest

from console.digest import STEP, Digest
from console.topology import dependencies, service_map, service_page
from tests.fixtures.folded import CLIENT, NOW, PRODUCER, Folded, call, serve
from tests.fixtures.otlp import batch, span


def place(health: str, address: str = "127.0.0.1:1") -> dict[str, Any]:
    return {"id": "x", "address": address, "zone": "", "version": "", "health": health, "note": "", "restarts": 0}


@pytest.fixture
def folded() -> Folded:
    """One call of order to sync, one of sync to Postgres, one to an address."""
    found = Folded()
    found.take(call(), serve(2, 1))
    sql = span(1, 3, kind=CLIENT, attributes={"db.system.name": "postgresql", "db.namespace": "shop"})
    http = span(1, 4, kind=CLIENT, attributes={"http.url": "http://127.0.0.1:9/x"})
    found.take(batch("sync", sql, http))
    found.wait()
    return found


def nodes(tree: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {node["name"]: (node["kind"], node["health"]) for node in tree["nodes"]}


def test_nodes_and_edges(folded: Folded) -> None:
    tree = service_map(folded.digest, {}, {}, folded.now)
    assert nodes(tree) == {
        "127.0.0.1:9": ("unknown", "ok"),
        "order": ("service", "unknown"),
        "postgresql/shop": ("store", "ok"),
        "sync": ("service", "ok"),
    }
    edges = {(edge["from"], edge["to"]): edge["kind"] for edge in tree["edges"]}
    assert edges == {("order", "sync"): "rpc", ("sync", "postgresql/shop"): "sql", ("sync", "127.0.0.1:9"): "http"}
    assert 0.01 < tree["edges"][0]["rate"] <= 1 / 60
    assert tree["edges"][0]["p99"] == pytest.approx(1, rel=0.1)


def test_processes_give_stores_and_addresses_a_name_and_health(folded: Folded) -> None:
    processes = {"postgres": place("critical"), "scim": place("passing", "127.0.0.1:9")}
    tree = service_map(folded.digest, {}, processes, folded.now)
    assert nodes(tree)["postgresql/shop"] == ("store", "down")
    assert nodes(tree)["scim"] == ("unknown", "ok")
    assert "127.0.0.1:9" not in nodes(tree)


@pytest.mark.parametrize(
    ("healths", "wanted"),
    [(["passing"], "ok"), (["passing", "critical"], "degraded"), (["warning"], "degraded"), (["critical"], "down")],
)
def test_health_of_the_instances(folded: Folded, healths: list[str], wanted: str) -> None:
    tree = service_map(folded.digest, {"sync": [place(one) for one in healths]}, {}, folded.now)
    assert nodes(tree)["sync"] == ("service", wanted)


def test_failing_calls_degrade() -> None:
    folded = Folded()
    folded.take(serve(1, 0, error="boom"))
    assert nodes(service_map(folded.digest, {}, {}, folded.now))["sync"] == ("service", "degraded")


def test_a_service_that_nobody_calls_is_on_the_map() -> None:
    tree = service_map(Digest(lambda *_: None), {"quiet": [place("passing")]}, {}, NOW)
    assert nodes(tree) == {"quiet": ("service", "ok")}


def test_kinds_of_one_pair_are_one_edge() -> None:
    folded = Folded()
    redis = span(1, 1, kind=CLIENT, attributes={"db.system.name": "redis"})
    event = span(1, 2, kind=PRODUCER, attributes={"messaging.system": "redis"})
    folded.take(batch("order", redis, event))
    tree = service_map(folded.digest, {}, {}, folded.now)
    assert [(edge["to"], edge["kind"]) for edge in tree["edges"]] == [("redis", "event+redis")]
    assert nodes(tree)["redis"] == ("store", "ok")


def test_an_edge_stays_when_its_calls_are_over(folded: Folded) -> None:
    tree = service_map(folded.digest, {}, {}, folded.now + 20 * STEP)
    assert [edge["rate"] for edge in tree["edges"]] == [0, 0, 0]
    assert tree["edges"][0]["p99"] is None


def test_the_page_of_a_service(folded: Folded) -> None:
    page = service_page(folded.digest, "sync", 15, folded.now)
    [method] = page["methods"]
    assert (method["name"], len(method["series"])) == ("work", 91)
    assert sum(point["rate"] for point in method["series"]) == pytest.approx(0.1)
    assert page["total"] == {key: value for key, value in method.items() if key != "name"}
    assert page["recent_errors"] == []
    assert service_page(folded.digest, "nobody", 1, folded.now)["methods"] == []


def test_dependencies(folded: Folded) -> None:
    found = dependencies(folded.digest, NOW - 60 * STEP, folded.now, folded.now)
    assert {(one["parent"], one["child"]): one["callCount"] for one in found} == {
        ("order", "sync"): 1,
        ("sync", "127.0.0.1:9"): 1,
        ("sync", "postgresql/shop"): 1,
    }
    assert dependencies(folded.digest, folded.now + STEP, folded.now + 2 * STEP, folded.now) == []
    assert len(dependencies(folded.digest, -(10**20), folded.now, folded.now)) == 3
